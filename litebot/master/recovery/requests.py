"""Recovery of build requests and buildsets whose start or end was only half recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model
from buildbot.process.results import CANCELLED
from buildbot.process.results import RETRY

from litebot.master.db import tables
from litebot.master.db.claims import claim
from litebot.master.delivery import controls
from litebot.master.recovery.builds import former_attempts
from litebot.master.recovery.question import Finding
from litebot.master.recovery.question import Scene

ORPHAN = "orphan"
FINISHED_BUILD = "finished build"
CANCELLED_REQUEST = "cancelled request"
HELD_CLAIM = "held claim"
NOBODY_WAITS = "the build that triggered it is gone"

builds, builders = Model.builds, Model.builders
requests, claims, buildsets = Model.buildrequests, Model.buildrequest_claims, Model.buildsets

incomplete = requests.c.complete == 0


# A buildset that is not complete though all its requests are.


def _open_buildsets() -> sa.Select[Any]:
    waiting = sa.select(requests.c.buildsetid).where(incomplete)
    open_ = sa.select(buildsets.c.id).where(buildsets.c.complete == 0)
    return open_.where(buildsets.c.id.not_in(waiting)).order_by(buildsets.c.id)


def open_buildsets(scene: Scene) -> Iterator[Finding]:
    """Find the buildsets that are not complete although all their requests are.

    If other masters live, only buildsets with a request that a dead master had claimed.
    complete_buildsets completes them, once schedulers and reporters can receive the events.
    """
    query = _open_buildsets()
    if scene.others_live:
        had = sa.select(requests.c.buildsetid).join(claims, claims.c.brid == requests.c.id)
        query = query.where(buildsets.c.id.in_(had.where(claims.c.masterid.in_(scene.dead))))
    for bsid in scene.conn.execute(query).scalars():
        message = f"buildset {bsid} was not completed after the last of its requests; it is now"
        yield Finding("open buildset", bsid, message)


async def complete_buildsets(master: Any) -> None:
    """Complete all open buildsets and produce the events; call it when all services run.

    If a living master is about to complete a buildset too, only one of the two does it.
    """

    def ask(conn: sa.engine.Connection) -> list[int]:
        return list(conn.execute(_open_buildsets()).scalars())

    for bsid in await master.db.pool.do(ask):
        await master.data.updates.maybeBuildsetComplete(bsid)


# A triggered build whose parent no longer waits for it, and triggers another one in a retry.


def orphans(scene: Scene) -> Iterator[Finding]:
    """Find incomplete requests of a Trigger step in a build that died or ended before them.

    Requests for which the step did not wait are left alone unless that build is tried again.
    """
    parent = builds.alias("parent")
    died = sa.and_(parent.c.complete_at.is_(None), parent.c.masterid.in_(scene.dead))
    ended = sa.and_(
        requests.c.waited_for == 1,
        parent.c.complete_at.is_not(None),
        scene.of_dead(parent.c.masterid),
    )
    query = (
        sa.select(requests, builders.c.name, parent.c.number, parent.c.id, parent.c.buildrequestid)
        .join_from(requests, buildsets, requests.c.buildsetid == buildsets.c.id)
        .join(parent, buildsets.c.parent_buildid == parent.c.id)
        .join(builders, requests.c.builderid == builders.c.id)
        .where(incomplete, buildsets.c.rebuilt_buildid.is_(None), sa.or_(died, ended))
        .order_by(requests.c.id)
    )
    for row in scene.conn.execute(query).all():
        builder, number, parentid, parent_brid = row[-4:]
        attempt = 1 + len(former_attempts(scene.conn, parent_brid))
        if not row.waited_for and attempt >= scene.max_attempts:
            continue
        brid = row[0]
        message = (
            f"request {brid} for {builder!r} was triggered by a build (number {number}) that is"
            " gone; it is cancelled, and a retry of that build makes a new one"
        )
        yield Finding(ORPHAN, brid, message, parentid)


def cancel(scene: Scene, finding: Finding) -> None:
    """Complete the request as CANCELLED, or let the living master that has claimed it do so."""
    if _may_end(scene, finding.id):
        _complete(scene, finding.id, CANCELLED)
    elif controls.reason_for(scene.conn, finding.id) is None:
        controls.add(scene.conn, controls.BUILDREQUESTS, finding.id, "cancel", NOBODY_WAITS)


def _may_end(scene: Scene, brid: int) -> bool:
    """Return whether no living master has claimed the request or can still claim it.

    Claims it for this master if nobody has.
    """
    if not scene.others_live:
        return True
    mine = sa.select(claims.c.masterid).where(claims.c.brid == brid)
    if scene.masterid is not None:
        row = {"brid": brid, "masterid": scene.masterid, "claimed_at": scene.now}
        if claim(scene.conn, claims, **row):
            return True
    return scene.conn.execute(mine).scalar() in scene.dead


# A build that has ended, and whose request would be built again.


def finished_builds(scene: Scene) -> Iterator[Finding]:
    """Find incomplete requests that have a build with a final result."""
    query = (
        sa.select(requests.c.id, builders.c.name, builds.c.id, builds.c.number)
        .join_from(requests, builds, builds.c.buildrequestid == requests.c.id)
        .join(builders, builds.c.builderid == builders.c.id)
        .where(incomplete, builds.c.complete_at.is_not(None), builds.c.results != RETRY)
        .where(scene.of_dead(builds.c.masterid))
        .order_by(builds.c.id)
    )
    for brid, builder, buildid, number in scene.conn.execute(query):
        message = f"build {number} of {builder!r} had ended, but not its request; its result counts"
        yield Finding(FINISHED_BUILD, brid, message, buildid)


def complete(scene: Scene, finding: Finding) -> None:
    """Complete the request with the result of its build."""
    results = sa.select(builds.c.results).where(builds.c.id == finding.buildid)
    _complete(scene, finding.id, scene.conn.execute(results).scalar_one())


def _complete(scene: Scene, brid: int, results: int) -> None:
    values = {"complete": 1, "results": results, "complete_at": scene.now}
    scene.conn.execute(requests.update().where(requests.c.id == brid, incomplete).values(values))


# A request that a user has cancelled.


def pending_cancels(scene: Scene) -> Iterator[Finding]:
    """Find incomplete requests that are to be cancelled and that no living master has claimed."""
    what = tables.pending_controls
    by_user = sa.and_(what.c.kind == controls.BUILDREQUESTS, what.c.about == requests.c.id)
    query = (
        sa.select(requests.c.id, builders.c.name, what.c.reason)
        .join_from(requests, what, by_user)
        .join(builders, requests.c.builderid == builders.c.id)
        .outerjoin(claims, claims.c.brid == requests.c.id)
        .where(incomplete, sa.or_(claims.c.brid.is_(None), claims.c.masterid.in_(scene.dead)))
        .order_by(requests.c.id)
    )
    for brid, builder, reason in scene.conn.execute(query).all():
        message = f"request {brid} for {builder!r} was to be cancelled ({reason}); it is now"
        yield Finding(CANCELLED_REQUEST, brid, message)


# A request that a dead master was about to build.


def held_claims(scene: Scene) -> Iterator[Finding]:
    """Find incomplete requests that a dead master has claimed."""
    query = (
        sa.select(requests.c.id, builders.c.name)
        .join_from(requests, claims, claims.c.brid == requests.c.id)
        .join(builders, requests.c.builderid == builders.c.id)
        .where(incomplete, claims.c.masterid.in_(scene.dead))
        .order_by(requests.c.id)
    )
    for brid, builder in scene.conn.execute(query):
        message = f"request {brid} for {builder!r} was about to start; it goes back to the queue"
        yield Finding(HELD_CLAIM, brid, message)


def release(scene: Scene, finding: Finding) -> None:
    """Delete the claim, so that the request can be claimed again."""
    held = sa.and_(claims.c.brid == finding.id, claims.c.masterid.in_(scene.dead))
    scene.conn.execute(claims.delete().where(held))
