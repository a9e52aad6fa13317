"""Read-only connections in threads, for what visitors ask.

What a visitor of the web page or the REST API asks may walk a large history; the builds must not
wait for it.  Who asks decides: a request of the REST API sets `browsing`, as does who follows a
build, and the database work that its coroutine then asks for runs here.  The connections are
query_only, so work that turns out to write fails here before it has changed anything, and the turn
queue runs it instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import apsw
import sqlalchemy as sa
from buildbot.util.twisted import ThreadPool
from twisted.internet import defer
from twisted.internet import threads

from litebot.store import dbapi
from litebot.store.connection import READER
from litebot.store.connection import connect
from litebot.store.dialect import engine_on
from litebot.store.sql import CountingSql

THREADS = 4
INTERRUPT_AGAIN_S = 0.002

browsing: ContextVar[bool] = ContextVar("browsing", default=False)


class Readers:
    """A few threads, each with a read-only connection of its own to the state file."""

    def __init__(self, path: Path, reactor: Any) -> None:
        self._path = path
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=THREADS, name="readers")
        self._local = threading.local()
        self._handles: list[apsw.Connection] = []
        self._busy: set[apsw.Connection] = set()
        self._started = False
        self._stopping = False

    def run(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> defer.Deferred[Any]:
        """callable(connection, *args, **kwargs) in a thread, on one snapshot of the file.

        Fails with ReadOnlyError (as the `orig` of SQLAlchemy's error) where it writes.
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
        with self._local.engine.connect() as conn:
            result = callable(conn, *args, **kwargs)
            if isinstance(result, sa.engine.Result):
                raise TypeError(f"{callable} returned rows that are not fetched yet")
            return result

    def _on_sql(self, callable: Callable[..., Any], *args: Any) -> Any:
        return self._local.sql.run(callable, *args)

    def _in_thread(self, how: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self._local, "handle"):
            self._local.handle = connect(self._path, READER)
            self._local.engine = engine_on(self._local.handle)
            self._local.sql = CountingSql(self._local.handle, self._local.engine)
            self._handles.append(self._local.handle)
        handle: apsw.Connection = self._local.handle
        self._busy.add(handle)
        try:
            if self._stopping:
                raise dbapi.OperationalError("the database is being closed")
            handle.execute("BEGIN")
            return how(*args, **kwargs)
        finally:
            if handle.in_transaction:
                handle.execute("ROLLBACK")
            self._busy.discard(handle)

    def stop(self) -> None:
        """Interrupt what runs, refuse what waits for a thread, and close the connections."""
        if not self._started:
            return
        self._stopping = True
        while busy := list(self._busy):
            for handle in busy:
                handle.interrupt()
            time.sleep(INTERRUPT_AGAIN_S)  # one that was between two statements did not notice
        self._pool.stop()
        for handle in self._handles:
            handle.close()
        self._handles.clear()
        self._started = self._stopping = False
