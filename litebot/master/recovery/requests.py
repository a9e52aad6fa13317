"""Build requests and buildsets whose end, or whose start, was only half written down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model
from buildbot.process.results import CANCELLED
from buildbot.process.results import RETRY

from litebot.master import schema
from litebot.master.recovery.builds import former_attempts
from litebot.master.recovery.question import Finding
from litebot.master.recovery.question import Scene
from litebot.master.told import BUILDREQUESTS

builds, builders = Model.builds, Model.builders
requests, claims, buildsets = Model.buildrequests, Model.buildrequest_claims, Model.buildsets

incomplete = requests.c.complete == 0


# A buildset that is not complete though all its requests are.


def _open_buildsets() -> sa.Select[Any]:
    waiting = sa.select(requests.c.buildsetid).where(incomplete)
    open_ = sa.select(buildsets.c.id).where(buildsets.c.complete == 0)
    return open_.where(buildsets.c.id.not_in(waiting)).order_by(buildsets.c.id)


def open_buildsets(scene: Scene) -> Iterator[Finding]:
    """Buildsets whose requests are all complete, but which are not so themselves."""
    for bsid in scene.conn.execute(_open_buildsets()).scalars():
        message = f"buildset {bsid} was not completed after the last of its requests; it is now"
        yield Finding("open buildset", bsid, message)


def leave_to_the_running_master(_scene: Scene, _finding: Finding) -> None:
    """complete_buildsets does it, when schedulers and reporters can hear of it."""


async def complete_buildsets(master: Any) -> None:
    """Complete what can be, with the events, once all services of `master` run."""

    def ask(conn: sa.engine.Connection) -> list[int]:
        return list(conn.execute(_open_buildsets()).scalars())

    for bsid in await master.db.pool.do(ask):
        await master.data.updates.maybeBuildsetComplete(bsid)


# A triggered build whose parent is no longer there to wait for it, and triggers another one.


def orphans(scene: Scene) -> Iterator[Finding]:
    """Incomplete requests of a Trigger step in a build that died, or that ended without them.

    What nobody waits for is left alone where that build is not tried again.
    """
    parent = builds.alias("parent")
    died = sa.and_(parent.c.complete_at.is_(None), parent.c.masterid.in_(scene.dead))
    ended = sa.and_(requests.c.waited_for == 1, parent.c.complete_at.is_not(None))
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
        yield Finding("orphan", brid, message, parentid)


def cancel(scene: Scene, finding: Finding) -> None:
    """Complete the request as CANCELLED."""
    _complete(scene, finding.id, CANCELLED)


# A build that ended, and whose request would be built again.


def finished_builds(scene: Scene) -> Iterator[Finding]:
    """Incomplete requests that have a build with a final result."""
    query = (
        sa.select(requests.c.id, builders.c.name, builds.c.id, builds.c.number)
        .join_from(requests, builds, builds.c.buildrequestid == requests.c.id)
        .join(builders, builds.c.builderid == builders.c.id)
        .where(incomplete, builds.c.complete_at.is_not(None), builds.c.results != RETRY)
        .order_by(builds.c.id)
    )
    for brid, builder, buildid, number in scene.conn.execute(query):
        message = f"build {number} of {builder!r} had ended, but not its request; its result counts"
        yield Finding("finished build", brid, message, buildid)


def complete(scene: Scene, finding: Finding) -> None:
    """Complete the request with the result of its build."""
    results = sa.select(builds.c.results).where(builds.c.id == finding.buildid)
    _complete(scene, finding.id, scene.conn.execute(results).scalar_one())


def _complete(scene: Scene, brid: int, results: int) -> None:
    values = {"complete": 1, "results": results, "complete_at": scene.now}
    scene.conn.execute(requests.update().where(requests.c.id == brid, incomplete).values(values))


# A request that a user has told a master to cancel.


def told_to_cancel(scene: Scene) -> Iterator[Finding]:
    """Incomplete requests that are to be cancelled, and that no living master has claimed."""
    told = schema.told
    query = (
        sa.select(requests.c.id, builders.c.name, told.c.reason)
        .join_from(
            requests, told, sa.and_(told.c.kind == BUILDREQUESTS, told.c.about == requests.c.id)
        )
        .join(builders, requests.c.builderid == builders.c.id)
        .outerjoin(claims, claims.c.brid == requests.c.id)
        .where(incomplete, sa.or_(claims.c.brid.is_(None), claims.c.masterid.in_(scene.dead)))
        .order_by(requests.c.id)
    )
    for brid, builder, reason in scene.conn.execute(query).all():
        message = f"request {brid} for {builder!r} was to be cancelled ({reason}); it is now"
        yield Finding("cancelled request", brid, message)


# A request that a dead master wanted to build.


def held_claims(scene: Scene) -> Iterator[Finding]:
    """Incomplete requests that a dead master has claimed."""
    query = (
        sa.select(requests.c.id, builders.c.name)
        .join_from(requests, claims, claims.c.brid == requests.c.id)
        .join(builders, requests.c.builderid == builders.c.id)
        .where(incomplete, claims.c.masterid.in_(scene.dead))
        .order_by(requests.c.id)
    )
    for brid, builder in scene.conn.execute(query):
        message = f"request {brid} for {builder!r} was about to start; it goes back to the queue"
        yield Finding("held claim", brid, message)


def release(scene: Scene, finding: Finding) -> None:
    """Give the request back to the queue."""
    scene.conn.execute(claims.delete().where(claims.c.brid == finding.id))
