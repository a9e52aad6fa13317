"""Recovery of what was not yet delivered to schedulers; see litebot.master.delivery."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.master.db import tables
from litebot.master.delivery.subscriptions import catch_up
from litebot.master.recovery.question import Finding
from litebot.master.recovery.question import Scene

handovers, subscriptions = tables.scheduler_positions, tables.subscriptions


# Another Buildbot on the same tables.


def strangers(scene: Scene) -> Iterator[Finding]:
    """Find whether a master of another name, a stock Buildbot, has used the database since.

    It has given its schedulers their changes, and does not know litebot's tables.
    """
    masters = Model.masters
    if not scene.sole or scene.conn.execute(sa.select(handovers)).first() is None:
        return
    query = sa.select(masters.c.id, masters.c.name, masters.c.last_active)
    newest = scene.conn.execute(query.order_by(masters.c.last_active.desc())).first()
    if newest is not None and newest.name != scene.master:
        message = (
            f"the Buildbot master {newest.name!r} has used this database; schedulers go on with"
            " the changes that come now"
        )
        yield Finding("another master", newest.id, message)


def begin_anew(scene: Scene, _finding: Finding) -> None:
    """Forget which changes and buildsets the schedulers have dealt with."""
    scene.conn.execute(handovers.delete())
    scene.conn.execute(subscriptions.delete())


# Dependent schedulers whose state lacks a buildset, or still has one.


def unsettled(scene: Scene) -> Iterator[Finding]:
    """Find the Dependent schedulers whose state was to gain or to lose a buildset."""
    objects = Model.objects
    query = (
        sa.select(objects.c.id, objects.c.name, subscriptions.c.bsid, subscriptions.c.wanted)
        .join_from(subscriptions, objects, subscriptions.c.objectid == objects.c.id)
        .where(scene.unclaimed(objects.c.name))
        .order_by(subscriptions.c.bsid)
    )
    for objectid, name, bsid, wanted in scene.conn.execute(query):
        if wanted:
            message = f"scheduler {name!r} had not heard of buildset {bsid}; it does now"
        else:
            message = f"scheduler {name!r} had acted on buildset {bsid}; it does not so again"
        yield Finding("dependent scheduler", objectid, message)


def settle(scene: Scene, finding: Finding) -> None:
    """Bring the state of a Dependent scheduler up to date."""
    catch_up(scene.conn, finding.id)


# Changes that have not been delivered to all schedulers.


def missed(scene: Scene) -> Iterator[Finding]:
    """Find the schedulers that have not dealt with all changes.

    ChangeDelivery delivers the changes when the schedulers run; a scheduler that is no longer
    configured gets none.
    """
    changes, schedulers = Model.changes, Model.schedulers
    behind = (
        sa.select(
            schedulers.c.id, schedulers.c.name, sa.func.count(), sa.func.min(changes.c.changeid)
        )
        .join_from(handovers, schedulers, handovers.c.schedulerid == schedulers.c.id)
        .join(changes, changes.c.changeid > handovers.c.changeid)
        .where(scene.unclaimed(schedulers.c.name))
        .group_by(schedulers.c.id, schedulers.c.name)
        .order_by(schedulers.c.id)
    )
    for schedulerid, name, count, first in scene.conn.execute(behind):
        what = f"change {first}" if count == 1 else f"{count} changes from {first} on"
        message = f"scheduler {name!r} had not dealt with {what}; it is given them now"
        yield Finding("change not delivered", schedulerid, message)
