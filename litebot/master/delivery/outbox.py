"""What reporters have still to tell: each ended build or buildset, at least once, over restarts.

A row of litebot_outbox is written in the transaction that ends the build or the buildset, one for
each reporter that wants it, and deleted when the reporter is done with it.  Where the reporter
logs an error, or its server answers with one, it is tried again, later and later; where the server
says that it is the report which is wrong, or none can be made, only a few times.  A report that
can't be made beside others that are sent is not tried again, as these would be sent again too.

Where several masters share a database each row says which of them is to tell it: the one on which
the build or the buildset ended, or, where that has no such reporter, the first one that has.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import sqlalchemy as sa
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

outbox = tables.outbox

# The last word of the event that says that one of these has ended.
ENDS = {"builds": "finished", "buildsets": "complete"}

FIRST_RETRY_S = 10.0
LAST_RETRY_S = 3600.0
LOOK_EVERY_S = 5.0
# Of a report that its server refuses, or that can't be made; then only each start tries it once
# more.
REFUSALS = 5
LONGEST = 10  # doublings: more than LAST_RETRY_S
ERROR_LENGTH = 500


class NotTaken(Exception):
    """A server has not taken a report, and has answered this."""


@dataclass
class ReportAttempt:
    """One event that is being given to one reporter, and how that has gone so far.

    `errors` is what it has logged or was answered.  A server has `refused` requests that it will
    always refuse, or has `failed`, so many times.  The reporter `is_sending` once its generators
    have made a report.
    """

    errors: list[BaseException] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    is_sending: bool = False

    def begin_to_send(self) -> None:
        """What has failed up to now was another generator's: what is sent must not come again."""
        self.errors.clear()
        self.refused = self.failed = 0
        self.is_sending = True

    def note_answer(self, what: str, *, is_final: bool) -> None:
        """Note that a server has not taken a request, and whether it never will."""
        self.errors.append(NotTaken(what))
        self.refused += is_final
        self.failed += not is_final

    @property
    def error(self) -> str | None:
        """What went wrong last, or None where all went well."""
        return reflect.safe_str(self.errors[-1]) if self.errors else None

    @property
    def is_final(self) -> bool:
        """Whether trying again is in vain."""
        return self.failed == 0 and (self.refused > 0 or not self.is_sending)


current_attempt: ContextVar[ReportAttempt | None] = ContextVar("current_attempt", default=None)


class OutboxReporter(ReporterBase):
    """A reporter that says to the attempt which is under way when it begins to send.

    When a configuration is loaded, this class is put before that of each reporter.
    """

    def sendMessage(self, reports: Any) -> Any:
        """Send as the reporter does."""
        attempt = current_attempt.get()
        if attempt is not None:
            attempt.begin_to_send()
        return super().sendMessage(reports)


