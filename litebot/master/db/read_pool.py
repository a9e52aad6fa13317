"""Read-only connections, which serve requests: in threads, or inline on the reactor's thread.

A request of the web page or the REST API may read a large history, and builds must not wait for it.
The caller decides what is read here: a request of the REST API sets `read_snapshot`, as does a
command that follows a build, and the database work that its coroutine then submits runs on these
connections.  They can only read: work that turns out to write fails before it has changed anything,
and is run on the connection that writes instead.

Most requests read a page of a list, which takes less time than a switch between two threads.  So
work that is submitted while `may_read_inline` is set begins on the reactor's thread (an *inline
read*).  If that takes too long it is abandoned and begins again in a thread.
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
INTERRUPT_EVERY_S = 0.002


class ReadSnapshot:
    """What one request sees: at least all work that was submitted before its first read.

    One that `renews` sees at least all work that was submitted before each of its reads.
    """

    def __init__(self, *, renews: bool = False) -> None:
        self.renews = renews
        self.has_waited = False  # until all work submitted before it is committed

    def mark_waited(self) -> None:
        """Record that all work submitted before it is committed; has no effect if it `renews`."""
        self.has_waited = not self.renews


read_snapshot: ContextVar[ReadSnapshot | None] = ContextVar("read_snapshot", default=None)
may_read_inline: ContextVar[bool] = ContextVar("may_read_inline", default=False)


class Reader(Protocol):
    """A read-only connection that belongs to one thread."""

    @property
    def engine(self) -> sa.Engine:
        """An engine whose connections all are this one."""

    def run_sql(self, callable: Callable[..., Any], *args: Any) -> Any:
        """Return callable(sql, *args), called with a store.sql.Sql."""

    def begin(self) -> None:
        """Begin a snapshot: see the current state until end()."""

    def end(self) -> None:
        """End the snapshot; does nothing if there is none."""

    def interrupt(self) -> None:
        """Abort the running statement, if there is one.  May be called in any thread."""

    def close(self) -> None:
        """Close the connection.  May be called in any thread while no other one uses it."""


class ReadPool:
    """Up to THREADS threads, each with a connection of its own, which `_open` makes."""

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
        """Call callable(connection, *args, **kwargs) in a thread, on one snapshot of the database.

        If it writes, it fails with the error of the database.
        """
        return self._run_in_pool(self._call_with_connection, callable, *args, **kwargs)

    def run_sql(self, callable: Callable[..., Any], *args: Any) -> defer.Deferred[Any]:
        """Like run, with a store.sql.Sql instead of a connection."""
        return self._run_in_pool(self._call_with_sql, callable, *args)

    def _run_in_pool(
        self, how: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> defer.Deferred[Any]:
        if not self._started:
            self._started = True
            self._pool.start()
        return threads.deferToThreadPool(
            self._reactor, self._pool, self._run_in_thread, how, *args, **kwargs
        )

    def _call_with_connection(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._local.reader.engine.connect() as conn:
            result = callable(conn, *args, **kwargs)
            if isinstance(result, sa.engine.Result):
                raise TypeError(f"{callable} returned rows that are not fetched yet")
            return result

    def _call_with_sql(self, callable: Callable[..., Any], *args: Any) -> Any:
        return self._local.reader.run_sql(callable, *args)

    def _run_in_thread(self, how: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
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
        """Abort all running statements.  May be called in any thread."""
        for reader in list(self._busy):
            reader.interrupt()

    def stop(self) -> None:
        """Abort what runs, refuse what waits for a thread, and close the connections."""
        if not self._started:
            return
        self._stopping = True
        while self._busy:
            self.interrupt()
            time.sleep(INTERRUPT_EVERY_S)  # an interrupt between two statements has no effect
        self._pool.stop()
        for reader in self._readers:
            reader.close()
        self._readers.clear()
        self._started = self._stopping = False
