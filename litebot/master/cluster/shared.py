"""The cluster of one of several masters on a Postgres database.

Each master holds a lock of the server for as long as it lives (`session`, `peers`), records what it
has configured (`registry`) and receives the events of the others (`queue`).  When a master is dead,
another takes over what it left (`takeover`, `succession`), and each checks what it can claim now.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING
from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer

from litebot.errors import StoreError
from litebot.master.cluster import claims
from litebot.master.cluster import registry
from litebot.master.cluster import succession
from litebot.master.cluster.checks import refuse_running
from litebot.master.cluster.checks import refuse_strangers
from litebot.master.cluster.checks import refuse_two_sites
from litebot.master.cluster.events import Event
from litebot.master.cluster.peers import fence
from litebot.master.cluster.queue import SharedQueue
from litebot.master.cluster.takeover import suspects
from litebot.master.db import move_away
from litebot.master.db import postgres
from litebot.master.db import schema
from litebot.master.db.cluster import Alone
from litebot.master.db.pool import NotOurs
from litebot.master.db.pool import Outage
from litebot.master.delivery import effects
from litebot.store.sql import Sql

if TYPE_CHECKING:
    from litebot.master.cluster.session import Session


class Shared(Alone):
    """`master.cluster` on Postgres.  See Alone for what each method is for.

    It is the listener of its session.  `outage_changed` is called with each outage of the session
    when it begins, and with None when it ends.
    """

    others_may_report = True

    def __init__(self, outage_changed: Callable[[Outage | None], None]) -> None:
        super().__init__()
        self._outage_changed = outage_changed
        self.session: Session | None = None  # until join()
        self._startid = 0
        self._takes_part = False
        self._consumer: Any = None

    @property
    def outage(self) -> Outage | None:  # type: ignore[override]
        """Since when the session has failed; None while it works."""
        return self.session.outage if self.session is not None else None

    @defer.inlineCallbacks
    def startService(self) -> Any:
        yield super().startService()
        # When a master starts, what it had claimed in its former process is free.
        key = ("masters", None, None)
        self._consumer = yield self.master.mq.startConsuming(self._on_master_changed, key)

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        if self._consumer is not None:
            yield self._consumer.stopConsuming()
            self._consumer = None
        yield super().stopService()

    # questions inside a transaction

    def lock_build_numbers(self, sql: Sql, builderid: int) -> None:
        sql.row("SELECT pg_advisory_xact_lock(hashtext('litebot_builds'), ?)", builderid)

    def lock_buildset(self, sql: Sql, bsid: int) -> None:
        # Without the lock, two masters that complete the last two requests at the same time would
        # each see the other's request as incomplete.
        sql.row("SELECT id FROM buildsets WHERE id = ? FOR UPDATE", bsid)

    def order_changes(self, sql: Sql) -> None:
        sql.row("SELECT pg_advisory_xact_lock(hashtext('litebot_changes'))")

    def require_scheduler(self, conn: sa.engine.Connection, schedulerid: int) -> None:
        effects.require_scheduler(conn, schedulerid, self.master.masterid)

    def require_scheduler_named(self, conn: sa.engine.Connection, name: str | None) -> None:
        schedulers = Model.schedulers
        query = sa.select(schedulers.c.id).where(schedulers.c.name == name)
        for schedulerid in conn.execute(query).scalars():
            self.require_scheduler(conn, schedulerid)

    def has_scheduler_of_state(self, conn: sa.engine.Connection, objectid: int) -> bool:
        objects = Model.objects
        name = conn.execute(sa.select(objects.c.name).where(objects.c.id == objectid)).scalar()
        try:
            self.require_scheduler_named(conn, name)
        except NotOurs:
            return False  # the master that has it now has read all that is recorded
        return True

    def configured_elsewhere(self, schedulerid: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
        return schedulerid.in_(registry.schedulers())

    def reporters_elsewhere(
        self, conn: sa.engine.Connection, kind: str, here: list[str]
    ) -> list[tuple[str, int]]:
        return registry.reporters_elsewhere(conn, kind, self.master.masterid, here)

    # the life of a master

    @property
    def _url(self) -> str:
        url: str = self.master.db.configured_db_config.db_url
        return url

    async def enter(self) -> None:
        name = postgres.shown(self._url)
        await self.master.db.pool.do(move_away.begin, name, self.master.files.master_name)

    def refuse_upgrade(self, conn: sa.engine.Connection) -> None:
        if schema.is_older(conn):
            refuse_running(conn, postgres.shown(self._url), self.master.files.master_name)

    async def join(self) -> None:
        from litebot.master.cluster.session import Session  # these need psycopg
        from litebot.master.db.postgres.server import Server

        master, pool = self.master, self.master.db.pool
        server = Server(self._url, master.files.path)
        await pool.do(refuse_two_sites, server.shown)
        await pool.do(refuse_strangers, server.shown)
        self.session = Session(
            server, master.reactor, master.masterid, master.name, suspects, listener=self
        )
        pool.application_name = postgres.application_name(master.masterid)
        try:
            await self.session.start()
        except StoreError:
            master.masterid = None  # another process has this id: do not mark it as stopped
            raise

    def started_as(self, startid: int) -> None:
        assert self.session is not None
        self._startid = startid
        self.session.started_as(startid)
        check = partial(_check_reconnected, startid=startid, name=postgres.shown(self._url))
        self.master.db.pool.before_batch_after_reconnect = check

    async def take_part(self) -> None:
        self._takes_part = True
        await succession.cancel_again(self.master)

    async def introduce(self) -> None:
        master = self.master
        configured = list(self._configured())
        await master.db.pool.do_with_transaction(registry.write, master.masterid, configured)
        event = {"masterid": master.masterid, "name": master.name, "active": True}
        master.data.rtypes.master.produceEvent(event, "updated")

    def _configured(self) -> Iterator[tuple[str, str]]:
        for scheduler in self.master.allSchedulers():
            yield registry.SCHEDULER, scheduler.name
        for reporter, wanted in self.master.outbox.configured():
            for kind in (registry.REPORTER, *wanted):
                yield kind, reporter

    async def leave(self) -> None:
        await claims.release_all(self.master)

    async def close(self) -> None:
        if self.session is not None:
            await self.session.stop()

    def own_reports(self) -> tuple[int, ...] | None:
        return (self.master.masterid, 0)  # an older litebot has written rows with 0

    async def reporters_of_others(self) -> dict[int, set[str]]:
        found: dict[int, set[str]] = await self.master.db.pool.do(
            registry.reporters_of_others, self.master.masterid
        )
        return found

    async def masters_with_locks(self) -> set[str]:
        names: set[str] = await self.master.db.pool.do(registry.litebot_masters)
        return names

    # what the session and the other masters report; see session.Listener

    def on_events(self, events: list[Event]) -> None:
        queue = self.master.mq.impl
        if isinstance(queue, SharedQueue):  # with wamp, events come from its router
            queue.deliver(events)

    def on_gap(self) -> None:
        succession.catch_up(self.master)

    @async_to_deferred
    async def on_dead(self, masterid: int, holder: int) -> None:
        """Take over, unless this master is still starting or stops; the session calls again."""
        if self._takes_part and self.master.running:
            await succession.take_over(self.master, masterid, holder, self._startid)

    def on_failure(self, error: StoreError) -> None:
        self.master.db.pool.fail(error)

    def on_outage(self, outage: Outage | None) -> None:
        self._outage_changed(outage)

    def _on_master_changed(self, _key: tuple[str, ...], event: dict[str, Any]) -> None:
        if event["masterid"] != self.master.masterid:
            succession.catch_up(self.master)


def _check_reconnected(conn: sa.engine.Connection, startid: int, name: str) -> None:
    """Raise TakenOver if another master has taken over, StoreError if the database was moved."""
    fence(conn, startid)
    move_away.refuse(conn, name)
