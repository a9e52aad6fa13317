"""Change delivery: gives each change to each scheduler, in order, and resumes after a crash."""

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
from litebot.master.runtime.error_log import logged_errors

positions = tables.scheduler_positions

# How many ids of changes are read at a time.
BATCH_SIZE = 100

# How long a reconfig may keep changes from the schedulers before it reaches them, and how long it
# waits for the changes that are being delivered.
MAX_PAUSE_S = 10.0


class ChangeDelivery(service.AsyncService):
    """`master.change_delivery`: gives each scheduler the changes that it has not dealt with yet.

    The database holds the last change that each scheduler has dealt with.  An event only says that
    there may be something new; what is new is read from the database.  A scheduler that is
    configured for the first time begins with the changes that arrive after that.
    """

    name: str | None = "change_delivery"

    def __init__(self) -> None:
        super().__init__()
        self._newest_at_pause = 0
        self._paused = True
        self._pause_timer: Any = None
        self._stopping = False
        self._to_check: set[int] = set()
        self._notify_lock = defer.DeferredLock()
        self._is_notify_due = False
        self._recheck_all = False
        self._running: dict[int, defer.Deferred[None]] = {}

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        self._stopping = True
        yield defer.DeferredList(list(self._running.values()))
        yield super().stopService()

    # while the configuration changes

    async def pause(self) -> None:
        """Start no delivery until resume, while builders and then schedulers are reconfigured.

        If the reconfig takes longer than MAX_PAUSE_S to reach the schedulers, deliveries to the
        schedulers as they are go on until it does.
        """
        self._newest_at_pause = await self.master.db.pool.do(last_change)
        self._paused = True
        self._pause_timer = self.master.reactor.callLater(MAX_PAUSE_S, self._end_pause)

    def _end_pause(self) -> None:
        self._paused = False
        self.check_all()
        self.notify_dependents()

    async def pause_and_wait(self) -> None:
        """Start no delivery until resume, and wait up to MAX_PAUSE_S for those that are running.

        Otherwise a scheduler could be changed or replaced while it deals with a change.
        """
        self._cancel_pause_timer()
        self._paused = True
        running = [when_fired(d) for d in self._running.values()]
        all_done = defer.DeferredList(running, consumeErrors=True)
        await all_done.addTimeout(MAX_PAUSE_S, self.master.reactor)

    def _cancel_pause_timer(self) -> None:
        if self._pause_timer is not None and self._pause_timer.active():
            self._pause_timer.cancel()
        self._pause_timer = None

    async def resume(self) -> None:
        """Deliver what the schedulers that listen for changes have missed, and forget the others.

        Does nothing if deliveries are not paused.
        """
        self._cancel_pause_timer()
        if not self._paused:
            return
        for scheduler in self._active_schedulers():
            if not scheduler.enabled:  # its reconfig has made it listen again
                await scheduler._stopConsumingChanges()
        listening = [
            s.serviceid for s in self._active_schedulers() if s._change_consumer is not None
        ]
        await self.master.db.pool.do(
            _keep_positions, listening, self._newest_at_pause, self.master.cluster
        )
        self._paused = False
        self.check_all()
        await self._notify_lock.run(self._notify)

    async def _notify_all(self, recheck_all: bool) -> None:
        """Notify Dependent schedulers of buildsets whose event came before they listened.

        With `recheck_all`, let each of them check all its buildsets that are complete.
        """
        by_objectid = {s.objectid: s for s in self._active_schedulers() if isinstance(s, Dependent)}
        for objectid, bsid in await self.master.db.pool.do(_pending_subscriptions):
            scheduler: Any = by_objectid.get(objectid)
            if scheduler is None or not scheduler.enabled:
                continue
            consumer = scheduler._buildset_new_consumer
            if consumer is None or scheduler._buildset_complete_consumer is None:
                continue  # it is about to listen, and will be notified then
            event = {"bsid": bsid, "scheduler": scheduler.upstream_name}
            await defer.maybeDeferred(consumer.invoke, ("buildsets", str(bsid), "new"), event)
            await _notify_complete(scheduler)
        if recheck_all:
            for scheduler in by_objectid.values():
                if scheduler.enabled and scheduler._buildset_complete_consumer is not None:
                    await _notify_complete(scheduler)

    def notify_dependents(self, *, recheck_all: bool = False) -> None:
        """Check whether a Dependent scheduler has missed a buildset.

        With `recheck_all`, check also whether one has missed the end of a buildset.
        """
        self._recheck_all |= recheck_all
        if not (self._paused or self._stopping or self._is_notify_due):
            self._is_notify_due = True
            d = self._notify_lock.run(self._notify)
            d.addErrback(lambda failure: failure.trap(StoreFailed))
            d.addErrback(lambda f: log.err(f, "while notifying Dependent schedulers of buildsets"))

    def _notify(self) -> defer.Deferred[None]:
        recheck_all, self._recheck_all, self._is_notify_due = self._recheck_all, False, False
        return defer.ensureDeferred(self._notify_all(recheck_all))

    def notify_buildset_consumer(self, consumer: Any) -> bool:
        """Return whether a consumer of new buildsets belongs to a Dependent scheduler.

        If so, check what the scheduler has missed; the event itself must not be delivered.  An
        event of another master may arrive long after the scheduler has acted on that buildset.
        """
        for scheduler in self._active_schedulers():
            if isinstance(scheduler, Dependent) and scheduler._buildset_new_consumer is consumer:
                self.notify_dependents()
                return True
        return False

    def _active_schedulers(self) -> list[Any]:
        """Return the schedulers that are active here and have what Buildbot's base class has."""
        active = (s for s in self.master.allSchedulers() if s.active and s.serviceid is not None)
        return [s for s in active if hasattr(s, "_change_consumer")]

    # delivering changes

    def notify_change_consumer(self, consumer: Any) -> bool:
        """Return whether a consumer of new changes belongs to a scheduler.

        If so, deliver what it has missed; the event itself must not be delivered.
        """
        for scheduler in self.master.allSchedulers():
            if getattr(scheduler, "_change_consumer", None) is consumer:
                # A scheduler that is being stopped still listens.  It must not get the event, as
                # older changes may wait for it, which would then count as dealt with.
                if scheduler.active:
                    self._check(scheduler)
                return True
        return False

    def check_all(self) -> None:
        """Check for each scheduler whether there are changes to deliver."""
        for scheduler in self._active_schedulers():
            if scheduler._change_consumer is not None:
                self._check(scheduler)

    def _check(self, scheduler: Any) -> None:
        schedulerid = scheduler.serviceid
        self._to_check.add(schedulerid)
        if self._paused or self._stopping or schedulerid in self._running:
            return
        # A later turn, so that it always runs after this function has returned.
        d: defer.Deferred[Any] = task.deferLater(self.master.reactor, 0)
        self._running[schedulerid] = d
        d.addCallback(lambda _: defer.ensureDeferred(self._deliver_all(scheduler)))
        d.addErrback(lambda failure: failure.trap(StoreFailed, NotOurs))
        d.addErrback(lambda f: log.err(f, f"while delivering changes to {scheduler.name}"))
        d.addBoth(lambda _: self._delivery_ended(schedulerid))

    def _delivery_ended(self, schedulerid: int) -> None:
        del self._running[schedulerid]
        if schedulerid in self._to_check:  # for another scheduler object, if it was replaced
            self.check_all()

    async def _deliver_all(self, scheduler: Any) -> None:
        schedulerid = scheduler.serviceid
        while schedulerid in self._to_check:
            self._to_check.discard(schedulerid)
            changeids = await self.master.db.pool.do(_unseen_changes, schedulerid)
            for changeid in changeids:
                # The rest is delivered by the check that follows the resume or the next consumer.
                if self._stopping or self._paused or scheduler._change_consumer is None:
                    return
                await self._deliver(scheduler, changeid)
            if len(changeids) == BATCH_SIZE:
                self._to_check.add(schedulerid)

    async def _deliver(self, scheduler: Any, changeid: int) -> None:
        delivery = SchedulerDelivery(scheduler.serviceid, changeid, self.master.cluster)
        key = ("changes", str(changeid))
        change = await self.master.data.get(key)
        owner = None if change is None else self.master.projects.scheduler_of(change)
        if change is not None and owner in (None, scheduler.name):  # it may have been pruned
            while not delivery.done:
                with logged_errors(of_all=True) as errors:
                    if not await self._invoke(scheduler, delivery, (*key, "new"), change):
                        return
                if not _has_lost_race(scheduler, errors):
                    break
        if not delivery.done:
            await self.master.db.pool.do_with_transaction(delivery.write)

    async def _invoke(
        self, scheduler: Any, delivery: SchedulerDelivery, key: tuple[str, ...], change: Any
    ) -> bool:
        """Give a change to a scheduler and wait for it; return whether the scheduler listened.

        If it did not, the change is delivered to its next consumer.
        """
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


