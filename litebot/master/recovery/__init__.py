"""Find and repair at each start what a crash can leave half done in the database.

PAIRS holds the questions, each with its repair, in the order in which they are asked.  All repairs
of a start are one transaction, so a crash during it leaves them all to the next start.  The
findings are kept in litebot_repairs, where `litebot status` reads them.
"""

from __future__ import annotations

import os
import time

import sqlalchemy as sa

from litebot import __version__
from litebot.master.db import tables
from litebot.master.db.sqlite.commit_watermark import Content
from litebot.master.delivery import controls
from litebot.master.recovery import builds
from litebot.master.recovery import lost
from litebot.master.recovery import requests
from litebot.master.recovery import schedulers
from litebot.master.recovery.lost import LOST
from litebot.master.recovery.question import Finding
from litebot.master.recovery.question import Pair
from litebot.master.recovery.question import Scene

__all__ = [
    "LOST",
    "OF_REQUESTS",
    "PAIRS",
    "Finding",
    "Pair",
    "Scene",
    "begin",
    "end",
    "find_and_repair",
    "keep",
]

PAIRS: tuple[Pair, ...] = (
    Pair(lost.commits),
    Pair(requests.open_buildsets),
    # Before the orphans: a child that has ended keeps its result, whatever became of its parent.
    Pair(requests.finished_builds, requests.complete),
    Pair(requests.orphans, requests.cancel),
    Pair(requests.pending_cancels, requests.cancel),
    Pair(builds.interrupted, builds.end),
    Pair(requests.held_claims, requests.release),
    Pair(schedulers.strangers, schedulers.begin_anew),
    Pair(schedulers.unsettled, schedulers.settle),
    Pair(schedulers.missed),
)


# The findings whose id is that of a build request.
OF_REQUESTS = (
    requests.ORPHAN,
    requests.FINISHED_BUILD,
    requests.CANCELLED_REQUEST,
    requests.HELD_CLAIM,
)


def find_and_repair(scene: Scene) -> list[Finding]:
    """Ask each question, and repair what it finds before asking the next; commits nothing."""
    findings = []
    for pair in PAIRS:
        for finding in list(pair.question(scene)):
            if pair.repair is not None:
                pair.repair(scene, finding)
            findings.append(finding)
    builds.disconnect(scene)
    controls.forget_done(scene.conn)
    return findings


def begin(
    conn: sa.engine.Connection,
    master: str,
    sole: bool,
    max_attempts: int,
    should_hold: Content | None,
    masterid: int,
) -> tuple[int, list[Finding]]:
    """Repair the database, and record the start of this process; return its id and the findings.

    `master` is the master's name in the table masters, and `masterid` its id there.  `sole` means
    that no other master can be running.  `should_hold` is what the state file is known to have
    held; None if that is not known.  Commits.
    """
    scene = Scene.at_start(conn, master, sole, max_attempts, should_hold, masterid)
    findings = find_and_repair(scene)
    values = {"master": master, "pid": os.getpid(), "version": __version__}
    result = conn.execute(tables.starts.insert().values(started_at=time.time(), **values))
    startid: int = result.inserted_primary_key[0]  # type: ignore[index]
    keep(conn, startid, findings)
    conn.commit()
    return startid, findings


def keep(conn: sa.engine.Connection, startid: int, findings: list[Finding]) -> None:
    """Record findings that a master has repaired since this start of it; commits nothing."""
    for finding in findings:
        row = {"kind": finding.kind, "message": finding.message, "buildid": finding.buildid}
        conn.execute(tables.repairs.insert().values(startid=startid, **row))


def end(conn: sa.engine.Connection, startid: int) -> None:
    """Record that the master with this start has stopped cleanly, and commit."""
    mine = tables.starts.c.id == startid
    conn.execute(tables.starts.update().where(mine).values(stopped_at=time.time()))
    conn.commit()
