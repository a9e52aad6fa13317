"""The versions of projects in the table litebot_projects.

The table only grows: each save is a new version, the newest counts, and a removal is a version
without a definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.master.db import tables
from litebot.master.db.inspection import inspected
from litebot.projects.addresses import shown
from litebot.projects.definition import Project
from litebot.projects.definition import from_toml
from litebot.settings import Database
from litebot.store.sql import Sql

PAGE, COMMAND = "page", "command"


class Author(NamedTuple):
    """Who saves something, where (PAGE or COMMAND), and what for."""

    name: str
    place: str
    comment: str = ""


@dataclass(frozen=True)
class Version:
    """Version `number` (from 1) of a project; `project` is None where it was removed.

    `saved_at` is in epoch seconds.
    """

    name: str
    number: int
    project: Project | None
    saved_at: float
    author: Author


class Conflict(LitebotError):
    """Somebody else has saved a project meanwhile; `theirs` is their version."""

    def __init__(self, theirs: Version) -> None:
        what = "saved" if theirs.project is not None else "removed"
        super().__init__(
            f"project {theirs.name} was {what} by {theirs.author.name} meanwhile (version"
            f" {theirs.number})",
            "look at the difference, and save again",
        )
        self.theirs = theirs


class Taken(Conflict):
    """A new project has the name of one that there is; `basedir` is for the remedy."""

    def __init__(self, theirs: Version, basedir: str) -> None:
        super().__init__(theirs)
        assert theirs.project is not None
        self.what = f"there is a project {theirs.name} already, of {shown(theirs.project.url)}"
        self.hint = (
            f"litebot project edit {theirs.name} {basedir}\nadd it by another name: --name OTHER"
        )
        self.args = (self.what,)


ALL = (
    "SELECT name, version, definition, saved_at, saved_by, saved_on, comment"
    " FROM litebot_projects p"
)
NEWEST = ALL + " WHERE version = (SELECT max(version) FROM litebot_projects WHERE name = p.name)"  # noqa: S608


def _version(row: Sequence[object]) -> Version:
    name, number, definition, saved_at, saved_by, saved_on, comment = row
    project = None if definition is None else from_toml(str(name), str(definition))
    return Version(
        str(name),
        int(str(number)),
        project,
        float(str(saved_at)),
        Author(str(saved_by), str(saved_on), str(comment)),
    )


def thd_newest(sql: Sql) -> list[Version]:
    """Return the newest version of each project, also of removed ones."""
    return [_version(row) for row in sql.rows(NEWEST)]


def thd_history(sql: Sql, name: str) -> list[Version]:
    """Return all versions of a project, the newest first."""
    return [_version(row) for row in sql.rows(f"{ALL} WHERE name = ? ORDER BY version DESC", name)]


def thd_add(sql: Sql, versions: Sequence[tuple[Version, str | None]]) -> None:
    """Add versions, each with its definition; all or none.

    Raises Conflict if the version before one of them is not the newest of its project.
    """
    for version, definition in versions:
        row = sql.row(f"{NEWEST} AND name = ?", version.name)
        if (0 if row is None else int(row[1])) != version.number - 1:
            assert row is not None
            raise Conflict(_version(row))
        sql.insert(
            "litebot_projects",
            name=version.name,
            version=version.number,
            definition=definition,
            saved_at=version.saved_at,
            saved_by=version.author.name,
            saved_on=version.author.place,
            comment=version.author.comment,
        )


def thd_withdraw(sql: Sql, versions: Sequence[Version]) -> None:
    """Delete versions that never came into effect."""
    for version in versions:
        sql.write(
            "DELETE FROM litebot_projects WHERE name = ? AND version = ?",
            *(version.name, version.number),
        )


def stored(files: Basedir, database: Database, *, stopped: bool) -> list[Version]:
    """Read the newest versions from a database that this process may not have open.

    With `stopped` no master runs on a state file.  Returns none where there is no such table yet.
    Raises StoreError.
    """
    with inspected(files, database, stopped=stopped) as conn:
        if not sa.inspect(conn).has_table(tables.projects.name):
            return []
        return [_version(row) for row in conn.exec_driver_sql(NEWEST)]
