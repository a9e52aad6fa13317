"""Work on the database: what Buildbot's components ask a pool for, and how they ask.

A pool stands where Buildbot's DBThreadPool stands and has its interface.  What only reads for a
visitor goes to connections of its own: see `readers`.
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
from litebot.master.db.read_pool import ReadPool
from litebot.master.db.read_pool import ReadSnapshot
from litebot.master.db.read_pool import may_read_inline
from litebot.master.db.read_pool import read_snapshot

# How long one kind of work goes on in one turn of the reactor.
TURN_S = 0.010


class NotOurs(Exception):
    """Another master has this scheduler now, and does what this one was about to do.

    Raised instead of writing an effect.
    """


# Answers rather than faults: components raise these to say that somebody was faster.
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
    """One call of do(): what to run with which arguments, and whom to tell."""

    callable: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    deferred: defer.Deferred[Any]
    on: str = "connection"  # or "engine", or "sql": its first argument
    snapshot: ReadSnapshot | None = None  # that it is asked for
    for_reader: bool = False
    is_short: bool = False  # what a reader is expected to need a moment for
    result: Any = None

    def run(self, on: Any) -> Any:
        """Call it.  Raises what it raises, and TypeError where it returns rows yet to be read."""
        result = self.callable(on, *self.args, **self.kwargs)
        if isinstance(result, sa.engine.Result):
            raise TypeError(f"{self.callable} returned rows that are not fetched yet")
        return result

    def deliver(self) -> None:
        """Tell the one who asked."""
        if isinstance(self.result, Failure):
            self.deferred.errback(self.result)
        else:
            self.deferred.callback(self.result)

    def refuse(self, why: StoreError) -> None:
        """Tell the one who asked that it was not done."""
        # One for each: on a shared one the tracebacks of all who let it pass would pile up.
        self.result = Failure(type(why)(why.what, why.hint))
        self.deliver()


@dataclass(frozen=True)
class Outage:
    """The database is away: what it or the system says, and since when (epoch seconds)."""

    words: str
    since: float = field(default_factory=time.time)


def _in_transaction(
    conn: sa.engine.Connection, callable: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    with conn.begin():
        return callable(conn, *args, **kwargs)


class Pool:
    """The interface of Buildbot's DBThreadPool, and do_sql.

    Those who inherit it queue what _ask is given, and run what is `for_reader` by _read.
    """

    engine: sa.Engine
    running = False
    failure: StoreError | None = None  # with which all work fails
    outage: Outage | None = None  # for which all work waits
    _readers: ReadPool | None = None

    def __init__(self) -> None:
        self._writes: set[CodeType | None] = set()

    def start(self) -> None:
        """Accept work."""
        self.running = True

    def do(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> defer.Deferred[Any]:
        """Run callable(connection, *args, **kwargs); its result comes in a later turn."""
        return self._ask_reading(Work(callable, args, kwargs, defer.Deferred()))

    def do_with_transaction(
        self, callable: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> defer.Deferred[Any]:
        """As do, inside `with connection.begin()`."""
        return self._ask(Work(_in_transaction, (callable, *args), kwargs, defer.Deferred()))

    def do_with_engine(
        self, callable: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> defer.Deferred[Any]:
        """As do, with the engine instead of a connection."""
        return self._ask(Work(callable, args, kwargs, defer.Deferred(), on="engine"))

    def do_sql(self, callable: Callable[..., Any], *args: Any) -> defer.Deferred[Any]:
        """Run callable(sql, *args) with a store.sql.Sql; all it writes or nothing."""
        return self._ask_reading(Work(callable, args, {}, defer.Deferred(), on="sql"))

    def _ask_reading(self, work: Work) -> defer.Deferred[Any]:
        """As _ask, for work that may turn out to only read for a visitor."""
        snapshot = read_snapshot.get()
        if self._readers is not None and snapshot is not None:
            work.snapshot = snapshot
            work.for_reader = getattr(work.callable, "__code__", None) not in self._writes
            work.is_short = (
                work.on == "sql" and may_read_inline.get()
            )  # others may not be begun again
        return self._ask(work)

    def _ask(self, work: Work) -> defer.Deferred[Any]:
        if not self.running or self.failure is not None:
            self._refuse(work)
        else:
            self._queue_up(work)
        return work.deferred

    def give_up_after(self, seconds: float) -> None:
        """Fail, from now on, where the database is away for so long."""

    def _queue_up(self, work: Work) -> None:
        """Run it in its turn."""
        raise NotImplementedError

    def _refuse(self, work: Work) -> None:
        work.refuse(self.failure or StoreError("the database is closed"))

    def committed(self) -> defer.Deferred[None]:
        """Fires when a kill won't undo what has been done so far: at once, where nothing is."""
        return defer.succeed(None)

    def on_disk(self) -> defer.Deferred[None]:
        """Fires when what has been committed so far is on disk."""
        return defer.succeed(None)

    # reads for visitors

    def admit(self, snapshot: ReadSnapshot) -> defer.Deferred[None]:
        """Fires when a visit may begin to ask."""
        return defer.succeed(None)

    def _read(self, work: Work) -> None:
        assert self._readers is not None
        run = self._readers.run_sql if work.on == "sql" else self._readers.run
        d = run(work.callable, *work.args, **work.kwargs)
        d.addCallbacks(work.deferred.callback, self._read_failed, errbackArgs=(work,))

    def _read_failed(self, failure: Failure, work: Work) -> None:
        error = getattr(failure.value, "orig", None) or failure.value
        assert error is not None
        if not self.running or self.failure is not None:
            self._refuse(work)
        elif self._wrote(error):
            # A wrong guess: it writes.  Nothing has happened yet, so run it where writing works.
            self._writes.add(getattr(work.callable, "__code__", None))
            work.for_reader = False
            self._ask(work)
        elif self._is_fatal(error):
            self._refuse(work)
        else:
            if not isinstance(error, (*EXPECTED, StoreError)):
                log.err(failure, "Got fatal Exception on DB")
            work.deferred.errback(failure)

    def _wrote(self, error: BaseException) -> bool:
        """Whether a reading connection has refused to write."""
        raise NotImplementedError

    def _is_fatal(self, error: BaseException) -> bool:
        """Whether a reader has met with what makes all work fail; `failure` says it then."""
        return False