def _has_lost_race(scheduler: Any, errors: list[BaseException]) -> bool:
    """Return whether a scheduler may have dropped its change, by the errors logged meanwhile.

    While a change waits for the lock of the tree-stable timers, the timer of its branch may fire.
    Cancelling that timer then fails, and so does gotChange, before it has done anything.
    Source: buildbot/schedulers/basic.py, gotChange
    """
    has_timers = bool(getattr(scheduler, "treeStableTimer", None))
    return has_timers and any(isinstance(error, AlreadyCalled) for error in errors)


async def _notify_complete(scheduler: Any) -> None:
    # An event without an id makes the scheduler check all its buildsets that are complete.
    complete = scheduler._buildset_complete_consumer
    await defer.maybeDeferred(complete.invoke, ("buildsets", "0", "complete"), {"bsid": None})


def last_change(conn: sa.engine.Connection) -> int:
    """Return the id of the newest change, or 0 if there is none."""
    return conn.execute(sa.select(sa.func.max(Model.changes.c.changeid))).scalar() or 0


def _unseen_changes(conn: sa.engine.Connection, schedulerid: int) -> list[int]:
    """Return the ids of a scheduler's next changes, at most BATCH_SIZE.

    A scheduler that is new has none: its position is set to the newest change, and committed.
    """
    mine = sa.select(positions.c.changeid).where(positions.c.schedulerid == schedulerid)
    seen = conn.execute(mine).scalar()
    if seen is None:
        begin_after(conn, schedulerid, last_change(conn))
        conn.commit()
        return []
    changes = Model.changes
    query = sa.select(changes.c.changeid).where(changes.c.changeid > seen)
    return list(conn.execute(query.order_by(changes.c.changeid).limit(BATCH_SIZE)).scalars())


def _keep_positions(
    conn: sa.engine.Connection, listening: list[int], newest: int, cluster: Alone
) -> None:
    """Keep the positions of schedulers that listen here or are configured on another master.

    Schedulers that are new begin after the change `newest`.  A scheduler that is active nowhere at
    this moment may be moving from one master to another.  Also deletes the rows of pruned changes
    from litebot_built.  Commits.
    """
    schedulerid = positions.c.schedulerid
    kept = sa.or_(schedulerid.in_(listening), cluster.configured_elsewhere(schedulerid))
    conn.execute(positions.delete().where(sa.not_(kept)))
    known = set(conn.execute(sa.select(positions.c.schedulerid)).scalars())
    for new in set(listening) - known:
        begin_after(conn, new, newest)
    pruned = tables.built.c.changeid.not_in(sa.select(Model.changes.c.changeid))
    conn.execute(tables.built.delete().where(pruned))
    conn.commit()


def _pending_subscriptions(conn: sa.engine.Connection) -> list[tuple[int, int]]:
    table = subscriptions.subscriptions
    query = sa.select(table.c.objectid, table.c.bsid).where(table.c.wanted == 1)
    return [(row[0], row[1]) for row in conn.execute(query.order_by(table.c.bsid))]
