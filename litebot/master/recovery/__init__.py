"""What a crash can leave half done: questions to the database, asked and answered at each start.

PAIRS holds them, in the order in which they are asked.  All repairs of a start are one transaction,
so a crash during it leaves all for the next.  What was found is kept in litebot_repairs, where
`litebot status` reads it.
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
    # Before the orphans: a child that has ended has its result, whatever became of its parent.
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
    """Ask each question, and repair what it finds before the next is asked; commits nothing."""
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
    """Record a start of this process, what it finds and repairs; the start's id and the findings.

    `master` is the master's name in the table masters and `masterid` its id there, and `sole` says
    that no other one can be running.  `should_hold` is what the state file was known to hold.
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
    """Write down what a master has repaired since its start; commits nothing."""
    for finding in findings:
        row = {"kind": finding.kind, "message": finding.message, "buildid": finding.buildid}
        conn.execute(tables.repairs.insert().values(startid=startid, **row))


def end(conn: sa.engine.Connection, startid: int) -> None:
    """Record that the start with this id came to a clean stop."""
    mine = tables.starts.c.id == startid
    conn.execute(tables.starts.update().where(mine).values(stopped_at=time.time()))
    conn.commit()
