"""Read-only connections, for what visitors ask: a glance on the reactor's thread, or in threads.

What a visitor of the web page or the REST API asks may walk a large history; the builds must not
wait for it.  Who asks decides: a request of the REST API sets `browsing`, as does who follows a
build, and the database work that its coroutine then asks for runs here.  The connections are
query_only, so work that turns out to write fails here before it has changed anything, and the turn
queue runs it instead.

Most of what is asked is a page of a list, which is read sooner than two threads have taken turns:
what is asked while `glancing` is begun on the reactor's thread, and in a thread if that takes long.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from typing import Protocol

import sqlalchemy as sa
from buildbot.util.twisted import ThreadPool
from twisted.internet import defer
from twisted.internet import threads

from litebot.store import dbapi
from litebot.store.connection import READER
from litebot.store.connection import connect
from litebot.store.dialect import engine_on
from litebot.store.sql import CountingSql
from litebot.store.sql import Counts

THREADS = 4
INTERRUPT_AGAIN_S = 0.002

# How often SQLite asks whether a glance goes on (in steps of its virtual machine: about each row),
# and for how long it does.
GLANCE_STEPS = 50
GLANCE_S = 0.004
# For how long none begins after one that took longer, so that those cost builds next to nothing.
GLANCE_AGAIN_S = 0.2


class Visit:
    """What a visitor asks at one time sees what was there then; what `lasts`, each time anew."""

    def __init__(self, *, lasts: bool = False) -> None:
        self.lasts = lasts
        self.has_waited = False  # for what was asked before it to be committed

    def note_waited(self) -> None:
        """All that was asked before it is done and committed, or its first look has seen that."""
        self.has_waited = not self.lasts


browsing: ContextVar[Visit | None] = ContextVar("browsing", default=None)
glancing: ContextVar[bool] = ContextVar("glancing", default=False)


class GlanceRefused(Exception):
    """It has to go to a thread at once."""


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


class ReadingThreads:
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


class FileReader:
    """A Reader of the state file."""

    def __init__(self, path: Path, counts: Counts) -> None:
        self._handle = connect(path, READER)
        self.engine = engine_on(self._handle)
        self._sql = CountingSql(self._handle, self.engine, counts)
        self.run_sql = self._sql.run
        self.interrupt = self._handle.interrupt
        self.close = self._handle.close

    def begin(self) -> None:
        self._handle.execute("BEGIN")

    def end(self) -> None:
        if self._handle.in_transaction:
            self._handle.execute("ROLLBACK")


class GlancingReader(FileReader):
    """For the reactor's thread: what takes longer than GLANCE_S fails, and what has to wait."""

    def __init__(self, path: Path, counts: Counts) -> None:
        super().__init__(path, counts)
        self._ends_at = math.inf
        self._handle.set_busy_timeout(0)
        self._handle.set_progress_handler(self.is_over, GLANCE_STEPS)

    def begin(self) -> None:
        super().begin()
        self._ends_at = time.monotonic() + GLANCE_S

    def end(self) -> None:
        # SQLite counts the steps of all statements together: ROLLBACK, too, would be interrupted,
        # and an old snapshot keeps the log from ever being emptied.
        self._ends_at = math.inf
        super().end()

    def is_over(self) -> bool:
        """Whether what has begun takes too long."""
        return time.monotonic() > self._ends_at


class Readers(ReadingThreads):
    """Of the state file.  What writes fails with ReadOnlyError (`orig` of SQLAlchemy's error)."""

    def __init__(self, path: Path, reactor: Any) -> None:
        super().__init__(reactor)
        self._path = path
        self._counts: Counts = {}
        self._glancing: GlancingReader | None = None
        self._glances_from = 0.0

    def glance(self, callable: Callable[..., Any], *args: Any) -> Any:
        """As run_sql, but at once, on the reactor's thread; the result.  May fail half-way.

        Fails with GlanceRefused for a while after one that took too long.
        """
        if time.monotonic() < self._glances_from:
            raise GlanceRefused
        if self._glancing is None:
            self._glancing = GlancingReader(self._path, self._counts)
        try:
            self._glancing.begin()
            return self._glancing.run_sql(callable, *args)
        except Exception:
            if self._glancing.is_over():
                self._glances_from = time.monotonic() + GLANCE_AGAIN_S
            raise
        finally:
            self._glancing.end()

    def stop(self) -> None:
        super().stop()
        if self._glancing is not None:
            self._glancing.close()
            self._glancing = None

    def _open(self) -> Reader:
        return FileReader(self._path, self._counts)
