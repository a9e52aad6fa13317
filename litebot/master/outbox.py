"""What reporters have still to tell: each ended build or buildset, at least once, over restarts.

A row of litebot_outbox is written in the transaction that ends the build or the buildset, one for
each reporter that wants it, and deleted when the reporter is done with it.  Where the reporter
logs an error, or its server answers with one, it is tried again, later and later; where the server
says that it is the report which is wrong, only a few times.
"""

from __future__ import annotations

import copy
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from buildbot.reporters.base import ReporterBase
from buildbot.util import service
from buildbot.util import tuplematch
from twisted.application import internet
from twisted.internet import defer
from twisted.python import log

from litebot.errors import StoreFailed
from litebot.master import schema

outbox = schema.outbox

# The last word of the event that says that one of these has ended.
ENDS = {"builds": "finished", "buildsets": "complete"}

FIRST_RETRY_S = 10.0
LAST_RETRY_S = 3600.0
LOOK_EVERY_S = 5.0
# Of a report that its server refuses; then only each start tries it once more.
REFUSALS = 5
LONGEST = 10  # doublings: more than LAST_RETRY_S
ERROR_LENGTH = 500


@dataclass
class Delivery:
    """One event that is being given to one reporter, and how that has gone so far.

    `error` is what it logged or was answered last.  A server has `refused` requests that it will
    always refuse, or has `failed`, so many times.
    """

    error: str | None = None
    refused: int = 0
    failed: int = 0

    @property
    def is_final(self) -> bool:
        """Whether trying again is in vain."""
        return self.refused > 0 and self.failed == 0


delivering: ContextVar[Delivery | None] = ContextVar("delivering", default=None)


class Outbox(service.AsyncMultiService):
    """`master.outbox`: gives events to reporters and remembers which have not arrived."""

    name: str | None = "outbox"

    def __init__(self) -> None:
        super().__init__()
        self._in_flight: set[tuple[str, str, int]] = set()
        self._last = 0

    @defer.inlineCallbacks
    def startService(self) -> Any:
        log.addObserver(_note_error)
        yield super().startService()

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        yield super().stopService()
        log.removeObserver(_note_error)

    # who wants what

    def _reporters(self) -> list[ReporterBase]:
        return [s for s in self.master.service_manager if isinstance(s, ReporterBase)]

    def wanting(self, kind: str, id: int) -> list[str]:
        """The names of the reporters that want to know of the end of this build or buildset."""
        key = (kind, str(id), ENDS[kind])
        return [r.name or "" for r in self._reporters() if self._consumers(r, key)]

    def _consumers(self, reporter: ReporterBase, key: tuple[str, ...]) -> list[Any]:
        consumers = reporter._event_consumers.items()
        return [c for wanted, c in consumers if tuplematch.matchTuple(key, wanted)]

    def owner(self, consumer: Any) -> ReporterBase | None:
        """The reporter that a consumer of events is one's."""
        for reporter in self._reporters():
            if any(own is consumer for own in reporter._event_consumers.values()):
                return reporter
        return None

    # telling them

    async def deliver(
        self, reporter: ReporterBase, consumer: Any, key: tuple[str, ...], event: Any
    ) -> None:
        """Give an event to a reporter, wait for it, and write down how it went."""
        row = (reporter.name or "", key[0], int(key[1]))
        delivery = Delivery()
        self._in_flight.add(row)
        try:
            await self.master.db.on_disk()
            delivering.set(delivery)
            await defer.maybeDeferred(consumer.invoke, key, event)
            delivering.set(None)
            now = self.master.reactor.seconds()
            await self.master.db.pool.do_with_transaction(_note, row, delivery, now)
        except StoreFailed:
            pass  # the next start finds the row
        finally:
            self._in_flight.discard(row)

    async def look_back(self) -> None:
        """See what former lives of this master have left; before anything ends in this one."""
        self._last = await self.master.db.pool.do(_last)

    async def resume(self) -> None:
        """Tell that, and from now on whatever has failed; when all reporters are there."""
        names = [r.name or "" for r in self._reporters()]
        await self.master.db.pool.do_with_transaction(_take_over, names, self.wanting, self._last)
        timer: Any = internet.TimerService(LOOK_EVERY_S, self._look)
        timer.clock = self.master.reactor
        timer.setServiceParent(self)

    async def drop(self, id: int) -> bool:
        """Forget a row; whether there was one."""

        def delete(conn: sa.engine.Connection) -> bool:
            return conn.execute(outbox.delete().where(outbox.c.id == id)).rowcount > 0

        found: bool = await self.master.db.pool.do_with_transaction(delete)
        return found

    def _look(self) -> None:
        d = defer.ensureDeferred(self._retry())
        d.addErrback(lambda failure: failure.trap(StoreFailed))

    async def _retry(self) -> None:
        for row in await self.master.db.pool.do(_due, self.master.reactor.seconds()):
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
            await self.master.db.pool.do_with_transaction(_note, (name, kind, id), Delivery(), 0)
            self._in_flight.discard((name, kind, id))
            return
        for consumer in consumers:
            await self.deliver(reporters[0], consumer, key, copy.deepcopy(event))


