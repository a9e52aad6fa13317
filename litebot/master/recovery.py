"""What a crash can leave half done: questions to the database, asked at each start.

The answers are kept in litebot_repairs, where `litebot status` reads them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot import __version__
from litebot.master import schema

builds, builders, masters = Model.builds, Model.builders, Model.masters


@dataclass(frozen=True)
class Finding:
    """One thing that was half done; `message` says what it was and what becomes of it."""

    kind: str
    message: str
    buildid: int | None = None


def interrupted_builds(conn: sa.engine.Connection, master: str) -> Iterator[Finding]:
    """Builds that ran when the master died.

    Repaired by Buildbot: BuildMaster.startService calls masterStopped for its former self, which
    ends them as RETRY and gives their requests back.  Source: buildbot/data/masters.py
    """
    query = (
        sa.select(builds.c.id, builds.c.number, builders.c.name)
        .join_from(builds, builders, builds.c.builderid == builders.c.id)
        .join(masters, builds.c.masterid == masters.c.id)
        .where(builds.c.complete_at.is_(None), masters.c.name == master)
        .order_by(builds.c.id)
    )
    for buildid, number, builder in conn.execute(query):
        yield Finding(
            "interrupted build",
            f"build {number} of {builder!r} was running when the master died; its request goes"
            " back to the queue",
            buildid,
        )


QUESTIONS: tuple[Callable[[sa.engine.Connection, str], Iterator[Finding]], ...] = (
    interrupted_builds,
)


def begin(conn: sa.engine.Connection, master: str) -> tuple[int, list[Finding]]:
    """Record a start of this process and what it finds; returns the start's id and the findings.

    `master` is the master's name in the table masters.
    """
    findings = [finding for ask in QUESTIONS for finding in ask(conn, master)]
    values = {"master": master, "pid": os.getpid(), "version": __version__}
    result = conn.execute(schema.starts.insert().values(started_at=time.time(), **values))
    startid: int = result.inserted_primary_key[0]  # type: ignore[index]
    for finding in findings:
        row = {"kind": finding.kind, "message": finding.message, "buildid": finding.buildid}
        conn.execute(schema.repairs.insert().values(startid=startid, **row))
    conn.commit()
    return startid, findings


def end(conn: sa.engine.Connection, startid: int) -> None:
    """Record that the start with this id came to a clean stop."""
    mine = schema.starts.c.id == startid
    conn.execute(schema.starts.update().where(mine).values(stopped_at=time.time()))
    conn.commit()
