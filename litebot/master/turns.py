"""The turn queue: all database work of one reactor turn in one transaction.

Stands where Buildbot's DBThreadPool stands and has its interface, so that every connector
component and plugin runs on it unchanged.  Work is queued; once per reactor turn the queue is
drained in order inside one BEGIN IMMEDIATE ... COMMIT, each piece in a savepoint of its own, and
the results are delivered after the commit, in a later turn than the one that asked, as from a
thread.  Work that only reads for a visitor goes to read-only connections in threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import apsw
import sqlalchemy as sa
from buildbot.db.buildrequests import AlreadyClaimedError
from buildbot.db.buildsets import AlreadyCompleteError
from buildbot.db.changesources import ChangeSourceAlreadyClaimedError
from buildbot.db.logs import LogSlugExistsError
from buildbot.db.schedulers import SchedulerAlreadyClaimedError
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure

from litebot.errors import StoreError
from litebot.errors import StoreFailed
from litebot.master.checkpoints import Checkpointer
from litebot.master.readers import Readers
from litebot.master.readers import browsing
from litebot.store import dbapi
from litebot.store.dialect import engine_on

TURN_S = 0.010
BUSY_RETRY_S = 0.010
BUSY_SAY_EVERY_S = 5.0
BUSY_GIVE_UP_S = 60.0

# Answers rather than faults: Buildbot's components raise these to say that somebody was faster.
EXPECTED = (
    AlreadyClaimedError,
    AlreadyCompleteError,
    ChangeSourceAlreadyClaimedError,
    LogSlugExistsError,
    SchedulerAlreadyClaimedError,
)


@dataclass(slots=True, eq=False)
class Work:
    """One call of do(): what to run with which arguments, and whom to tell."""

    callable: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    deferred: defer.Deferred[Any]
    with_engine: bool = False
    for_reader: bool = False
    result: Any = None

    def deliver(self) -> None:
        """Tell the one who asked."""
        if isinstance(self.result, Failure):
            self.deferred.errback(self.result)
        else:
            self.deferred.callback(self.result)


def _in_transaction(
    conn: sa.engine.Connection, callable: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    with conn.begin():
        return callable(conn, *args, **kwargs)


class TurnQueue:
    """Runs database work on the thread that made it (the reactor's), a transaction a turn.

    `handle` is the one connection that writes and `path` its file, or None for one in memory,
    which nobody else can read and nothing has to checkpoint.  `on_failure` is called once, with a
    StoreFailed, when the disk fails; from then on all work fails with it.
    """

    def __init__(
        self,
        handle: apsw.Connection,
        reactor: Any,
        path: Path | None = None,
        on_failure: Callable[[StoreFailed], None] | None = None,
    ) -> None:
        self.engine = engine_on(handle, check=self._check_thread, on_fatal=self._note_fatal)
        self.reactor = reactor
        self.running = False
        self.failure: StoreFailed | None = None
        self._handle = handle
        self._thread = threading.get_ident()
        self._readers = Readers(path, reactor) if path else None
        self._checkpointer = Checkpointer(handle, path, reactor, self.fail) if path else None
        self._on_failure = on_failure
        self._queue: deque[Work] = deque()
        self._scheduled = False
        self._in_turn = False
        self._connection: sa.engine.Connection | None = None
        self._fatal: dbapi.Error | None = None
        self._writes: set[CodeType | None] = set()
        self._busy_since: float | None = None
        self._busy_said_at = 0.0

    # what Buildbot calls

    def start(self) -> None:
        """Accept work."""
        self.running = True

    @defer.inlineCallbacks
    def stop(self) -> Any:
        """Finish what was asked so far, cut visitors' reads short, and close every connection."""
        if not self.running:
            return
        try:
            while self._queue:
                yield self.do(lambda _conn: None)
        except StoreFailed:
            pass  # on_failure was told; closing is all that is left
        self.running = False
        if self._readers is not None:
            self._readers.stop()
        if self._checkpointer is not None:
            yield self._checkpointer.stop()
        if self._connection is not None:
            self._connection.close()
        self.engine.dispose()
        self._handle.close()

    def do(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> defer.Deferred[Any]:
        """Run callable(connection, *args, **kwargs); its result comes after the commit."""
        work = Work(callable, args, kwargs, defer.Deferred())
        if self._readers is not None and browsing.get():
            work.for_reader = getattr(callable, "__code__", None) not in self._writes
        return self._ask(work)

    def do_with_transaction(
        self, callable: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> defer.Deferred[Any]:
        """As do, inside `with connection.begin()`."""
        return self._ask(Work(_in_transaction, (callable, *args), kwargs, defer.Deferred()))

    def do_with_engine(
        self, callable: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> defer.Deferred[Any]:
        """As do, with the engine instead of a connection."""
        return self._ask(Work(callable, args, kwargs, defer.Deferred(), with_engine=True))

    # the turn

    def _ask(self, work: Work) -> defer.Deferred[Any]:
        if not self.running or self.failure is not None:
            self._refuse(work)
            return work.deferred
        self._queue.append(work)
        self._schedule()
        return work.deferred

    def _schedule(self) -> None:
        # callFromThread and not callLater: it is the cheaper of the two, and under a test
        # reactor it runs at once, as Buildbot's tests expect of their thread pool.
        if not self._scheduled and not self._in_turn:
            self._scheduled = True
            self.reactor.callFromThread(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if not self._queue or not self.running:
            return
        done: list[Work] = []
        reads: list[Work] = []
        self._in_turn = True
        try:
            self._drain(done, reads)
            if self._handle.in_transaction:
                self._handle.execute("COMMIT")
        except (apsw.Error, dbapi.Error, sa.exc.DBAPIError) as error:
            # None of it is on disk, so all of it fails together with what waits.
            self._queue.extendleft(reversed(done + reads))
            done, reads = [], []
            self.fail(error)
        finally:
            self._in_turn = False
        for work in reads:
            self._read(work)
        for work in done:
            work.deliver()
        if self._queue:
            self._schedule()

    def _drain(self, done: list[Work], reads: list[Work]) -> None:
        """Run queued work until TURN_S is over.  Raises where the disk fails."""
        ends_at = time.monotonic() + TURN_S
        while self._queue:
            if self._queue[0].for_reader:
                # Starts after this turn's commit, so that it sees all that was asked before it.
                reads.append(self._queue.popleft())
                continue
            if not self._handle.in_transaction and not self._begin():
                return
            work = self._queue.popleft()
            done.append(work)
            work.result = self._run(work)
            self._settle()
            if self._fatal is not None:
                raise self._fatal
            if time.monotonic() > ends_at:
                return

    def _begin(self) -> bool:
        """Take the write lock; false where another process has it and the turn has to wait."""
        try:
            self._handle.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            self._wait_for_lock()
            return False
        self._busy_since = None
        return True

    def _run(self, work: Work) -> Any:
        """The result of one piece of work, or its Failure."""
        try:
            result = work.callable(self._argument(work), *work.args, **work.kwargs)
            if isinstance(result, sa.engine.Result):
                raise TypeError(f"{work.callable} returned rows that are not fetched yet")
            return result
        except BaseException as error:  # whatever it is, those around it must get their answers
            if not isinstance(error, EXPECTED) and self._fatal is None:
                log.err(error, "Got fatal Exception on DB")
            return Failure()

    def _settle(self) -> None:
        """Undo what a piece of work did not commit, and what it set on the connection."""
        conn = self._connection
        if conn is None or conn.closed:
            return
        conn.rollback()
        if conn.get_execution_options():
            conn.close()

    def _argument(self, work: Work) -> sa.Engine | sa.engine.Connection:
        if work.with_engine:
            return self.engine
        if self._connection is None or self._connection.closed:
            self._connection = self.engine.connect()
        return self._connection

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise dbapi.ProgrammingError(
                "the master's database connection belongs to the reactor's thread; use"
                " master.db.pool.do"
            )

    # reads for visitors

    def _read(self, work: Work) -> None:
        assert self._readers is not None
        d = self._readers.run(work.callable, *work.args, **work.kwargs)
        d.addCallbacks(work.deferred.callback, self._read_failed, errbackArgs=(work,))

    def _read_failed(self, failure: Failure, work: Work) -> None:
        error = getattr(failure.value, "orig", failure.value)
        if not self.running or self.failure is not None:
            self._refuse(work)
        elif isinstance(error, dbapi.ReadOnlyError):
            # A wrong guess: it writes.  Nothing has happened yet, so run it where writing works.
            self._writes.add(getattr(work.callable, "__code__", None))
            work.for_reader = False
            self._ask(work)
        elif isinstance(error, dbapi.FATAL):
            self.fail(error)
            self._refuse(work)
        else:
            if not isinstance(error, EXPECTED):
                log.err(failure, "Got fatal Exception on DB")
            work.deferred.errback(failure)

    # when the disk does not do its part

    def _note_fatal(self, error: dbapi.Error) -> None:
        self._fatal = error

    def _wait_for_lock(self) -> None:
        """Try again soon: another process writes to the file, which it should not.

        Raises BusyError when that has gone on for BUSY_GIVE_UP_S.
        """
        now = time.monotonic()
        if self._busy_since is None:
            self._busy_since = self._busy_said_at = now
        waited_s = now - self._busy_since
        if waited_s > BUSY_GIVE_UP_S:
            raise dbapi.BusyError(f"locked for {BUSY_GIVE_UP_S:.0f} s")
        if now - self._busy_said_at > BUSY_SAY_EVERY_S:
            self._busy_said_at = now
            log.msg(
                f"{self._handle.filename} has been locked by another process for"
                f" {waited_s:.0f} s; waiting until it lets go"
            )
        self._scheduled = True
        self.reactor.callLater(BUSY_RETRY_S, self._turn)

    def fail(self, error: Exception) -> None:
        """Fail all work that waits and all that comes, and say so once."""
        if self.failure is None:
            self.failure = store_failed(self._handle.filename, error)
            if self._handle.in_transaction:
                try:
                    self._handle.execute("ROLLBACK")
                except apsw.Error as second:
                    log.msg(f"rollback after {error}: {second}")
            if self._on_failure is not None:
                self._on_failure(self.failure)
        while self._queue:
            self._refuse(self._queue.popleft())

    def _refuse(self, work: Work) -> None:
        why = self.failure or StoreError("the database is closed")
        # One for each: on a shared one the tracebacks of all who let it pass would pile up.
        work.result = Failure(type(why)(why.what, why.hint))
        work.deliver()


def store_failed(filename: str, error: Exception) -> StoreFailed:
    """What to tell the user when the disk failed under a running master."""
    error = getattr(error, "orig", None) or error
    if isinstance(error, apsw.Error):
        error = dbapi.translate(error)
    kept = ", and nothing that it had acknowledged is lost"
    if isinstance(error, dbapi.FullDiskError):
        what, hint = "no space is left to write it", "free some space, then: litebot start"
    elif isinstance(error, dbapi.DamagedError):
        what, hint = "a page of it is damaged", "restore a backup of it; the old file may tell more"
        kept = ""
    elif isinstance(error, dbapi.BusyError):
        what, hint = "another process keeps it locked", "stop the other process: fuser -v FILE"
    elif isinstance(error, dbapi.ReadOnlyError):
        what, hint = "it can't be written any more", "check its permissions and its file system"
    else:
        what, hint = "the operating system refused to read or write it", "check the disk: dmesg"
    code = getattr(error, "code", None)
    because = f"{error}, code {code}" if code is not None else f"{error}"
    return StoreFailed(
        f"{filename}: {what} ({because}); the master stops{kept}", hint.replace("FILE", filename)
    )
