"""How much a state file should hold, kept outside of it and of its log.

SQLite takes a log that was cut off, changed or deleted for the log of a crash: it uses what is
whole, and says nothing.  So each commit counts itself in the table litebot_commits, and the count
up to which all is on disk is kept in a file beside the state file.  That file is written without a
sync, after what it speaks of: it may run behind, and is never ahead.
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
    """What a database holds: its own name, how many commits, and the highest id of each kind."""

    database: str
    commits: int
    change: int
    buildset: int
    buildrequest: int
    build: int

    @classmethod
    def of(cls, database: str, commits: int, *ids: int | None) -> Content:
        """From COLUMNS; a table without rows has no highest id."""
        return cls(database, commits, *(highest or 0 for highest in ids))

    @property
    def highest(self) -> dict[str, int]:
        """The highest id of each kind."""
        return {
            "change": self.change,
            "buildset": self.buildset,
            "build request": self.buildrequest,
            "build": self.build,
        }


UNREADABLE = Content("", 0, 0, 0, 0, 0)


def path_of(state_file: Path) -> Path:
    """The file that says what a state file should hold."""
    return state_file.with_name(f"{state_file.name}-tally")


def read(state_file: Path) -> Content | None:
    """What the state file should hold, at least; None where nothing says so.

    Read it before the state file, which a master may be writing.  UNREADABLE where it is damaged.
    """
    try:
        return Content(**json.loads(path_of(state_file).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return UNREADABLE


def content_of(conn: sa.engine.Connection) -> Content | None:
    """What a database holds; None where no litebot has counted its commits."""
    if not sa.inspect(conn).has_table("litebot_commits"):
        return None
    row = conn.exec_driver_sql(QUERY).first()
    return None if row is None else Content.of(*row)


def missing(should: Content | None, has: Content | None) -> str | None:
    """What a database lacks of what it should hold, in words; None where nothing is known to be.

    A stock Buildbot counts no commits, so nothing is missing after it.  A copy has the name and the
    count of what it was copied from.
    """
    if should is None:
        return None
    if should == UNREADABLE:
        return "the tally beside the state file is damaged, so nobody knows whether it is complete"
    if has is None or has.database != should.database:
        ids = ", ".join(f"{kind} {last}" for kind, last in should.highest.items() if last)
        return (
            "the state file is not the one that this master has used till now, which went up to"
            f" {ids or 'no build yet'}; was another one put in its place?"
        )
    lacks = should.commits - has.commits
    if lacks <= 0:
        return None
    here = has.highest
    lost = [
        f"{kind} {here[kind] + 1}" + (f" to {last}" if last > here[kind] + 1 else "")
        for kind, last in should.highest.items()
        if last > here[kind]
    ]
    of_these = ", ".join(lost) or "no change or build of its own, only what became of some"
    return (
        f"the state file lacks the last {lacks} of the commits that this master had on disk:"
        f" {of_these}; {CAUSES}"
    )


class CommitWatermark:
    """Counts commits, and keeps the count of those that are on disk.

    Only the master that owns the state file may have one.  Raises OSError where the file can't be
    made, which then is on disk.
    """

    def __init__(self, state_file: Path, content: Content) -> None:
        self.committed = content
        path = path_of(state_file)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.keep(content)
        os.fsync(self._fd)
        sync(path.parent)

    def count(self, sql: Sql) -> Content:
        """Count a commit, as the last thing before it."""
        return Content.of(*sql.rows(COUNT)[0])

    def keep(self, content: Content) -> None:
        """Write down that so much is on disk; from any thread.  Raises OSError."""
        text = json.dumps(vars(content)).encode().ljust(SIZE_BYTES - 1) + b"\n"
        os.pwrite(self._fd, text, 0)  # less than a sector: all of it or nothing

    def close(self) -> None:
        """Keep nothing any more."""
        os.close(self._fd)
