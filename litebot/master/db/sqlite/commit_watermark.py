"""The commit watermark: how many commits of a state file are on disk, recorded in a separate file.

SQLite can't tell a log that was cut off, changed or deleted from the log of a crash: it uses the
part that is intact, and reports nothing.  So each commit increments the count in the table
litebot_commits, and the count of the commits that are on disk is kept in a file beside the state
file.  That file is written without a sync, after the commits it counts are on disk: it may be
behind the state file, but never ahead of it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from litebot.files import sync
from litebot.store.sql import Sql

SIZE_BYTES = 256

COLUMNS = """
database, count, (SELECT max(changeid) FROM changes), (SELECT max(id) FROM buildsets),
(SELECT max(id) FROM buildrequests), (SELECT max(id) FROM builds)
"""
COUNT = f"UPDATE litebot_commits SET count = count + 1 RETURNING {COLUMNS}"  # noqa: S608 (a constant)
QUERY = f"SELECT {COLUMNS} FROM litebot_commits"  # noqa: S608 (a constant)

CAUSES = "its log was cut off, damaged or deleted, or an older copy was put in its place"


@dataclass(frozen=True)
class Content:
    """What a database holds: its unique name, its number of commits, its highest ids."""

    database: str
    commits: int
    change: int
    buildset: int
    buildrequest: int
    build: int

    @classmethod
    def of(cls, database: str, commits: int, *ids: int | None) -> Content:
        """Make one from the values of COLUMNS; a table without rows has no highest id."""
        return cls(database, commits, *(highest or 0 for highest in ids))

    @property
    def highest(self) -> dict[str, int]:
        """Return the highest id of each kind, by the name of the kind."""
        return {
            "change": self.change,
            "buildset": self.buildset,
            "build request": self.buildrequest,
            "build": self.build,
        }


UNREADABLE = Content("", 0, 0, 0, 0, 0)


def path_of(state_file: Path) -> Path:
    """Return the file in which the commit watermark of a state file is kept."""
    return state_file.with_name(f"{state_file.name}-tally")


def read(state_file: Path) -> Content | None:
    """Return what the state file should hold at least, or None if there is no commit watermark.

    Returns UNREADABLE if the file is damaged.  Call it before reading the state file, which a
    master may be writing.
    """
    try:
        return Content(**json.loads(path_of(state_file).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return UNREADABLE


def content_of(conn: sa.engine.Connection) -> Content | None:
    """Return what a database holds, or None if no litebot has counted its commits."""
    if not sa.inspect(conn).has_table("litebot_commits"):
        return None
    row = conn.exec_driver_sql(QUERY).first()
    return None if row is None else Content.of(*row)


def missing(expected: Content | None, actual: Content | None) -> str | None:
    """Describe what a database lacks of what it should hold, or return None if nothing is missing.

    A stock Buildbot counts no commits, so nothing is missing after it.  A copy has the name and the
    count of the database that it was copied from.
    """
    if expected is None:
        return None
    if expected == UNREADABLE:
        return (
            "the commit watermark beside the state file is damaged, so nobody knows whether the"
            " state file is complete"
        )
    if actual is None or actual.database != expected.database:
        ids = ", ".join(f"{kind} {last}" for kind, last in expected.highest.items() if last)
        return (
            "the state file is not the one that this master has used until now, which went up to"
            f" {ids or 'no build yet'}; was another one put in its place?"
        )
    lost_commits = expected.commits - actual.commits
    if lost_commits <= 0:
        return None
    present = actual.highest
    lost_ids = [
        f"{kind} {present[kind] + 1}" + (f" to {last}" if last > present[kind] + 1 else "")
        for kind, last in expected.highest.items()
        if last > present[kind]
    ]
    lost = ", ".join(lost_ids) or "no whole change or build, only updates of some"
    return (
        f"the state file lacks the last {lost_commits} of the commits that this master had on disk:"
        f" {lost}; {CAUSES}"
    )


class CommitWatermark:
    """Counts commits, and records how many of them are on disk.

    Only the master that owns the state file may have one.  The file exists on disk once the object
    is made.  Raises OSError if the file can't be written.
    """

    def __init__(self, state_file: Path, content: Content) -> None:
        self.committed = content
        path = path_of(state_file)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.record(content)
        os.fsync(self._fd)
        sync(path.parent)

    def count(self, sql: Sql) -> Content:
        """Count a commit; must be the last statement before it."""
        return Content.of(*sql.rows(COUNT)[0])

    def record(self, content: Content) -> None:
        """Record that `content` is on disk.  May be called in any thread.  Raises OSError."""
        text = json.dumps(vars(content)).encode().ljust(SIZE_BYTES - 1) + b"\n"
        os.pwrite(self._fd, text, 0)  # it is less than a sector, so all of it is written or nothing

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