class Outbox(service.AsyncMultiService):
    """`master.outbox`: gives events to reporters and remembers which have not arrived."""

    name: str | None = "outbox"

    def __init__(self) -> None:
        super().__init__()
        self._in_flight: set[tuple[str, str, int]] = set()
        self._last = 0
        self._of_others: dict[int, set[str]] = {}

    # who wants what

    def _reporters(self) -> list[ReporterBase]:
        # Copies, here and below: on Postgres a thread asks, in the middle of a transaction.
        return [s for s in list(self.master.service_manager) if isinstance(s, ReporterBase)]

    def wanting(self, kind: str, id: int) -> list[str]:
        """The names of the reporters that want to know of the end of this build or buildset."""
        key = (kind, str(id), ENDS[kind])
        return [r.name or "" for r in self._reporters() if self._consumers(r, key)]

    def _consumers(self, reporter: ReporterBase, key: tuple[str, ...]) -> list[Any]:
        consumers = list(reporter._event_consumers.items())
        return [c for wanted, c in consumers if tuplematch.matchTuple(key, wanted)]

    def owner(self, consumer: Any) -> ReporterBase | None:
        """The reporter that a consumer of events is one's."""
        for reporter in self._reporters():
            if any(own is consumer for own in reporter._event_consumers.values()):
                return reporter
        return None

    def configured(self) -> Iterator[tuple[str, list[str]]]:
        """The name of each reporter, with the kinds of ENDS that it wants to know of."""
        for reporter in self._reporters():
            ends = ENDS.items()
            wanted = [kind for kind, end in ends if self._consumers(reporter, (kind, "0", end))]
            yield reporter.name or "", wanted

    def is_told_there(self, reporter: ReporterBase, origin: int) -> bool:
        """Whether an event of another master is no business of this one's reporter.

        The master that it comes from has one of that name, or the first of those that have.
        """
        name, mine = reporter.name or "", self.master.masterid
        if name in self._of_others.get(origin, ()):
            return True
        return any(name in names for other, names in self._of_others.items() if other < mine)

    # telling them

    async def deliver(
        self, reporter: ReporterBase, consumer: Any, key: tuple[str, ...], event: Any
    ) -> None:
        """Give an event to a reporter, wait for it, and write down how it went."""
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
        """See what former lives of this master have left; before anything ends in this one."""
        self._last = await self.master.db.pool.do(_last)

    async def resume(self) -> None:
        """Tell that, and from now on whatever has failed; when all reporters are there."""
        await self._take(self.master.cluster.own_reports())
        timer: Any = internet.TimerService(LOOK_EVERY_S, self._look)
        timer.clock = self.master.reactor
        timer.setServiceParent(self)

    async def take_over(self, masterid: int) -> None:
        """Tell what a dead master had to, as far as the reporters are here."""
        await self._take((masterid, self.master.masterid))

    async def _take(self, of: tuple[int, ...] | None) -> None:
        names = [r.name or "" for r in self._reporters()]
        masterid, cluster = self.master.masterid, self.master.cluster
        await self.master.db.pool.do_with_transaction(
            _take_over, masterid, of, names, self.wanting, self._last, cluster
        )

    async def drop(self, id: int) -> bool:
        """Forget a row, and return once that is on disk: whether there was one."""

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
            if row not in self._in_flight:  # side by side: one may wait long for its server
                d = defer.ensureDeferred(self._deliver_again(*row))
                d.addErrback(lambda f: log.err(f, "while reporting again"))

    async def _deliver_again(self, name: str, kind: str, id: int) -> None:
        self._in_flight.add((name, kind, id))
        key = (kind, str(id), ENDS[kind])
        event = await self.master.data.get((kind, str(id)))
        reporters = [r for r in self._reporters() if r.name == name]
        consumers = self._consumers(reporters[0], key) if reporters else []
        if event is None or not consumers:  # one is gone, or does not want it any more
            await self.master.db.pool.do_with_transaction(
                _note, (name, kind, id), ReportAttempt(), 0
            )
            self._in_flight.discard((name, kind, id))
            return
        for consumer in consumers:
            await self.deliver(reporters[0], consumer, key, copy.deepcopy(event))


def add(
    conn: sa.engine.Connection,
    reporters: list[str],
    kind: str,
    about: int,
    masterid: int,
    retry_at: float | None = None,
    *,
    cluster: Alone | None = None,
) -> None:
    """These reporters of this master have this to report; commits nothing.

    With `cluster`, so have those that only other masters have, which find it soon.
    """
    rows = [(reporter, masterid, retry_at) for reporter in reporters]
    if cluster is not None:
        elsewhere = cluster.reporters_elsewhere(conn, kind, reporters)
        rows += [(reporter, other, 0.0) for reporter, other in elsewhere]
    for reporter, whose, at in rows:
        row = {"masterid": whose, "reporter": reporter, "kind": kind, "about": about}
        conn.execute(outbox.insert().values(**row, attempts=0, retry_at=at))


def _is(row: tuple[str, str, int]) -> sa.ColumnElement[bool]:
    return sa.and_(outbox.c.reporter == row[0], outbox.c.kind == row[1], outbox.c.about == row[2])


def _note(
    conn: sa.engine.Connection, row: tuple[str, str, int], attempt: ReportAttempt, now: float
) -> None:
    """The reporter is done with it, or has failed."""
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
    """Make what was left by these masters, or by any, due now, and this master's.

    Of this master's own only what is not younger than the id `last`.  What a recovery has left
    names no reporter: it knew of none.  What is left to reporters that are configured no more is
    dropped, but for those of other masters.
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
