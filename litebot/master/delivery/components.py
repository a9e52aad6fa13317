"""Buildbot's database components for schedulers, their state and buildsets, with the hand-overs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from buildbot.db import schedulers
from buildbot.db import state
from buildbot.schedulers.timed import Timed
from twisted.internet import defer
from twisted.python import log

from litebot.master.db.components.builds import BuildsConnectorComponent
from litebot.master.db.components.buildsets import BuildsetsConnectorComponent
from litebot.master.db.components.changes import ChangeOrigin
from litebot.master.db.components.changes import ChangesConnectorComponent
from litebot.master.db.components.values import AlsoEnds
from litebot.master.delivery import effects
from litebot.master.delivery import origins
from litebot.master.delivery import outbox
from litebot.master.delivery import subscriptions
from litebot.master.delivery.changes import last_change
from litebot.master.delivery.states import set_state


class Schedulers(schedulers.SchedulersConnectorComponent):
    """Classifies a change and marks it as handed over in one transaction."""

    def enable(self, schedulerid: int, v: bool) -> defer.Deferred[None]:
        """As Buildbot's; what came while the scheduler was disabled is not for it."""

        def thd(conn: sa.engine.Connection) -> None:
            table = self.db.model.schedulers
            mine = table.c.id == schedulerid
            was = conn.execute(sa.select(table.c.enabled).where(mine)).scalar()
            conn.execute(table.update().where(mine).values(enabled=int(v)))
            if v and not was:
                effects.begin_after(conn, schedulerid, last_change(conn))

        return self.db.pool.do_with_transaction(thd)

    def classifyChanges(
        self, schedulerid: int, classifications: dict[int, bool]
    ) -> defer.Deferred[None]:
        def thd(conn: sa.engine.Connection) -> None:
            self.db.cluster.require_scheduler(conn, schedulerid)
            table = self.db.model.scheduler_changes
            effects.forget_changes(conn, schedulerid, classifications)
            built = effects.built(conn, schedulerid, classifications)
            for changeid, important in classifications.items():
                row = {"schedulerid": schedulerid, "changeid": changeid}
                # A scheduler that resumes looks at all that waited; a timer may fire meanwhile.
                if changeid not in built:
                    conn.execute(table.insert().values(**row, important=int(bool(important))))
                effects.mark_seen(conn, schedulerid, changeid)

        delivery = effects.scheduler_delivery.get()

        def done(_result: None) -> None:
            if delivery is not None and delivery.schedulerid == schedulerid:
                delivery.done = delivery.changeid in classifications

        return self.db.pool.do_with_transaction(thd).addCallback(done)

    def getChangeClassifications(
        self, schedulerid: int, *args: Any, **kwargs: Any
    ) -> defer.Deferred[dict[int, bool]]:
        """As Buildbot's; a buildset that the caller goes on to add makes them forgotten."""
        taking = effects.ClassifiedChanges(schedulerid, self.db.cluster)
        effects.classified_changes.set(taking)

        def remember(found: dict[int, bool]) -> dict[int, bool]:
            taking.changeids = list(found)
            return found

        d = super().getChangeClassifications(schedulerid, *args, **kwargs)
        return d.addCallback(remember)

    def flushChangeClassifications(
        self, schedulerid: int, less_than: int | None = None
    ) -> defer.Deferred[None]:
        """As Buildbot's; after a buildset, only the changes that are in it.

        Others that are less than its last one are those of other branches, and of later timers:
        they wait for buildsets of their own.  Most often nothing is left to do, but a scheduler
        of a user's may have added its buildset from a callback, which does not know of them.
        """
        taking = effects.classified_changes.get()
        if less_than is None or taking is None or taking.schedulerid != schedulerid:
            return super().flushChangeClassifications(schedulerid, less_than)
        if taking.done:
            return defer.succeed(None)
        return self.db.pool.do_with_transaction(
            effects.forget_changes, schedulerid, taking.changeids
        )


