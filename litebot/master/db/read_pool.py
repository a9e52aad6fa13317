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

from litebot.store import dbapi

THREADS = 4
# How many of the threads may be busy with long answers; the last one is left to short ones.
MAX_LONG_READS = THREADS - 1
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


class Reading:
    """One piece of work that a reader does, or will do; may be aborted from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reader: Reader | None = None
        self.is_aborted = False

    def abort(self) -> None:
        """Abort the statement that it runs, and begin no other."""
        with self._lock:
            self.is_aborted = True
            if self._reader is not None:
                self._reader.interrupt()

    def begin(self, reader: Reader) -> None:
        """Note which reader does it."""
        with self._lock:
            self._reader = reader

    def end(self) -> None:
        """Note that the reader has done it, and may do other work."""
        with self._lock:
            self._reader = None


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

        If it writes, it fails with the error of the database.  It is aborted if the Deferred is
        cancelled.
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
        reading = Reading()
        d: defer.Deferred[Any] = defer.Deferred(lambda _: reading.abort())

        def fire(success: bool, result: Any) -> None:
            if not reading.is_aborted:
                (d.callback if success else d.errback)(result)

        def done(success: bool, result: Any) -> None:
            self._reactor.callFromThread(fire, success, result)

        run = self._run_in_thread
        self._pool.callInThreadWithCallback(done, run, reading, how, *args, **kwargs)
        return d

    def _call_with_connection(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._local.reader.engine.connect() as conn:
            result = callable(conn, *args, **kwargs)
            if isinstance(result, sa.engine.Result):
                raise TypeError(f"{callable} returned rows that are not fetched yet")
            return result

    def _call_with_sql(self, callable: Callable[..., Any], *args: Any) -> Any:
        return self._local.reader.run_sql(callable, *args)

    def _run_in_thread(
        self, reading: Reading, how: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if not hasattr(self._local, "reader"):
            self._local.reader = self._open()
            self._readers.append(self._local.reader)
        reader: Reader = self._local.reader
        self._busy.add(reader)
        self._local.reading = reading
        reading.begin(reader)
        try:
            if self._stopping or reading.is_aborted:
                raise dbapi.OperationalError("the database is being closed, or the read aborted")
            return self._run(reader, how, *args, **kwargs)
        finally:
            reading.end()
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
