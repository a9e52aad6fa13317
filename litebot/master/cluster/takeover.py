"""The takeover of a dead master: repairs its builds and requests, and frees what it had claimed.

Only on Postgres are there several masters.  The session finds out who is dead: a living master
holds a lock.  A takeover is one transaction, and may be done again at any time.
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

# How long the server may take to end the connections of a dead master.
END_CONNECTIONS_S = 5.0
CHECK_EVERY_S = 0.02

masters, starts, outbox = Model.masters, tables.starts, tables.outbox


@dataclass
class Takeover:
    """What a takeover has changed.

    `ended` are the ids of builds that it ended; `freed` and `completed` are the ids of requests.
    """

    masterid: int
    name: str
    findings: list[Finding] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)


def suspects(conn: sa.engine.Connection, masterid: int) -> list[int]:
    """Return the ids of the other masters that are to be taken over if they are dead.

    These are the masters that have started and not stopped, and those with reports that this master
    can make.  A stock Buildbot is never one: it has no lock that shows whether it lives.
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
    reported_here = sa.or_(
        outbox.c.reporter.in_(registry.reporters(masterid)), outbox.c.reporter == ""
    )
    reporting = set(conn.execute(sa.select(outbox.c.masterid).where(reported_here)).scalars())
    return [row.id for row in rows if row.stopped_at is None or row.id in reporting]


def take_over(
    conn: sa.engine.Connection,
    dead: int,
    holder: int,
    successor: tuple[int, str, int],
    max_attempts: int,
) -> Takeover | None:
    """Repair what the master with the id `dead` left, in a transaction that the caller commits.

    `holder` is the server's process that holds the dead master's lock, which keeps that master from
    starting meanwhile.  `successor` is the id, the name and the startid of the master that takes
    over.  Returns None if there is no master with the id `dead`.  Raises NotOurs if `holder` no
    longer has the lock, after which nothing may be committed, and StoreError if connections of the
    dead master do not end.
    """
    require_lock(conn, dead, holder)
    masterid, master, startid = successor
    name = conn.execute(sa.select(masters.c.name).where(masters.c.id == dead)).scalar()
    if name is None:
        return None
    _mark_taken_over(conn, name, master)
    _end_connections(conn, dead)
    scene = Scene(conn, master, False, (dead,), max_attempts, others_live=True, masterid=masterid)
    takeover = Takeover(dead, name, recovery.find_and_repair(scene))
    recovery.keep(conn, startid, takeover.findings)
    _classify(conn, takeover)
    _deconfigure(conn, dead)
    require_lock(conn, dead, holder)
    return takeover


def _mark_taken_over(conn: sa.engine.Connection, name: str, by: str) -> None:
    """Record in the row of a dead master's start that it may not write any more.

    That master can't read the row until the commit; see peers.fence.
    """
    newest = sa.select(sa.func.max(starts.c.id)).where(starts.c.master == name).scalar_subquery()
    open_ = sa.and_(starts.c.id == newest, starts.c.stopped_at.is_(None))
    now = time.time()
    values = {"stopped_at": now, "taken_over_at": now, "taken_over_by": by}
    conn.execute(starts.update().where(open_).values(values))


def _end_connections(conn: sa.engine.Connection, dead: int) -> None:
    """End the connections on which a master that only seems dead may be writing.

    New connections are stopped by peers.fence.  The wait is necessary: otherwise a commit that is
    under way could take effect after the tables were read here.
    """
    name = {"name": application_name(dead)}
    pids_query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    pids_query += " AND application_name = :name"
    pids = list(conn.execute(sa.text(pids_query), name).scalars())
    give_up_at = time.monotonic() + END_CONNECTIONS_S
    for pid in pids:
        conn.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    while pids:
        conn.execute(sa.text("SELECT pg_stat_clear_snapshot(), pg_sleep(:s)"), {"s": CHECK_EVERY_S})
        open_now = conn.execute(sa.text(pids_query), name).scalars()
        pids = [pid for pid in open_now if pid in pids]
        if pids and time.monotonic() > give_up_at:
            raise StoreError(f"connections of a dead master do not end: {pids}")


def _classify(conn: sa.engine.Connection, takeover: Takeover) -> None:
    """Sort what the findings have changed into ended builds, and freed and completed requests."""
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
    """Delete a dead master's builders and workers, and mark it as inactive.

    This is what Buildbot's housekeeping does for a master that has stopped.
    Source: buildbot/data/masters.py, _masterDeactivatedHousekeeping
    """
    ours, builders = Model.configured_workers, Model.builder_masters
    mine = sa.select(builders.c.id).where(builders.c.masterid == dead)
    conn.execute(ours.delete().where(ours.c.buildermasterid.in_(mine)))
    conn.execute(builders.delete().where(builders.c.masterid == dead))
    conn.execute(masters.update().where(masters.c.id == dead).values(active=0))