def add(
    conn: sa.engine.Connection,
    reporters: list[str],
    kind: str,
    about: int,
    retry_at: float | None = None,
) -> None:
    """These reporters have this to tell; commits nothing."""
    for reporter in reporters:
        row = {"reporter": reporter, "kind": kind, "about": about}
        conn.execute(outbox.insert().values(**row, attempts=0, retry_at=retry_at))


def _is(row: tuple[str, str, int]) -> sa.ColumnElement[bool]:
    return sa.and_(outbox.c.reporter == row[0], outbox.c.kind == row[1], outbox.c.about == row[2])


def _note(
    conn: sa.engine.Connection, row: tuple[str, str, int], delivery: Delivery, now: float
) -> None:
    """The reporter is done with it, or has failed."""
    if delivery.error is None:
        conn.execute(outbox.delete().where(_is(row)))
        return
    attempts = conn.execute(sa.select(outbox.c.attempts).where(_is(row))).scalar() or 0
    wait_s = min(FIRST_RETRY_S * 2 ** min(attempts, LONGEST), LAST_RETRY_S)
    is_over = delivery.is_final and attempts + 1 >= REFUSALS
    values = {
        "attempts": attempts + 1,
        "retry_at": None if is_over else now + wait_s,
        "error": delivery.error[:ERROR_LENGTH],
    }
    conn.execute(outbox.update().where(_is(row)).values(values))


def _last(conn: sa.engine.Connection) -> int:
    return conn.execute(sa.select(sa.func.max(outbox.c.id))).scalar() or 0


def _take_over(conn: sa.engine.Connection, names: list[str], wanting: Any, last: int) -> None:
    """Make what was left, up to this id, due now.

    What a recovery has left names no reporter: it knew of none.  That of reporters that are
    configured no more is dropped.
    """
    unnamed = outbox.c.reporter == ""
    for kind, about in conn.execute(sa.select(outbox.c.kind, outbox.c.about).where(unnamed)).all():
        add(conn, wanting(kind, about), kind, about, retry_at=0.0)
    conn.execute(outbox.delete().where(sa.or_(unnamed, outbox.c.reporter.not_in(names))))
    conn.execute(outbox.update().where(outbox.c.id <= last).values(retry_at=0.0))


def _due(conn: sa.engine.Connection, now: float) -> list[tuple[str, str, int]]:
    query = sa.select(outbox.c.reporter, outbox.c.kind, outbox.c.about)
    rows = conn.execute(query.where(outbox.c.retry_at <= now).order_by(outbox.c.id))
    return [(row[0], row[1], row[2]) for row in rows]


def _note_error(event: dict[str, Any]) -> None:
    """A log observer: reporters log what went wrong, and say nothing else of it."""
    delivery = delivering.get()
    if delivery is not None and event.get("isError"):
        failure = event.get("failure")
        delivery.error = failure.getErrorMessage() if failure else "an error was logged"
