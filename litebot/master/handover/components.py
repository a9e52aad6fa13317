"""Buildbot's database components for schedulers, their state and buildsets, with the hand-overs."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from buildbot.db import builds
from buildbot.db import buildsets
from buildbot.db import schedulers
from buildbot.db import state
from buildbot.schedulers.timed import Timed
from buildbot.util import datetime2epoch
from twisted.internet import defer
from twisted.python import log

from litebot.master import outbox
from litebot.master.handover import effects
from litebot.master.handover import subscriptions
from litebot.master.handover.changes import last_change


@defer.inlineCallbacks
def install(db: Any) -> Any:
    """Put these in the place of Buildbot's; before the database is opened."""
    for name, component in COMPONENTS.items():
        yield getattr(db, name).disownServiceParent()
        made = component(db)
        setattr(db, name, made)
        yield made.setServiceParent(db)


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
            table = self.db.model.scheduler_changes
            effects.forget_changes(conn, schedulerid, classifications)
            for changeid, important in classifications.items():
                row = {"schedulerid": schedulerid, "changeid": changeid}
                conn.execute(table.insert().values(**row, important=int(bool(important))))
                effects.mark_seen(conn, schedulerid, changeid)

        handover = effects.handing_over.get()

        def done(_result: None) -> None:
            if handover is not None and handover.schedulerid == schedulerid:
                handover.done = handover.changeid in classifications

        return self.db.pool.do_with_transaction(thd).addCallback(done)

    def getChangeClassifications(
        self, schedulerid: int, *args: Any, **kwargs: Any
    ) -> defer.Deferred[dict[int, bool]]:
        """As Buildbot's; a buildset that the caller goes on to add makes them forgotten."""
        taking = effects.Taken(schedulerid)
        effects.taken.set(taking)

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
        taking = effects.taken.get()
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
        if name == "upstream_bsids":
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
        for name, (objectid, value) in self.pending.get(scheduler or "", {}).items():
            effects.set_state(conn, objectid, name, json.dumps(value))

    def forget_pending(self, scheduler: str | None) -> None:
        """It is committed."""
        self.pending.pop(scheduler or "", None)

    def _thd_subscribe(self, conn: sa.engine.Connection, objectid: int, bsids: list[int]) -> None:
        effects.set_state(conn, objectid, "upstream_bsids", json.dumps(bsids))
        subscriptions.settle(conn, objectid, bsids)
        conn.commit()


class Builds(builds.BuildsConnectorComponent):
    """Ends a build together with the duty to report it."""

    def finishBuild(self, buildid: int, results: int) -> defer.Deferred[None]:
        at = int(self.master.reactor.seconds())
        reporters = self.db.master.outbox.wanting("builds", buildid)

        def thd(conn: sa.engine.Connection) -> None:
            table = self.db.model.builds
            ended = table.update().where(table.c.id == buildid)
            conn.execute(ended.values(complete_at=at, results=results))
            outbox.add(conn, reporters, "builds", buildid)

        return self.db.pool.do_with_transaction(thd)


