"""Read-only connections, for what visitors ask: a glance on the reactor's thread, or in threads.

What a visitor of the web page or the REST API asks may walk a large history, and builds must not
wait for it.  Who asks decides: a request of the REST API sets `read_snapshot`, as does a command
that follows a build, and the database work that its coroutine then asks for runs here.  These
connections only read: work that turns out to write fails before it has changed anything, and runs
on the connection that writes instead.

Most of what is asked is a page of a list, which is read sooner than two threads could take turns.
What is asked while `may_read_inline` is set is therefore begun on the reactor's thread (an *inline
read*), and again in a thread if that takes too long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from typing import Protocol

import sqlalchemy as sa
from buildbot.util.twisted import ThreadPool
from twisted.internet import defer
from twisted.internet import threads

from litebot.store import dbapi

THREADS = 4
INTERRUPT_AGAIN_S = 0.002


class ReadSnapshot:
    """What a visitor asks at one time sees what was there then; what `renews`, each time anew."""

    def __init__(self, *, renews: bool = False) -> None:
        self.renews = renews
        self.has_waited = False  # for what was asked before it to be committed

    def note_waited(self) -> None:
        """All that was asked before it is done and committed, or its first look has seen that."""
        self.has_waited = not self.renews


read_snapshot: ContextVar[ReadSnapshot | None] = ContextVar("read_snapshot", default=None)
may_read_inline: ContextVar[bool] = ContextVar("may_read_inline", default=False)


class Reader(Protocol):
    """A read-only connection of a thread."""

    @property
    def engine(self) -> sa.Engine:
        """All of whose connections are this one."""

    def run_sql(self, callable: Callable[..., Any], *args: Any) -> Any:
        """callable(sql, *args) with a store.sql.Sql."""

    def begin(self) -> None:
        """See from now on what is there now."""

    def end(self) -> None:
        """End that; does nothing without it."""

    def interrupt(self) -> None:
        """End the statement that runs, if one does; from any thread."""

    def close(self) -> None:
        """Close it, from any thread that no other one uses it in."""


class ReadPool:
    """A few threads, each with a connection of its own, which `_open` makes."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=THREADS, name="readers")
        self._local = threading.local()
        self._readers: list[Reader] = []
        self._busy: set[Reader] = set()
        self._started = False
        self._stopping = False

    def _open(self) -> Reader:
        raise NotImplementedError

    def run(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> defer.Deferred[Any]:
        """callable(connection, *args, **kwargs) in a thread, on one snapshot of the database.

        Fails, where it writes, with what the database says to that.
        """
        return self._start(self._on_connection, callable, *args, **kwargs)

    def run_sql(self, callable: Callable[..., Any], *args: Any) -> defer.Deferred[Any]:
        """As run, with a store.sql.Sql instead of a connection."""
        return self._start(self._on_sql, callable, *args)

    def _start(self, how: Callable[..., Any], *args: Any, **kwargs: Any) -> defer.Deferred[Any]:
        if not self._started:
            self._started = True
            self._pool.start()
        return threads.deferToThreadPool(
            self._reactor, self._pool, self._in_thread, how, *args, **kwargs
        )

    def _on_connection(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._local.reader.engine.connect() as conn:
            result = callable(conn, *args, **kwargs)
            if isinstance(result, sa.engine.Result):
                raise TypeError(f"{callable} returned rows that are not fetched yet")
            return result

    def _on_sql(self, callable: Callable[..., Any], *args: Any) -> Any:
        return self._local.reader.run_sql(callable, *args)

    def _in_thread(self, how: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self._local, "reader"):
            self._local.reader = self._open()
            self._readers.append(self._local.reader)
        reader: Reader = self._local.reader
        self._busy.add(reader)
        try:
            if self._stopping:
                raise dbapi.OperationalError("the database is being closed")
            return self._run(reader, how, *args, **kwargs)
        finally:
            reader.end()
            self._busy.discard(reader)

    def _run(self, reader: Reader, how: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        reader.begin()
        return how(*args, **kwargs)

    def interrupt(self) -> None:
        """End the statements that run; from any thread."""
        for reader in list(self._busy):
            reader.interrupt()

    def stop(self) -> None:
        """Interrupt what runs, refuse what waits for a thread, and close the connections."""
        if not self._started:
            return
        self._stopping = True
        while self._busy:
            self.interrupt()
            time.sleep(INTERRUPT_AGAIN_S)  # one that was between two statements did not notice
        self._pool.stop()
        for reader in self._readers:
            reader.close()
        self._readers.clear()
        self._started = self._stopping = False