class State(state.StateConnectorComponent):
    """Writes with a buildset what a scheduler's state says of that buildset."""

    def __init__(self, connector: Any) -> None:
        super().__init__(connector)
        # By the names of timed schedulers: objectid, name and value of each.
        self.pending: dict[str, dict[str, tuple[int, Any]]] = {}

    def setState(self, objectid: int, name: str, value: Any) -> defer.Deferred[None]:
        if name in {"last_build", "lastTrigger"}:
            scheduler = self._actuating(objectid)
            if scheduler is not None and (name == "last_build" or value is None):
                self._defer(scheduler, objectid, name, value)
                return defer.succeed(None)
        if name == subscriptions.STATE:
            return self.db.pool.do(self._thd_subscribe, objectid, value)
        return super().setState(objectid, name, value)

    def _actuating(self, objectid: int) -> Timed | None:
        """The timed scheduler with this state, if it is at its hour."""
        for scheduler in self.db.master.allSchedulers():
            if isinstance(scheduler, Timed) and scheduler._objectid == objectid:
                return scheduler if scheduler.actuationLock.locked else None
        return None

    def _defer(self, scheduler: Timed, objectid: int, name: str, value: Any) -> None:
        """Write it with the scheduler's next buildset; without one, when its hour is over."""
        pending = self.pending.setdefault(scheduler.name or "", {})
        pending[name] = (objectid, value)
        d = scheduler.actuationLock.run(self._write_pending, scheduler.name)
        d.addErrback(log.err, f"while writing {name} of scheduler {scheduler.name}")

    def _write_pending(self, scheduler: str) -> defer.Deferred[None] | None:
        if scheduler not in self.pending:
            return None
        d = self.db.pool.do_with_transaction(self.thd_write_pending, scheduler)
        return d.addCallback(lambda _: self.forget_pending(scheduler))

    def thd_write_pending(self, conn: sa.engine.Connection, scheduler: str | None) -> None:
        """Write what waits for this scheduler's buildset; commits nothing."""
        for name, (objectid, value) in list(self.pending.get(scheduler or "", {}).items()):
            set_state(conn, objectid, name, value)

    def forget_pending(self, scheduler: str | None) -> None:
        """It is committed."""
        self.pending.pop(scheduler or "", None)

    def _thd_subscribe(self, conn: sa.engine.Connection, objectid: int, bsids: list[int]) -> None:
        if self.db.cluster.has_scheduler_of_state(conn, objectid):
            set_state(conn, objectid, subscriptions.STATE, bsids)
            subscriptions.settle(conn, objectid, bsids)
            conn.commit()


class Changes(ChangesConnectorComponent):
    """Adds changes together with what their source is to know of them."""

    def change_origin(self) -> ChangeOrigin | None:
        """Where the changes come from that this task adds."""
        return origins.change_origin.get()


class Builds(BuildsConnectorComponent):
    """Ends a build together with the duty to report it; has each say which attempt it is."""

    @defer.inlineCallbacks
    def addBuild(self, builderid: int, buildrequestid: int, *args: Any, **kwargs: Any) -> Any:
        """Start a build; from the second attempt on it has the property before its first step."""
        added = yield super().addBuild(builderid, buildrequestid, *args, **kwargs)
        attempts = self.db.master.attempts
        properties = yield defer.ensureDeferred(attempts.properties_of(buildrequestid, added[0]))
        if properties:
            yield self.set_properties(added[0], properties)
        return added

    def also_ends(self, buildid: int) -> AlsoEnds | None:
        """Writes down which reporters have to tell of the end of this build."""
        return _duty(self.db.master, "builds", buildid)


class Buildsets(BuildsetsConnectorComponent):
    """Adds a buildset together with what the hand-overs say of it."""

    def also_writes(self, scheduler: str | None, reason: str) -> Effects | None:
        """What the hand-overs say of a buildset that this task adds for a scheduler."""
        found = Effects(
            self.db,
            scheduler,
            subscriptions.links(self.db.master, scheduler, reason),
            effects.scheduler_delivery.get(),
            effects.classified_changes.get(),
        )
        return found if found.any else None

    def also_ends(self, bsid: int) -> AlsoEnds | None:
        """Writes down which reporters have to tell of the end of this buildset."""
        return _duty(self.db.master, "buildsets", bsid)


def _duty(master: Any, kind: str, id: int) -> AlsoEnds | None:
    reporters = master.outbox.wanting(kind, id)
    if not reporters and not master.cluster.others_may_report:
        return None
    what = {"kind": kind, "about": id, "masterid": master.masterid}
    return partial(outbox.add, reporters=reporters, **what, cluster=master.cluster)


@dataclass(frozen=True)
class Effects:
    """What is written with a buildset of `scheduler`."""

    db: Any
    scheduler: str | None
    links: subscriptions.Links
    delivery: effects.SchedulerDelivery | None
    classified_changes: effects.ClassifiedChanges | None

    @property
    def any(self) -> bool:
        """Whether there is anything to write."""
        pending = (self.scheduler or "") in self.db.state.pending
        linked = self.links != subscriptions.Links()
        return pending or linked or self.delivery is not None or self.classified_changes is not None

    def write(self, conn: sa.engine.Connection, bsid: int, ssids: list[int]) -> None:
        """Write it; commits nothing.  Raises NotOurs."""
        if self._acts_by_itself:
            self.db.cluster.require_scheduler_named(conn, self.scheduler)
        if self.delivery is not None:
            self.delivery.write(conn, bsid)
        if self.classified_changes is not None:
            self.classified_changes.write(conn, bsid)
        self.db.state.thd_write_pending(conn, self.scheduler)
        subscriptions.note(conn, self.links, bsid, ssids)

    @property
    def _acts_by_itself(self) -> bool:
        """Whether the scheduler does so on one master alone: at its hour, or after another one."""
        pending = (self.scheduler or "") in self.db.state.pending
        return pending or self.links.lose is not None

    def written(self) -> None:
        """It is committed."""
        self.db.state.forget_pending(self.scheduler)
        for effect in (self.delivery, self.classified_changes):
            if effect is not None:
                effect.done = True


COMPONENTS = {
    "changes": Changes,
    "schedulers": Schedulers,
    "state": State,
    "builds": Builds,
    "buildsets": Buildsets,
}