class Buildsets(buildsets.BuildsetsConnectorComponent):
    """Adds a buildset together with what the hand-overs say of it, and reports its end."""

    def completeBuildset(
        self, bsid: int, results: int, complete_at: Any = None
    ) -> defer.Deferred[None]:
        """As Buildbot's.  Raises AlreadyCompleteError."""
        at = datetime2epoch(complete_at) or int(self.master.reactor.seconds())
        reporters = self.db.master.outbox.wanting("buildsets", bsid)

        def thd(conn: sa.engine.Connection) -> None:
            table = self.db.model.buildsets
            open_ = table.update().where(table.c.id == bsid, table.c.complete == 0)
            ended = conn.execute(open_.values(complete=1, results=results, complete_at=at))
            if ended.rowcount != 1:
                raise buildsets.AlreadyCompleteError
            outbox.add(conn, reporters, "buildsets", bsid)

        return self.db.pool.do_with_transaction(thd)

    @defer.inlineCallbacks
    def addBuildset(
        self,
        sourcestamps: list[Any],
        reason: str,
        properties: dict[str, tuple[Any, str]] | None,
        builderids: list[int],
        waited_for: bool,
        external_idstring: str | None = None,
        submitted_at: Any = None,
        rebuilt_buildid: int | None = None,
        parent_buildid: int | None = None,
        parent_relationship: str | None = None,
        priority: int = 0,
    ) -> Any:
        """As Buildbot's: returns the buildset's id, and the request's id of each builder's."""
        at = datetime2epoch(submitted_at)
        ssids = []
        for stamp in sourcestamps:
            if not isinstance(stamp, int):
                stamp = yield self.db.sourcestamps.findSourceStampId(**stamp)
            ssids.append(stamp)
        row: dict[str, Any] = {
            "submitted_at": int(self.master.reactor.seconds()) if at is None else at,
            "reason": reason,
            "rebuilt_buildid": rebuilt_buildid,
            "complete": 0,
            "results": -1,
            "external_idstring": external_idstring,
            "parent_buildid": parent_buildid,
            "parent_relationship": parent_relationship,
        }
        request = {"priority": priority, "waited_for": int(waited_for)}
        properties = properties or {}
        scheduler = properties.get("scheduler", (None, ""))[0] if rebuilt_buildid is None else None
        links = subscriptions.links(self.db.master, scheduler, reason)
        handover, taken = effects.handing_over.get(), effects.taken.get()

        def thd(conn: sa.engine.Connection) -> tuple[int, dict[int, int]]:
            bsid = self._insert(conn, row, properties, ssids)
            brids = self._insert_requests(conn, bsid, row["submitted_at"], builderids, request)
            for effect in (handover, taken):
                if effect is not None:
                    effect.write(conn, bsid)
            self.db.state.thd_write_pending(conn, scheduler)
            subscriptions.note(conn, links, bsid, ssids)
            return bsid, brids

        bsid, brids = yield self.db.pool.do_with_transaction(thd)
        self.db.state.forget_pending(scheduler)
        for effect in (handover, taken):
            if effect is not None:
                effect.done = True
        self.getBuildsetProperties.cache.put(bsid, buildsets.BsProps(properties))
        return bsid, brids

    def _insert(
        self,
        conn: sa.engine.Connection,
        row: dict[str, Any],
        properties: dict[str, tuple[Any, str]],
        ssids: list[int],
    ) -> int:
        model = self.db.model
        self.checkLength(model.buildsets.c.reason, row["reason"])
        self.checkLength(model.buildsets.c.external_idstring, row["external_idstring"])
        result = conn.execute(model.buildsets.insert().values(row))
        bsid: int = result.inserted_primary_key[0]  # type: ignore[index]
        for name, (value, source) in properties.items():
            self.checkLength(model.buildset_properties.c.property_name, name)
            text = json.dumps([value, source])
            values = {"buildsetid": bsid, "property_name": name, "property_value": text}
            conn.execute(model.buildset_properties.insert().values(values))
        for ssid in ssids:
            values = {"buildsetid": bsid, "sourcestampid": ssid}
            conn.execute(model.buildset_sourcestamps.insert().values(values))
        return bsid

    def _insert_requests(
        self,
        conn: sa.engine.Connection,
        bsid: int,
        submitted_at: int,
        builderids: list[int],
        request: dict[str, int],
    ) -> dict[int, int]:
        brids = {}
        common = {"buildsetid": bsid, "submitted_at": submitted_at, "complete": 0, "results": -1}
        for builderid in builderids:
            values = {**common, **request, "builderid": builderid}
            result = conn.execute(self.db.model.buildrequests.insert().values(values))
            brids[builderid] = result.inserted_primary_key[0]  # type: ignore[index]
        return brids


COMPONENTS = {"schedulers": Schedulers, "state": State, "builds": Builds, "buildsets": Buildsets}
