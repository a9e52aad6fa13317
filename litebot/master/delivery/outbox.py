"""The outbox: reports each end of a build or buildset at least once, also over restarts.

The transaction that ends a build or buildset writes a row of litebot_outbox for each reporter that
wants the event.  The row is deleted when the reporter is done with it.  If the reporter logs an
error, or its server answers with one, the report is retried after longer and longer times.  If the
server refuses the report as wrong, or no report can be made, it is retried only a few times.  The
failure of one generator of a reporter is not retried if other generators make reports, as these
would be sent again too.

If several masters share a database, each row has the id of the master that is to report it: the
one on which the build or buildset ended, or, if that has no such reporter, the first one that has.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model
from buildbot.reporters.base import ReporterBase
from buildbot.util import service
from buildbot.util import tuplematch
from twisted.application import internet
from twisted.internet import defer
from twisted.python import log
from twisted.python import reflect

from litebot.errors import StoreFailed
from litebot.master.db import tables
from litebot.master.db.cluster import Alone
from litebot.master.runtime.error_log import logged_errors
from litebot.master.secrets.masker import mask_urls
from litebot.master.secrets.masker import masker

outbox = tables.outbox

# By kind, the last part of the routing key of the event that one has ended.
ENDS = {"builds": "finished", "buildsets": "complete"}

FIRST_RETRY_S = 10.0
LAST_RETRY_S = 3600.0
LOOK_EVERY_S = 5.0
# How often a report is tried that its server refuses or that can't be made.  After that, only each
# start tries it once more.
REFUSALS = 5
LONGEST = 10  # doublings of FIRST_RETRY_S, which exceed LAST_RETRY_S
ERROR_LENGTH = 500


class NotTaken(Exception):
    """A server has not accepted a report; the message has its answer."""


@dataclass(frozen=True)
class Answer:
    """What a server, shown as `where`, has answered: a code of HTTP or SMTP, and its words."""

    where: str
    code: int
    text: str


@dataclass
class ReportAttempt:
    """The delivery of one event to one reporter, and its errors so far.

    `errors` are those that the reporter has logged, and error answers of servers.  `answers` are
    all answers.  `refused` counts the answers after which a retry is pointless, and `failed` the
    other error answers.  `is_sending` is true once the reporter's generators have made a report.
    """

    errors: list[BaseException] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    is_sending: bool = False

    def begin_to_send(self) -> None:
        """Note that reports were made and are sent now, and drop the errors so far.

        The errors are those of other generators.  A retry would send these reports again.
        """
        self.errors.clear()
        self.refused = self.failed = 0
        self.is_sending = True

    def note_answer(self, what: str, *, is_final: bool) -> None:
        """Note that a server has not accepted a request, and whether it never will."""
        self.errors.append(NotTaken(what))
        self.refused += is_final
        self.failed += not is_final

    @property
    def error(self) -> str | None:
        """Return the text of an error, without secrets, or None if there was none.

        It is the last answer of a server that was none of success, else the last other error:
        reporters log errors about such an answer that say less.
        """
        if not self.errors:
            return None
        answers = [error for error in self.errors if isinstance(error, NotTaken)]
        return mask_urls(masker.mask(reflect.safe_str((answers or self.errors)[-1])))

    @property
    def is_final(self) -> bool:
        """Return whether a retry is pointless."""
        return self.failed == 0 and (self.refused > 0 or not self.is_sending)


current_attempt: ContextVar[ReportAttempt | None] = ContextVar("current_attempt", default=None)


class OutboxReporter(ReporterBase):
    """A reporter that notes in the current ReportAttempt when it begins to send.

    When a configuration is loaded, this class is put before that of each reporter.  One with
    `only_builderid` gets the builds of this builder alone.
    """

    only_builderid: int | None = None

    def sendMessage(self, reports: Any) -> Any:
        """Send as the reporter does, and note that in the current attempt."""
        attempt = current_attempt.get()
        if attempt is not None:
            attempt.begin_to_send()
        return super().sendMessage(reports)


class Outbox(service.AsyncMultiService):
    """`master.outbox`: delivers ends to reporters, and retries those that were not reported."""

    name: str | None = "outbox"

    def __init__(self) -> None:
        super().__init__()
        self._in_flight: set[tuple[str, str, int]] = set()
        self._last = 0
        self._of_others: dict[int, set[str]] = {}

    # which reporters want which events

    def _reporters(self) -> list[ReporterBase]:
        # This is a copy, as is the list below: on Postgres, a thread calls this inside a
        # transaction.
        return [s for s in list(self.master.service_manager) if isinstance(s, ReporterBase)]

    def wanting(self, kind: str, id: int) -> dict[str, int | None]:
        """Return the names of the reporters that want the end of this build or buildset.

        One that wants builds of one builder alone comes with the id of that.
        """
        key = (kind, str(id), ENDS[kind])
        wanting = [r for r in self._reporters() if self._consumers(r, key)]
        return {r.name or "": getattr(r, "only_builderid", None) for r in wanting}

    def _consumers(self, reporter: ReporterBase, key: tuple[str, ...]) -> list[Any]:
        consumers = list(reporter._event_consumers.items())
        return [c for wanted, c in consumers if tuplematch.matchTuple(key, wanted)]

    def owner(self, consumer: Any) -> ReporterBase | None:
        """Return the reporter that a consumer of events belongs to, or None."""
        reporter = getattr(getattr(consumer, "callback", None), "__self__", None)
        if not isinstance(reporter, ReporterBase) or reporter.parent is None:
            return None
        is_own = any(own is consumer for own in reporter._event_consumers.values())
        return reporter if is_own else None

    def configured(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the name of each reporter, with the kinds of ENDS that it wants."""
        for reporter in self._reporters():
            ends = ENDS.items()
            wanted = [kind for kind, end in ends if self._consumers(reporter, (kind, "0", end))]
            yield reporter.name or "", wanted

    def is_told_there(self, reporter: ReporterBase, origin: int) -> bool:
        """Return whether another master reports the events of the master `origin`.

        That is so if `origin` has a reporter of this name, or if another master has one whose id is
        lower than this one's.
        """
        name, mine = reporter.name or "", self.master.masterid
        if name in self._of_others.get(origin, ()):
            return True
        return any(name in names for other, names in self._of_others.items() if other < mine)

    # delivering events

    async def deliver(
        self, reporter: ReporterBase, consumer: Any, key: tuple[str, ...], event: Any
    ) -> None:
        """Give an event to a reporter, wait for it, and record the outcome in the outbox."""
        row = (reporter.name or "", key[0], int(key[1]))
        self._in_flight.add(row)
        try:
            await self.master.db.on_disk()
            with logged_errors() as errors:
                attempt = ReportAttempt(errors)
                current_attempt.set(attempt)
                await defer.maybeDeferred(consumer.invoke, key, event)
                current_attempt.set(None)
            now = self.master.reactor.seconds()
            await self.master.db.pool.do_with_transaction(_note, row, attempt, now)
        except StoreFailed:
            pass  # the next start finds the row
        finally:
            self._in_flight.discard(row)

    async def note_last(self) -> None:
        """Note the id of the newest row: rows up to it were left by former processes.

        Call it before anything ends in this process.
        """
        self._last = await self.master.db.pool.do(_last)

    async def resume(self) -> None:
        """Deliver those rows, and from now on retry what fails; call it when all reporters run."""
        await self._take(self.master.cluster.own_reports())
        timer: Any = internet.TimerService(LOOK_EVERY_S, self._look)
        timer.clock = self.master.reactor
        timer.setServiceParent(self)

    async def take_over(self, masterid: int) -> None:
        """Report what a dead master had to, for the reporters that this master has."""
        await self._take((masterid, self.master.masterid))

    async def _take(self, of: tuple[int, ...] | None) -> None:
        names = [r.name or "" for r in self._reporters()]
        masterid, cluster = self.master.masterid, self.master.cluster
        await self.master.db.pool.do_with_transaction(
            _take_over, masterid, of, names, self.wanting, self._last, cluster
        )

    async def drop(self, id: int) -> bool:
        """Delete a row, wait until that is on disk, and return whether there was such a row."""

        def delete(conn: sa.engine.Connection) -> bool:
            return conn.execute(outbox.delete().where(outbox.c.id == id)).rowcount > 0

        found: bool = await self.master.db.pool.do_with_transaction(delete)
        await self.master.db.on_disk()
        return found

    def _look(self) -> None:
        d = defer.ensureDeferred(self._retry())
        d.addErrback(lambda failure: failure.trap(StoreFailed))

    async def _retry(self) -> None:
        db, masterid = self.master.db, self.master.masterid
        self._of_others = await self.master.cluster.reporters_of_others()
        for row in await db.pool.do(_due, masterid, self.master.reactor.seconds()):
            if row not in self._in_flight:  # all at once, as one may wait long for its server
                d = defer.ensureDeferred(self._deliver_again(*row))
                d.addErrback(lambda f: log.err(f, "while reporting again"))

    async def _deliver_again(self, name: str, kind: str, id: int) -> None:
        self._in_flight.add((name, kind, id))
        key = (kind, str(id), ENDS[kind])
        event = await self.master.data.get((kind, str(id)))
        reporters = [r for r in self._reporters() if r.name == name]
        consumers = self._consumers(reporters[0], key) if reporters else []
        if event is None or not consumers:  # it is pruned, or the reporter is gone or changed
            await self.master.db.pool.do_with_transaction(
                _note, (name, kind, id), ReportAttempt(), 0
            )
            self._in_flight.discard((name, kind, id))
            return
        for consumer in consumers:
            await self.deliver(reporters[0], consumer, key, copy.deepcopy(event))


