"""Buildbot's database components, which record deliveries in the transactions of their effects."""

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
from litebot.master.db.components.values import EndEffect
from litebot.master.delivery import change_origins
from litebot.master.delivery import effects
from litebot.master.delivery import outbox
from litebot.master.delivery import subscriptions
from litebot.master.delivery.changes import last_change
from litebot.master.delivery.states import set_state


class Schedulers(schedulers.SchedulersConnectorComponent):
    """Buildbot's, but classifies a change and records its delivery in one transaction."""

    def enable(self, schedulerid: int, v: bool) -> defer.Deferred[None]:
        """Do as Buildbot does; changes that came while the scheduler was disabled are skipped."""

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
                # A scheduler that resumes classifies again all changes that waited, and a timer
                # may meanwhile have made a buildset of some of them.
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
        """Do as Buildbot does; a buildset that the caller adds next deletes the classifications."""
        classified = effects.ClassifiedChanges(schedulerid, self.db.cluster)
        effects.classified_changes.set(classified)

        def remember(found: dict[int, bool]) -> dict[int, bool]:
            classified.changeids = list(found)
            return found

        d = super().getChangeClassifications(schedulerid, *args, **kwargs)
        return d.addCallback(remember)

    def flushChangeClassifications(
        self, schedulerid: int, less_than: int | None = None
    ) -> defer.Deferred[None]:
        """Do as Buildbot does, but after a buildset delete only the changes that are in it.

        Other changes with lower ids belong to other branches or to later timers, and wait for
        buildsets of their own.  Usually nothing is left to do.  But a scheduler written by a user
        may have added its buildset from a callback, in whose context these changes are not known.
        """
        classified = effects.classified_changes.get()
        if less_than is None or classified is None or classified.schedulerid != schedulerid:
            return super().flushChangeClassifications(schedulerid, less_than)
        if classified.done:
            return defer.succeed(None)
        return self.db.pool.do_with_transaction(
            effects.forget_changes, schedulerid, classified.changeids
        )


class State(state.StateConnectorComponent):
    """Buildbot's, but writes a scheduler's state about a buildset together with that buildset."""

    def __init__(self, connector: Any) -> None:
        super().__init__(connector)
        # Of each timed scheduler, by its name: {name of a state: (objectid, value)}.
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
        """Return the timed scheduler with this state if it is just being triggered by its timer."""
        for scheduler in self.db.master.allSchedulers():
            if isinstance(scheduler, Timed) and scheduler._objectid == objectid:
                return scheduler if scheduler.actuationLock.locked else None
        return None

    def _defer(self, scheduler: Timed, objectid: int, name: str, value: Any) -> None:
        """Write a state with the scheduler's next buildset, or without one after the actuation."""
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
        """Write the states that wait for a buildset of this scheduler; commits nothing."""
        for name, (objectid, value) in list(self.pending.get(scheduler or "", {}).items()):
            set_state(conn, objectid, name, value)

    def forget_pending(self, scheduler: str | None) -> None:
        """Forget the states that waited for a buildset of this scheduler: they are committed."""
        self.pending.pop(scheduler or "", None)

    def _thd_subscribe(self, conn: sa.engine.Connection, objectid: int, bsids: list[int]) -> None:
        if self.db.cluster.has_scheduler_of_state(conn, objectid):
            set_state(conn, objectid, subscriptions.STATE, bsids)
            subscriptions.remove_applied(conn, objectid, bsids)
            conn.commit()


class Changes(ChangesConnectorComponent):
    """Adds changes together with what their source records of them."""

    def change_origin(self) -> ChangeOrigin | None:
        """Return where the changes come from that this task adds."""
        return change_origins.change_origin.get()


class Builds(BuildsConnectorComponent):
    """Ends a build together with its rows of the outbox; numbers the attempts at a request."""

    @defer.inlineCallbacks
    def addBuild(self, builderid: int, buildrequestid: int, *args: Any, **kwargs: Any) -> Any:
        """Start a build; from the second attempt on, set its properties before its first step."""
        added = yield super().addBuild(builderid, buildrequestid, *args, **kwargs)
        attempts = self.db.master.attempts
        properties = yield defer.ensureDeferred(attempts.properties_of(buildrequestid, added[0]))
        if properties:
            yield self.set_properties(added[0], properties)
        return added

    def end_effect(self, buildid: int) -> EndEffect | None:
        """Return what records which reporters have to report the end of this build."""
        return _outbox_effect(self.db.master, "builds", buildid)


class Buildsets(BuildsetsConnectorComponent):
    """Adds a buildset together with the deliveries of which it is the effect."""

    def addition_effect(self, scheduler: str | None, reason: str) -> Effects | None:
        """Return what is recorded with a buildset that this task adds for a scheduler."""
        found = Effects(
            self.db,
            scheduler,
            subscriptions.links(self.db.master, scheduler, reason),
            effects.scheduler_delivery.get(),
            effects.classified_changes.get(),
        )
        return found if found.any else None

    def end_effect(self, bsid: int) -> EndEffect | None:
        """Return what records which reporters have to report the end of this buildset."""
        return _outbox_effect(self.db.master, "buildsets", bsid)


def _outbox_effect(master: Any, kind: str, id: int) -> EndEffect | None:
    reporters = master.outbox.wanting(kind, id)
    if not reporters and not master.db.cluster.others_may_report:
        return None
    row = {"kind": kind, "about": id, "masterid": master.masterid}
    return partial(outbox.add, reporters=reporters, **row, cluster=master.db.cluster)


@dataclass(frozen=True)
class Effects:
    """What is written in the transaction of a buildset that `scheduler` adds."""

    db: Any
    scheduler: str | None
    links: subscriptions.Links
    delivery: effects.SchedulerDelivery | None
    classified_changes: effects.ClassifiedChanges | None

    @property
    def any(self) -> bool:
        """Return whether there is anything to write."""
        pending = (self.scheduler or "") in self.db.state.pending
        linked = self.links != subscriptions.Links()
        return pending or linked or self.delivery is not None or self.classified_changes is not None

    def write(self, conn: sa.engine.Connection, bsid: int, ssids: list[int]) -> None:
        """Write everything; commits nothing.  Raises NotOurs."""
        if self._needs_claim:
            self.db.cluster.require_scheduler_named(conn, self.scheduler)
        if self.delivery is not None:
            self.delivery.write(conn, bsid)
        if self.classified_changes is not None:
            self.classified_changes.write(conn, bsid)
        self.db.state.thd_write_pending(conn, self.scheduler)
        subscriptions.record(conn, self.links, bsid, ssids)

    @property
    def _needs_claim(self) -> bool:
        """Return whether only the master that has the scheduler may add this buildset.

        That is so for a buildset of a timed scheduler's timer, and for one of a Dependent scheduler
        that follows its upstream.
        """
        pending = (self.scheduler or "") in self.db.state.pending
        return pending or self.links.lose is not None

    def written(self) -> None:
        """Note that everything is committed."""
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
