"""Another master's death: its builds and requests are repaired, and what it had claimed is free.

Only Postgres has several masters.  Who is dead is for others to say: a master that lives holds a
lock.  What is done here is one transaction, and may be done again at any time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from dataclasses import field

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.errors import StoreError
from litebot.master import recovery
from litebot.master.cluster import registry
from litebot.master.cluster.peers import require_lock
from litebot.master.db import tables
from litebot.master.db.postgres import application_name
from litebot.master.recovery.builds import OUTCOMES
from litebot.master.recovery.question import Finding
from litebot.master.recovery.question import Scene

# How long the server may need to end the connections of a dead master.
END_S = 5.0
LOOK_AGAIN_S = 0.02

masters, starts, outbox = Model.masters, tables.starts, tables.outbox


@dataclass
class Takeover:
    """What a take-over has changed: ids of builds that ended, of requests that are free or over."""

    masterid: int
    name: str
    findings: list[Finding] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)


def suspects(conn: sa.engine.Connection, masterid: int) -> list[int]:
    """The ids of the other masters that have something to be taken over, if they are dead.

    Those that began and did not come to an end, and those with reports that this one can make.
    A stock Buildbot is none: it has no lock that says whether it lives.
    """
    last = sa.select(sa.func.max(starts.c.id)).group_by(starts.c.master)
    query = (
        sa.select(masters.c.id, starts.c.stopped_at)
        .join_from(masters, starts, starts.c.master == masters.c.name)
        .where(masters.c.id != masterid, starts.c.id.in_(last))
        .order_by(masters.c.id)
    )
    rows = conn.execute(query).all()
    if not rows:
        return []
    told_here = sa.or_(outbox.c.reporter.in_(registry.reporters(masterid)), outbox.c.reporter == "")
    reporting = set(conn.execute(sa.select(outbox.c.masterid).where(told_here)).scalars())
    return [row.id for row in rows if row.stopped_at is None or row.id in reporting]


def take_over(
    conn: sa.engine.Connection,
    dead: int,
    holder: int,
    scene_of: tuple[int, str, int],
    max_attempts: int,
) -> Takeover | None:
    """Repair what the master with the id `dead` left, in a transaction that the caller commits.

    `holder` is the server's process that has its lock, and keeps it from starting meanwhile.
    `scene_of` is the id, the name and the startid of the master that does so.  None where there is
    no such master.  Raises NotOurs, after which nothing may be committed, where the lock is not
    there any more; StoreError where connections of the dead one do not end.
    """
    require_lock(conn, dead, holder)
    masterid, master, startid = scene_of
    name = conn.execute(sa.select(masters.c.name).where(masters.c.id == dead)).scalar()
    if name is None:
        return None
    _forbid(conn, name, master)
    _end_connections(conn, dead)
    scene = Scene(conn, master, False, (dead,), max_attempts, others_live=True, masterid=masterid)
    takeover = Takeover(dead, name, recovery.find_and_repair(scene))
    recovery.keep(conn, startid, takeover.findings)
    _sort(conn, takeover)
    _deconfigure(conn, dead)
    require_lock(conn, dead, holder)
    return takeover


def _forbid(conn: sa.engine.Connection, name: str, by: str) -> None:
    """Say in its own row that it may write no more; until the commit it can't read that row."""
    newest = sa.select(sa.func.max(starts.c.id)).where(starts.c.master == name).scalar_subquery()
    open_ = sa.and_(starts.c.id == newest, starts.c.stopped_at.is_(None))
    now = time.time()
    values = {"stopped_at": now, "taken_over_at": now, "taken_over_by": by}
    conn.execute(starts.update().where(open_).values(values))


def _end_connections(conn: sa.engine.Connection, dead: int) -> None:
    """End what a master that only seems dead is writing; new connections have to ask first.

    Without waiting for their end a commit that was under way could come after what is read here.
    """
    name = {"name": application_name(dead)}
    theirs = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    theirs += " AND application_name = :name"
    pids = list(conn.execute(sa.text(theirs), name).scalars())
    give_up_at = time.monotonic() + END_S
    for pid in pids:
        conn.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    while pids:
        conn.execute(sa.text("SELECT pg_stat_clear_snapshot(), pg_sleep(:s)"), {"s": LOOK_AGAIN_S})
        left = conn.execute(sa.text(theirs), name).scalars()
        pids = [pid for pid in left if pid in pids]
        if pids and time.monotonic() > give_up_at:
            raise StoreError(f"connections of a dead master do not end: {pids}")


def _sort(conn: sa.engine.Connection, takeover: Takeover) -> None:
    """What the findings mean for builds and requests."""
    requests, builds = Model.buildrequests, Model.builds
    brids = {finding.id for finding in takeover.findings if finding.kind in recovery.OF_REQUESTS}
    takeover.ended = [f.id for f in takeover.findings if f.kind in OUTCOMES]
    of_builds = sa.select(builds.c.buildrequestid).where(builds.c.id.in_(takeover.ended))
    brids |= set(conn.execute(of_builds).scalars())
    claims = Model.buildrequest_claims
    query = (
        sa.select(requests.c.id, requests.c.complete, claims.c.masterid)
        .outerjoin_from(requests, claims, claims.c.brid == requests.c.id)
        .where(requests.c.id.in_(brids))
        .order_by(requests.c.id)
    )
    for brid, complete, claimed in conn.execute(query):
        if complete:
            takeover.completed.append(brid)
        elif claimed is None:
            takeover.freed.append(brid)


def _deconfigure(conn: sa.engine.Connection, dead: int) -> None:
    """As Buildbot's own housekeeping for a master that has stopped: it has no builders, no workers.

    Source: buildbot/data/masters.py, _masterDeactivatedHousekeeping
    """
    ours, builders = Model.configured_workers, Model.builder_masters
    mine = sa.select(builders.c.id).where(builders.c.masterid == dead)
    conn.execute(ours.delete().where(ours.c.buildermasterid.in_(mine)))
    conn.execute(builders.delete().where(builders.c.masterid == dead))
    conn.execute(masters.update().where(masters.c.id == dead).values(active=0))
