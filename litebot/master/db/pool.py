"""The interface of a database pool, and the pieces of work that Buildbot's components submit to it.

A pool takes the place of Buildbot's DBThreadPool and has the same interface.  Work that only reads
for a request goes to separate connections: see `read_pool`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from types import CodeType
from typing import Any

import sqlalchemy as sa
from buildbot.db.buildrequests import AlreadyClaimedError
from buildbot.db.buildrequests import NotClaimedError
from buildbot.db.buildsets import AlreadyCompleteError
from buildbot.db.changesources import ChangeSourceAlreadyClaimedError
from buildbot.db.logs import LogSlugExistsError
from buildbot.db.schedulers import SchedulerAlreadyClaimedError
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure

from litebot.errors import StoreError
from litebot.master.db.dispatcher import Dispatcher
from litebot.master.db.read_pool import ReadPool
from litebot.master.db.read_pool import ReadSnapshot
from litebot.master.db.read_pool import may_read_inline
from litebot.master.db.read_pool import read_snapshot

# After work that is no read for a request builds count as running for so long.
WORKING_S = 0.1


class NotOurs(Exception):
    """Another master owns this scheduler now, and does what this one was about to do.

    It is raised instead of writing an effect.
    """


# Components raise these to report that somebody else was faster.  They are answers and not faults,
# so they are not logged.
EXPECTED = (
    AlreadyClaimedError,
    AlreadyCompleteError,
    ChangeSourceAlreadyClaimedError,
    LogSlugExistsError,
    NotClaimedError,
    NotOurs,
    SchedulerAlreadyClaimedError,
)


@dataclass(slots=True, eq=False)
class Work:
    """One call of do(): the callable, its arguments, and the Deferred for its result."""

    callable: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    deferred: defer.Deferred[Any]
    on: str = "connection"  # the kind of its first argument: "connection", "engine" or "sql"
    snapshot: ReadSnapshot | None = None  # what the request that submitted it sees
    for_reader: bool = False  # runs on a read-only connection
    is_short: bool = False  # expected to be quick, so it is tried inline
    reading: defer.Deferred[Any] | None = None  # set while a reader does it
    is_abandoned: bool = False  # by a request whose visitor is gone
    result: Any = None

    def run(self, on: Any) -> Any:
        """Call it.  Raises what it raises, and TypeError if it returns unfetched rows."""
        result = self.callable(on, *self.args, **self.kwargs)
        if isinstance(result, sa.engine.Result):
            raise TypeError(f"{self.callable} returned rows that are not fetched yet")
        return result

    def deliver(self) -> None:
        """Fire the Deferred with the result."""
        if self.is_abandoned:
            return
        if isinstance(self.result, Failure):
            self.deferred.errback(self.result)
        else:
            self.deferred.callback(self.result)

    def abandon(self) -> None:
        """Abort it, or do not begin it, as nobody waits for its result."""
        self.is_abandoned = True
        if self.reading is not None:
            self.reading.cancel()

    def refuse(self, reason: StoreError) -> None:
        """Fail the Deferred with a copy of `reason`; the work was not done."""
        # Each gets a copy: a shared exception would collect the tracebacks of all its receivers.
        self.result = Failure(type(reason)(reason.what, reason.hint))
        self.deliver()


@dataclass(frozen=True)
class Outage:
    """The database is unavailable.

    `words` is the message of the database or the system; `since` is in epoch seconds.
    """

    words: str
    since: float = field(default_factory=time.time)


def _in_transaction(
    conn: sa.engine.Connection, callable: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    with conn.begin():
        return callable(conn, *args, **kwargs)


class Pool:
    """The interface of Buildbot's DBThreadPool, and do_sql.

    Subclasses implement _enqueue, and call _read to run work that is `for_reader`.
    """

    engine: sa.Engine
    running = False
    failure: StoreError | None = None  # if it is set, all work fails with it
    outage: Outage | None = None  # while it is set, all work waits
    _readers: ReadPool | None = None
    _dispatcher: Dispatcher

    def __init__(self) -> None:
        self._code_that_writes: set[CodeType | None] = set()
        self._worked_at = -WORKING_S

    def start(self) -> None:
        """Accept work."""
        self.running = True

    def do(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> defer.Deferred[Any]:
        """Run callable(connection, *args, **kwargs); its result is delivered in a later turn."""
        return self._submit_possible_read(Work(callable, args, kwargs, defer.Deferred()))

    def do_with_transaction(
        self, callable: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> defer.Deferred[Any]:
        """Like do, inside `with connection.begin()`."""
        return self._submit(Work(_in_transaction, (callable, *args), kwargs, defer.Deferred()))

    def do_with_engine(
        self, callable: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> defer.Deferred[Any]:
        """Like do, with the engine instead of a connection."""
        return self._submit(Work(callable, args, kwargs, defer.Deferred(), on="engine"))

    def do_sql(self, callable: Callable[..., Any], *args: Any) -> defer.Deferred[Any]:
        """Run callable(sql, *args) with a store.sql.Sql; keeps all that it writes or nothing."""
        return self._submit_possible_read(Work(callable, args, {}, defer.Deferred(), on="sql"))

    def _submit_possible_read(self, work: Work) -> defer.Deferred[Any]:
        """Submit work, to a reader if a request asks for it and it is not known to write."""
        snapshot = read_snapshot.get()
        if self._readers is not None and snapshot is not None:
            work.snapshot = snapshot
            work.deferred = defer.Deferred(lambda _: work.abandon())
            work.for_reader = getattr(work.callable, "__code__", None) not in self._code_that_writes
            # An inline read may be begun again in a thread; only "sql" work allows that.
            work.is_short = work.on == "sql" and may_read_inline.get()
        return self._submit(work)

    def _submit(self, work: Work) -> defer.Deferred[Any]:
        if not self.running or self.failure is not None:
            self._refuse(work)
        else:
            self._enqueue(work)
        return work.deferred

    @property
    def is_busy(self) -> bool:
        """Whether builds run: work that is no read for a request is done now, or was just before.

        Between two steps of builds there may be none for some turns of the reactor.
        """
        now = time.monotonic()
        if self._works:
            self._worked_at = now
        return now - self._worked_at < WORKING_S

    @property
    def _works(self) -> bool:
        """Whether work is done now that is no read for a request."""
        return False

    def give_up_after(self, seconds: float) -> None:
        """From now on, fail if the database has been unavailable for `seconds`."""

    def _enqueue(self, work: Work) -> None:
        """Queue the work, to be run in its turn."""
        raise NotImplementedError

    def _refuse(self, work: Work) -> None:
        work.refuse(self.failure or StoreError("the database is closed"))

    def committed(self) -> defer.Deferred[None]:
        """Fires when all work done so far is committed, so that a kill won't undo it.

        This default fires at once.
        """
        return defer.succeed(None)

    def on_disk(self) -> defer.Deferred[None]:
        """Fires when what has been committed so far is on disk."""
        return defer.succeed(None)

    # reads for requests

    def dispatch(
        self, run: Callable[[], Any], address: str, snapshot: ReadSnapshot | None = None
    ) -> None:
        """Call `run` for a visitor when it is his turn: see `dispatcher`."""
        self._dispatcher.dispatch(run, address, snapshot)

    def _read(self, work: Work) -> None:
        assert self._readers is not None
        if work.is_abandoned:
            return
        run = self._readers.run_sql if work.on == "sql" else self._readers.run
        work.reading = d = run(work.callable, *work.args, **work.kwargs)
        d.addCallbacks(work.deferred.callback, self._read_failed, errbackArgs=(work,))

    def _read_failed(self, failure: Failure, work: Work) -> None:
        error = getattr(failure.value, "orig", None) or failure.value
        assert error is not None
        if work.is_abandoned:
            return
        if not self.running or self.failure is not None:
            self._refuse(work)
        elif self._is_refused_write(error):
            # It was wrongly taken for a read.  It has changed nothing yet: the writer can run it.
            self._code_that_writes.add(getattr(work.callable, "__code__", None))
            work.for_reader = False
            self._submit(work)
        elif self._is_fatal(error):
            self._refuse(work)
        else:
            if not isinstance(error, (*EXPECTED, StoreError)):
                log.err(failure, "Got fatal Exception on DB")
            work.deferred.errback(failure)

    def _is_refused_write(self, error: BaseException) -> bool:
        """Whether a read-only connection has refused a write."""
        raise NotImplementedError

    def _is_fatal(self, error: BaseException) -> bool:
        """Whether the error of a reader makes all work fail; if so, `failure` is set."""
        return False
