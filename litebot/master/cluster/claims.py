"""Which master has a scheduler or a change source: one at a time, and the next one at once.

Buildbot's components delete the claim of whichever master has it, and Buildbot's stop of a master
does so twice: the second time another master may have it.  Each master asks every five minutes
whether something is free.  Source: buildbot/util/service.py, ClusteredBuildbotService
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
    """As where a master is alone; a scheduler that another living master has stays with it."""

    def setSchedulerMaster(self, schedulerid: int, masterid: int | None) -> defer.Deferred[None]:
        """Claim a scheduler for a master, or let go of it.  Raises SchedulerAlreadyClaimedError."""
        column = self.db.model.scheduler_masters.c.schedulerid
        error = schedulers.SchedulerAlreadyClaimedError
        return _set_master(self.db, column, schedulerid, masterid, error, _learn)


class ChangeSources(changesources.ChangeSourcesConnectorComponent):
    """Buildbot's; a change source that another living master has stays with it."""

    def setChangeSourceMaster(
        self, changesourceid: int, masterid: int | None
    ) -> defer.Deferred[None]:
        """Claim one for a master, or let go of it.  Raises ChangeSourceAlreadyClaimedError."""
        column = self.db.model.changesource_masters.c.changesourceid
        error = changesources.ChangeSourceAlreadyClaimedError
        return _set_master(self.db, column, changesourceid, masterid, error)


# In the places of Buildbot's, or of those of a master that is alone.
COMPONENTS = {"schedulers": Schedulers, "changesources": ChangeSources}


def _set_master(
    db: Any,
    column: sa.Column[int],
    id: int,
    masterid: int | None,
    error: type[Exception],
    also: Callable[[sa.engine.Connection, int], None] | None = None,
) -> defer.Deferred[None]:
    """Claim what has this id in `column` for a master, or let go of it; `also` with a new claim."""
    if masterid is None:
        return _let_go(db, column, id)
    claims = column.table

    def thd(conn: sa.engine.Connection) -> None:
        if claim(conn, claims, **{column.name: id, "masterid": masterid}):
            if also is not None:
                also(conn, id)
        elif conn.execute(sa.select(claims.c.masterid).where(column == id)).scalar() != masterid:
            raise error

    return db.pool.do_with_transaction(thd)


def _learn(conn: sa.engine.Connection, schedulerid: int) -> None:
    """A Dependent scheduler begins with what it was to learn where it was before."""
    for objectid in subscriptions.objectids_of(conn, schedulerid):
        subscriptions.catch_up(conn, objectid)


def _let_go(db: Any, column: sa.Column[int], id: int) -> defer.Deferred[None]:
    claims, masters = column.table, db.model.masters

    def thd(conn: sa.engine.Connection) -> None:
        living = sa.select(masters.c.id).where(masters.c.active == 1)
        mine = claims.c.masterid == db.master.masterid
        free = sa.or_(mine, claims.c.masterid.not_in(living))
        conn.execute(claims.delete().where(column == id, free))

    return db.pool.do_with_transaction(thd)


def clustered(parent: Any) -> Iterator[ClusteredBuildbotService]:
    """The services under `parent` of which each is active on one master."""
    for child in parent:
        if isinstance(child, ClusteredBuildbotService):
            yield child
        elif hasattr(child, "__iter__"):
            yield from clustered(child)


def poll_unclaimed(master: Any) -> bool:
    """Have each service that is active elsewhere ask now.

    False where one is asking already, and may have been told a moment ago that it is not free.
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


async def give_away(master: Any) -> None:
    """Have no service active here any more, so that another master has it, before builds stop.

    As Buildbot's stopService of each does, which then finds nothing left to do.
    """
    services = [*clustered(master)]
    await defer.DeferredList([defer.ensureDeferred(_give_away(service)) for service in services])


async def _give_away(service: ClusteredBuildbotService) -> None:
    service._stopActivityPolling()
    if service._activityPollDeferred is not None:
        await service._activityPollDeferred
    if not service.active:
        return
    service.active = False
    try:
        await service.deactivate()
        if isinstance(service, Dependent):  # what it was doing may go on
            await service._subscription_lock.run(lambda: None)
        await service._unclaimService()
    except Exception:
        log.err(None, f"while giving away {service.name}")
