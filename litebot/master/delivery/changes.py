"""Hands each change to each scheduler, in order, and goes on after a crash where it had stopped."""

from __future__ import annotations

import copy
from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model
from buildbot.schedulers.dependent import Dependent
from buildbot.util import service
from twisted.internet import defer
from twisted.internet import task
from twisted.internet.error import AlreadyCalled
from twisted.python import log

from litebot.errors import StoreFailed
from litebot.master.db import tables
from litebot.master.db.cluster import Alone
from litebot.master.db.pool import NotOurs
from litebot.master.delivery import subscriptions
from litebot.master.delivery.effects import SchedulerDelivery
from litebot.master.delivery.effects import begin_after
from litebot.master.delivery.effects import scheduler_delivery
from litebot.master.runtime.deferreds import when_fired

positions = tables.scheduler_positions

GIVEN_AT_ONCE = 100

# How long a part of a reconfig may keep changes from the schedulers, or one change the reconfig.
PAUSE_S = 10.0


class ChangeDelivery(service.AsyncService):
    """`master.handovers`: for each scheduler the last change that it has dealt with.

    Events say only that there may be something new: what is new is asked of the database.  A
    scheduler that is configured for the first time begins with the changes that came after that.
    """

    name: str | None = "handovers"

    def __init__(self) -> None:
        super().__init__()
        self._first = 0
        self._paused = True
        self._patience: Any = None
        self._stopping = False
        self._races = 0
        self._again: set[int] = set()
        self._telling = defer.DeferredLock()
        self._is_to_tell = False
        self._of_all = False
        self._running: dict[int, defer.Deferred[None]] = {}

    @defer.inlineCallbacks
    def startService(self) -> Any:
        log.addObserver(self._note_error)
        yield super().startService()

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        self._stopping = True
        yield defer.DeferredList(list(self._running.values()))
        log.removeObserver(self._note_error)
        yield super().stopService()

    # while the configuration changes

    async def pause(self) -> None:
        """Hand over nothing until resume: builders come and go, and then the schedulers.

        Where it takes long to come to the schedulers, they go on as they are until then.
        """
        self._first = await self.master.db.pool.do(last_change)
        self._paused = True
        self._patience = self.master.reactor.callLater(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._paused = False
        self.wake_all()
        self.tell_dependents()

    async def rest(self) -> None:
        """Hand over nothing until resume, and wait for what is being handed over.

        Else a scheduler could be changed, or replaced, while it deals with a change.
        """
        self._lose_patience()
        self._paused = True
        running = [when_fired(d) for d in self._running.values()]
        resting = defer.DeferredList(running, consumeErrors=True)
        await resting.addTimeout(PAUSE_S, self.master.reactor)

    def _lose_patience(self) -> None:
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        self._patience = None

    async def resume(self) -> None:
        """Look for what the schedulers that want changes have missed, and forget the others."""
        self._lose_patience()
        if not self._paused:
            return
        for scheduler in self._schedulers():
            if not scheduler.enabled:  # Buildbot has it listen again where it is changed
                await scheduler._stopConsumingChanges()
        wanting = [s.serviceid for s in self._schedulers() if s._change_consumer is not None]
        await self.master.db.pool.do(_keep, wanting, self._first, self.master.cluster)
        self._paused = False
        self.wake_all()
        await self._telling.run(self._tell)

    async def _resubscribe(self, of_all: bool) -> None:
        """Tell Dependent schedulers of buildsets whose event came before they listened."""
        by_objectid = {s.objectid: s for s in self._schedulers() if isinstance(s, Dependent)}
        for objectid, bsid in await self.master.db.pool.do(_unsettled):
            scheduler: Any = by_objectid.get(objectid)
            if scheduler is None or not scheduler.enabled:
                continue
            consumer = scheduler._buildset_new_consumer
            if consumer is None or scheduler._buildset_complete_consumer is None:
                continue  # it begins to listen, and is told then
            event = {"bsid": bsid, "scheduler": scheduler.upstream_name}
            await defer.maybeDeferred(consumer.invoke, ("buildsets", str(bsid), "new"), event)
            await _recheck_complete(scheduler)
        if of_all:
            for scheduler in by_objectid.values():
                if scheduler.enabled and scheduler._buildset_complete_consumer is not None:
                    await _recheck_complete(scheduler)

    def tell_dependents(self, *, of_all: bool = False) -> None:
        """See whether a Dependent scheduler has missed a buildset; `of_all`: or the end of one."""
        self._of_all |= of_all
        if not (self._paused or self._stopping or self._is_to_tell):
            self._is_to_tell = True
            d = self._telling.run(self._tell)
            d.addErrback(lambda failure: failure.trap(StoreFailed))
            d.addErrback(lambda f: log.err(f, "while telling Dependent schedulers of buildsets"))

    def _tell(self) -> defer.Deferred[None]:
        of_all, self._of_all, self._is_to_tell = self._of_all, False, False
        return defer.ensureDeferred(self._resubscribe(of_all))

    def take_buildset(self, consumer: Any) -> bool:
        """Whether this consumer of new buildsets is a Dependent scheduler's: it is told from here.

        An event of another master may come when the scheduler has long acted on that buildset.
        """
        for scheduler in self._schedulers():
            if isinstance(scheduler, Dependent) and scheduler._buildset_new_consumer is consumer:
                self.tell_dependents()
                return True
        return False

    def _schedulers(self) -> list[Any]:
        """Those that are active here and have what Buildbot's base class has."""
        active = (s for s in self.master.allSchedulers() if s.active and s.serviceid is not None)
        return [s for s in active if hasattr(s, "_change_consumer")]

    # while it does not

    def take(self, consumer: Any) -> bool:
        """Whether this consumer of new changes is a scheduler's: then it gets them from here."""
        for scheduler in self.master.allSchedulers():
            if getattr(scheduler, "_change_consumer", None) is consumer:
                # One that is being stopped still listens.  Others may wait for it before this one.
                if scheduler.active:
                    self._wake(scheduler)
                return True
        return False

    def wake_all(self) -> None:
        """See whether there are changes for any scheduler."""
        for scheduler in self._schedulers():
            if scheduler._change_consumer is not None:
                self._wake(scheduler)

    def _wake(self, scheduler: Any) -> None:
        schedulerid = scheduler.serviceid
        self._again.add(schedulerid)
        if self._paused or self._stopping or schedulerid in self._running:
            return
        # Not before this function has ended, whatever it finds.
        d: defer.Deferred[Any] = task.deferLater(self.master.reactor, 0)
        self._running[schedulerid] = d
        d.addCallback(lambda _: defer.ensureDeferred(self._deliver_all(scheduler)))
        d.addErrback(lambda failure: failure.trap(StoreFailed, NotOurs))
        d.addErrback(lambda f: log.err(f, f"while handing changes to {scheduler.name}"))
        d.addBoth(lambda _: self._ended(schedulerid))

    def _ended(self, schedulerid: int) -> None:
        del self._running[schedulerid]
        if schedulerid in self._again:  # another scheduler may have its place now
            self.wake_all()

    async def _deliver_all(self, scheduler: Any) -> None:
        schedulerid = scheduler.serviceid
        while schedulerid in self._again:
            self._again.discard(schedulerid)
            changeids = await self.master.db.pool.do(_unseen, schedulerid)
            for changeid in changeids:
                # What is left then is found by the look that comes with the next consumer.
                if self._stopping or self._paused or scheduler._change_consumer is None:
                    return
                await self._deliver(scheduler, changeid)
            if len(changeids) == GIVEN_AT_ONCE:
                self._again.add(schedulerid)

    async def _deliver(self, scheduler: Any, changeid: int) -> None:
        delivery = SchedulerDelivery(scheduler.serviceid, changeid, self.master.cluster)
        key = ("changes", str(changeid))
        change = await self.master.data.get(key)
        if change is not None:  # it may have been pruned
            races = -1
            while races != self._races and not delivery.done:
                races = self._races
                if not await self._give(scheduler, delivery, (*key, "new"), change):
                    return
                if not getattr(scheduler, "treeStableTimer", None):
                    break  # it has no such timers
        if not delivery.done:
            await self.master.db.pool.do_with_transaction(delivery.write)

    async def _give(
        self, scheduler: Any, delivery: SchedulerDelivery, key: tuple[str, ...], change: Any
    ) -> bool:
        """Whether the scheduler was listening; if not, its next consumer is given the change."""
        consumer = scheduler._change_consumer
        if consumer is None:
            return False
        scheduler_delivery.set(delivery)
        await defer.maybeDeferred(consumer.invoke, key, copy.deepcopy(change))
        # The callback does not wait for gotChange, which has this lock.
        await scheduler._change_consumption_lock.run(lambda: None)
        # The lock is free a moment before an error of gotChange is logged.
        await task.deferLater(self.master.reactor, 0)
        scheduler_delivery.set(None)
        return True

    def _note_error(self, event: dict[str, Any]) -> None:
        """A log observer: one race of Buildbot's makes a scheduler drop a change.

        A change waits for the lock of the tree-stable timers, and its own timer fires meanwhile:
        cancelling that fails, and so does gotChange, before it has done anything.
        Source: buildbot/schedulers/basic.py, gotChange
        """
        if event.get("isError") and "failure" in event and event["failure"].check(AlreadyCalled):
            self._races += 1


async def _recheck_complete(scheduler: Any) -> None:
    # No id means: all that are complete.
    complete = scheduler._buildset_complete_consumer
    await defer.maybeDeferred(complete.invoke, ("buildsets", "0", "complete"), {"bsid": None})


def last_change(conn: sa.engine.Connection) -> int:
    """The id of the newest change, or 0."""
    return conn.execute(sa.select(sa.func.max(Model.changes.c.changeid))).scalar() or 0


def _unseen(conn: sa.engine.Connection, schedulerid: int) -> list[int]:
    """The next changes for a scheduler; where it is new, those that come after this."""
    mine = sa.select(positions.c.changeid).where(positions.c.schedulerid == schedulerid)
    seen = conn.execute(mine).scalar()
    if seen is None:
        begin_after(conn, schedulerid, last_change(conn))
        conn.commit()
        return []
    changes = Model.changes
    query = sa.select(changes.c.changeid).where(changes.c.changeid > seen)
    return list(conn.execute(query.order_by(changes.c.changeid).limit(GIVEN_AT_ONCE)).scalars())


def _keep(conn: sa.engine.Connection, wanting: list[int], first: int, cluster: Alone) -> None:
    """Keep the schedulers that want changes, here or on other masters; new ones begin.

    One that no master has at this moment may be on its way from one to another.
    """
    schedulerid = positions.c.schedulerid
    kept = sa.or_(schedulerid.in_(wanting), cluster.configured_elsewhere(schedulerid))
    conn.execute(positions.delete().where(sa.not_(kept)))
    known = set(conn.execute(sa.select(positions.c.schedulerid)).scalars())
    for new in set(wanting) - known:
        begin_after(conn, new, first)
    pruned = tables.built.c.changeid.not_in(sa.select(Model.changes.c.changeid))
    conn.execute(tables.built.delete().where(pruned))
    conn.commit()


def _unsettled(conn: sa.engine.Connection) -> list[tuple[int, int]]:
    table = subscriptions.subscriptions
    query = sa.select(table.c.objectid, table.c.bsid).where(table.c.wanted == 1)
    return [(row[0], row[1]) for row in conn.execute(query.order_by(table.c.bsid))]