def add(
    conn: sa.engine.Connection,
    reporters: dict[str, int | None],
    kind: str,
    about: int,
    masterid: int,
    retry_at: float | None = None,
    *,
    cluster: Alone | None = None,
) -> None:
    """Add a row for each of these reporters of the master `masterid`; commits nothing.

    `reporters` are as in `Outbox.wanting`, and those of other builders get no row.
    Each row is about the end of the build or buildset with the id `about`; `kind` says which.  With
    `cluster`, also adds rows for reporters that only other masters have; these masters find them
    soon.  A row with `retry_at` None is not due for a retry.
    """
    builderid = None
    if kind == "builds" and any(only is not None for only in reporters.values()):
        builds = Model.builds
        query = sa.select(builds.c.builderid).where(builds.c.id == about)
        builderid = conn.execute(query).scalar()
    names = [name for name, only in reporters.items() if only in (None, builderid)]
    rows = [(reporter, masterid, retry_at) for reporter in names]
    if cluster is not None:
        elsewhere = cluster.reporters_elsewhere(conn, kind, list(reporters))
        rows += [(reporter, other, 0.0) for reporter, other in elsewhere]
    for reporter, whose, at in rows:
        row = {"masterid": whose, "reporter": reporter, "kind": kind, "about": about}
        conn.execute(outbox.insert().values(**row, attempts=0, retry_at=at))


