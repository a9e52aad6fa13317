"""Recovery of the builds that ran when their master died, with their steps, logs and requests."""

from __future__ import annotations

import time
from collections.abc import Iterator

import sqlalchemy as sa
from buildbot.db.model import Model
from buildbot.process.results import CANCELLED
from buildbot.process.results import EXCEPTION
from buildbot.process.results import RETRY

from litebot.master.db import tables
from litebot.master.delivery import controls
from litebot.master.delivery import outbox
from litebot.master.recovery.question import Finding
from litebot.master.recovery.question import Scene

INTERRUPTED = "interrupted build"
GIVEN_UP = "build given up"
STOPPED = "build of a cancelled request"

OUTCOMES = {INTERRUPTED: RETRY, GIVEN_UP: EXCEPTION, STOPPED: CANCELLED}
STATES = {
    INTERRUPTED: "the master died; to be tried again",
    GIVEN_UP: "the master died in each attempt",
    STOPPED: "the master died; cancelled",
}

EVERY_REPORTER = ""

builds, requests, steps, logs = Model.builds, Model.buildrequests, Model.steps, Model.logs


def interrupted(scene: Scene) -> Iterator[Finding]:
    """Find the builds of dead masters that have not ended."""
    query = (
        sa.select(builds.c.id, builds.c.number, Model.builders.c.name, requests)
        .join_from(builds, requests, builds.c.buildrequestid == requests.c.id)
        .join(Model.builders, builds.c.builderid == Model.builders.c.id)
        # The sum keeps SQLite from using the index on masterid, which holds all builds ever made.
        .where(builds.c.complete_at.is_(None), (builds.c.masterid + 0).in_(scene.dead))
        .order_by(builds.c.id)
    )
    for row in scene.conn.execute(query).all():
        buildid, number, builder, brid = row[:4]
        ran = f"build {number} of {builder!r} was running when the master died"
        attempt = 1 + len(former_attempts(scene.conn, brid))
        if row.complete:
            yield Finding(STOPPED, buildid, f"{ran}; its request has been cancelled", buildid)
        elif attempt < scene.max_attempts:
            message = f"{ran}; its request goes back to the queue (attempt {attempt} of"
            yield Finding(INTERRUPTED, buildid, f"{message} {scene.max_attempts})", buildid)
        else:
            message = f"{ran}, as in each of its {attempt} attempts; its request is given up"
            yield Finding(GIVEN_UP, buildid, message, buildid)


def former_attempts(conn: sa.engine.Connection, brid: int) -> list[int]:
    """Return the ids of a request's builds that died with their master, in order."""
    query = (
        sa.select(builds.c.id)
        .where(builds.c.buildrequestid == brid)
        .where(
            builds.c.id.in_(
                sa.select(tables.repairs.c.buildid).where(tables.repairs.c.kind == INTERRUPTED)
            )
        )
        .order_by(builds.c.id)
    )
    return list(conn.execute(query).scalars())


def end(scene: Scene, finding: Finding) -> None:
    """End the build with its steps and logs, and release its request or complete it."""
    conn, results = scene.conn, OUTCOMES[finding.kind]
    mine = steps.c.buildid == finding.id
    _finish_logs(conn, finding.id)
    conn.execute(
        steps.update()
        .where(mine, steps.c.results.is_(None))
        .values(results=results, complete_at=scene.now)
    )
    brid = conn.execute(
        sa.select(builds.c.buildrequestid).where(builds.c.id == finding.id)
    ).scalar_one()
    state = STATES[finding.kind]
    reason = controls.reason_for(conn, brid)
    if finding.kind == STOPPED and reason is not None:
        state = f"{state} ({reason})"
    conn.execute(
        builds.update()
        .where(builds.c.id == finding.id)
        .values(results=results, complete_at=scene.now, state_string=state)
    )
    outbox.add(conn, {EVERY_REPORTER: None}, "builds", finding.id, scene.masterid or 0)
    if finding.kind == INTERRUPTED:
        claims = Model.buildrequest_claims
        held = sa.and_(claims.c.brid == brid, claims.c.masterid.in_(scene.dead))
        conn.execute(claims.delete().where(held))
    elif finding.kind == GIVEN_UP:
        _explain(scene, finding.id, brid)
        conn.execute(
            requests.update()
            .where(requests.c.id == brid)
            .values(complete=1, results=EXCEPTION, complete_at=scene.now)
        )


def _finish_logs(conn: sa.engine.Connection, buildid: int) -> None:
    """End the logs of a build, with as many lines as are stored."""
    chunks = Model.logchunks
    stored = (
        sa.select(sa.func.coalesce(sa.func.max(chunks.c.last_line) + 1, 0))
        .where(chunks.c.logid == logs.c.id)
        .scalar_subquery()
    )
    of_build = logs.c.stepid.in_(sa.select(steps.c.id).where(steps.c.buildid == buildid))
    conn.execute(logs.update().where(of_build).values(complete=1, num_lines=stored))


def _explain(scene: Scene, buildid: int, brid: int) -> None:
    """Add a last step to a build, whose log says why there is no further attempt."""
    conn = scene.conn
    ids = [*former_attempts(conn, brid), buildid]
    query = sa.select(builds.c.number, builds.c.started_at).where(builds.c.id.in_(ids))
    lines = [
        f"The master died while this build ran, and so it did in each of {len(ids)} attempts.",
        "The build may be what kills it (memory, disk space), so it is not tried again.",
        "How often it is tried is [recovery] max_attempts in litebot.toml.",
        "",
    ]
    for number, started_at in conn.execute(query.order_by(builds.c.id)):
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(started_at))
        lines.append(f"build {number} started at {when}")
    last = sa.select(sa.func.max(steps.c.number)).where(steps.c.buildid == buildid)
    number = conn.execute(last).scalar()
    step = {
        "buildid": buildid,
        "number": 0 if number is None else number + 1,
        "name": "given_up",
        "started_at": scene.now,
        "complete_at": scene.now,
        "state_string": STATES[GIVEN_UP],
        "results": EXCEPTION,
        "urls_json": "[]",
        "hidden": 0,
    }
    stepid = conn.execute(steps.insert().values(step)).inserted_primary_key[0]  # type: ignore[index]
    log = {"stepid": stepid, "name": "reason", "slug": "reason", "type": "t", "complete": 1}
    result = conn.execute(logs.insert().values(num_lines=len(lines), **log))
    chunk = {
        "logid": result.inserted_primary_key[0],  # type: ignore[index]
        "first_line": 0,
        "last_line": len(lines) - 1,
        "content": "\n".join(lines).encode(),
        "compressed": 0,
    }
    conn.execute(Model.logchunks.insert().values(chunk))


def disconnect(scene: Scene) -> None:
    """Release the connections to workers, the schedulers and the change sources of dead masters."""
    for table in (Model.connected_workers, Model.scheduler_masters, Model.changesource_masters):
        scene.conn.execute(table.delete().where(table.c.masterid.in_(scene.dead)))
