"""Schedulers that were to be told something; see litebot.master.delivery."""

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
    """Whether a master of another name was here after this one: a stock Buildbot.

    It has given its schedulers their changes and knows nothing of litebot's tables.
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
    """Forget how far the schedulers were."""
    scene.conn.execute(handovers.delete())
    scene.conn.execute(subscriptions.delete())


# Dependent schedulers whose state does not know yet of a buildset.


def unsettled(scene: Scene) -> Iterator[Finding]:
    """Dependent schedulers whose state was to gain or to lose a buildset."""
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


# Changes that some scheduler has not been given.


def missed(scene: Scene) -> Iterator[Finding]:
    """Schedulers that have not dealt with all changes.

    ChangeDelivery gives them the changes when they run; one that is not configured gets nothing.
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
        yield Finding("change not handed over", schedulerid, message)