def _is(row: tuple[str, str, int]) -> sa.ColumnElement[bool]:
    return sa.and_(outbox.c.reporter == row[0], outbox.c.kind == row[1], outbox.c.about == row[2])


def _note(
    conn: sa.engine.Connection, row: tuple[str, str, int], attempt: ReportAttempt, now: float
) -> None:
    """Delete the row of a report that has no error, or note its error and when to retry it."""
    if attempt.error is None:
        conn.execute(outbox.delete().where(_is(row)))
        return
    attempts = conn.execute(sa.select(outbox.c.attempts).where(_is(row))).scalar() or 0
    wait_s = min(FIRST_RETRY_S * 2 ** min(attempts, LONGEST), LAST_RETRY_S)
    is_over = attempt.is_final and attempts + 1 >= REFUSALS
    values = {
        "attempts": attempts + 1,
        "retry_at": None if is_over else now + wait_s,
        "error": attempt.error[:ERROR_LENGTH],
    }
    conn.execute(outbox.update().where(_is(row)).values(values))


def _last(conn: sa.engine.Connection) -> int:
    return conn.execute(sa.select(sa.func.max(outbox.c.id))).scalar() or 0


def _take_over(
    conn: sa.engine.Connection,
    masterid: int,
    of: tuple[int, ...] | None,
    names: list[str],
    wanting: Any,
    last: int,
    cluster: Alone,
) -> None:
    """Make rows of the masters `of`, or of all if it is None, this master's and due now.

    A row of recovery, which knows no reporters, has none; it is replaced by one row for each
    reporter that wants the event.  If `of` is None or begins with `masterid`, only rows up to the
    id `last` become due, and rows for reporters that are no longer configured are deleted.
    Otherwise `of` begins with a dead master, and its rows for reporters that this master does not
    have stay as they are.
    """
    left: sa.ColumnElement[bool] = sa.true()
    if of is not None:
        left = outbox.c.masterid.in_(of)
    unnamed = sa.and_(left, outbox.c.reporter == "")
    for kind, about in conn.execute(sa.select(outbox.c.kind, outbox.c.about).where(unnamed)).all():
        add(conn, wanting(kind, about), kind, about, masterid, 0.0, cluster=cluster)
    conn.execute(outbox.delete().where(unnamed))
    known = outbox.c.reporter.in_(names)
    if of is None or of[0] == masterid:
        conn.execute(outbox.delete().where(left, sa.not_(known)))
        left = sa.and_(left, outbox.c.id <= last)
    else:
        left = sa.and_(left, known, outbox.c.masterid != masterid)
    conn.execute(outbox.update().where(left).values(masterid=masterid, retry_at=0.0))


def _due(conn: sa.engine.Connection, masterid: int, now: float) -> list[tuple[str, str, int]]:
    query = sa.select(outbox.c.reporter, outbox.c.kind, outbox.c.about)
    mine = sa.and_(outbox.c.masterid == masterid, outbox.c.retry_at <= now)
    rows = conn.execute(query.where(mine).order_by(outbox.c.id))
    return [(row[0], row[1], row[2]) for row in rows]
