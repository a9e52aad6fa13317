"""Claims of schedulers and change sources: one master at a time has each, and the next one at once.

Buildbot's components delete a claim whichever master has it, and when a master stops, Buildbot does
that twice: the second time another master may have the claim.  In Buildbot each master polls only
every five minutes for what it can claim.
Source: buildbot/util/service.py, ClusteredBuildbotService
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from buildbot.db import changesources
from buildbot.db import schedulers
from buildbot.schedulers.dependent import Dependent
from buildbot.util.service import ClusteredBuildbotService
from twisted.internet import defer
from twisted.python import log

from litebot.master.db.claims import claim
from litebot.master.delivery import components as delivery
from litebot.master.delivery import subscriptions


class Schedulers(delivery.Schedulers):
    """As for a master that is alone, but keeps the claims of other living masters."""

    def setSchedulerMaster(self, schedulerid: int, masterid: int | None) -> defer.Deferred[None]:
        """Claim a scheduler for a master, or release it if `masterid` is None.

        Raises SchedulerAlreadyClaimedError.
        """
        column = self.db.model.scheduler_masters.c.schedulerid
        error = schedulers.SchedulerAlreadyClaimedError
        return _set_master(self.db, column, schedulerid, masterid, error, _apply_subscriptions)


class ChangeSources(changesources.ChangeSourcesConnectorComponent):
    """Buildbot's, but keeps the claims of other living masters."""

    def setChangeSourceMaster(
        self, changesourceid: int, masterid: int | None
    ) -> defer.Deferred[None]:
        """Claim a change source for a master, or release it if `masterid` is None.

        Raises ChangeSourceAlreadyClaimedError.
        """
        column = self.db.model.changesource_masters.c.changesourceid
        error = changesources.ChangeSourceAlreadyClaimedError
        return _set_master(self.db, column, changesourceid, masterid, error)


# The components that replace Buildbot's, or those of a master that is alone.
COMPONENTS = {"schedulers": Schedulers, "changesources": ChangeSources}


def _set_master(
    db: Any,
    column: sa.Column[int],
    id: int,
    masterid: int | None,
    error: type[Exception],
    on_claim: Callable[[sa.engine.Connection, int], None] | None = None,
) -> defer.Deferred[None]:
    """Claim the object with this id in `column` for a master, or release it.

    Calls `on_claim` in the transaction of a new claim.  Raises `error` if another master has it.
    """
    if masterid is None:
        return _unclaim(db, column, id)
    claims = column.table

    def thd(conn: sa.engine.Connection) -> None:
        if claim(conn, claims, **{column.name: id, "masterid": masterid}):
            if on_claim is not None:
                on_claim(conn, id)
        elif conn.execute(sa.select(claims.c.masterid).where(column == id)).scalar() != masterid:
            raise error

    return db.pool.do_with_transaction(thd)


def _apply_subscriptions(conn: sa.engine.Connection, schedulerid: int) -> None:
    """Apply to a Dependent scheduler's state what was recorded while other masters had it."""
    for objectid in subscriptions.objectids_of(conn, schedulerid):
        subscriptions.catch_up(conn, objectid)


def _unclaim(db: Any, column: sa.Column[int], id: int) -> defer.Deferred[None]:
    claims, masters = column.table, db.model.masters

    def thd(conn: sa.engine.Connection) -> None:
        living = sa.select(masters.c.id).where(masters.c.active == 1)
        mine = claims.c.masterid == db.master.masterid
        deletable = sa.or_(mine, claims.c.masterid.not_in(living))
        conn.execute(claims.delete().where(column == id, deletable))

    return db.pool.do_with_transaction(thd)


def clustered(parent: Any) -> Iterator[ClusteredBuildbotService]:
    """Yield the services under `parent` that are active on one master at a time."""
    for child in parent:
        if isinstance(child, ClusteredBuildbotService):
            yield child
        elif hasattr(child, "__iter__"):
            yield from clustered(child)


def poll_unclaimed(master: Any) -> bool:
    """Let each service that is not active here poll now whether it can be claimed.

    Returns False if a poll is under way already, which may have found its claim taken a moment ago.
    """
    all_asked = True
    for service in clustered(master):
        poll = service._activityPollCall
        if poll is None or not poll.running:
            continue  # it is active here
        if poll.call is not None and poll.call.active():
            poll.call.reset(0)
        else:
            all_asked = False
    return all_asked


async def release_all(master: Any) -> None:
    """Deactivate and unclaim all services before builds stop, so that other masters get them.

    Does for each what Buildbot's stopService does, which then has nothing left to do.
    """
    services = [*clustered(master)]
    await defer.DeferredList([defer.ensureDeferred(_release(service)) for service in services])


async def _release(service: ClusteredBuildbotService) -> None:
    service._stopActivityPolling()
    if service._activityPollDeferred is not None:
        await service._activityPollDeferred
    if not service.active:
        return
    service.active = False
    try:
        await service.deactivate()
        if isinstance(service, Dependent):  # wait for what it is doing
            await service._subscription_lock.run(lambda: None)
        await service._unclaimService()
    except Exception:
        log.err(None, f"while releasing {service.name}")
