"""What is told of a build, and which result the one before it had."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from buildbot.process.results import EXCEPTION
from buildbot.process.results import FAILURE
from buildbot.process.results import SUCCESS
from buildbot.process.results import WARNINGS

from litebot.master.telling.base import About
from litebot.master.telling.begin import CELL
from litebot.store.sql import Sql

# Results that say something of what was built.
TELLING = (SUCCESS, WARNINGS, FAILURE, EXCEPTION)
# A branch that was not built in so many builds of a project counts as new.
MOST_LOOKED_AT = 500


@dataclass(frozen=True)
class Facts:
    """What a build has built; `revision` is "" while it is not known."""

    branch: str
    revision: str
    cell: str

    @property
    def short_branch(self) -> str:
        """The name of the branch or tag."""
        return self.branch.removeprefix("refs/heads/").removeprefix("refs/tags/")


def facts_of(build: Mapping[str, Any], about: About) -> Facts:
    """Return what is told of a build with its properties and its buildset."""
    stamp: Mapping[str, Any] = (build["buildset"]["sourcestamps"] or [{}])[0]
    properties = build["properties"]
    revision = properties.get("got_revision", (None,))[0] or stamp.get("revision")
    branch = properties.get("branch", (None,))[0] or stamp.get("branch")
    return Facts(
        str(branch or about.branch),
        revision if isinstance(revision, str) else "",
        cell_text(properties.get(CELL, (None,))[0]),
    )


def cell_text(cell: object) -> str:
    """Return the property with a build's cell of the matrix as text; "" without one."""
    if isinstance(cell, Mapping):
        return ", ".join(f"{name}={value}" for name, value in cell.items())
    return str(cell or "")


def is_elsewhere(build: Mapping[str, Any], about: About) -> bool:
    """Return whether a build is said to be of another repository than the project's."""
    stamps = build["buildset"]["sourcestamps"]
    return any(stamp["repository"] not in (None, "", about.url) for stamp in stamps)


def thd_result_before(
    sql: Sql, builderid: int, number: int, facts: Facts, branch: str
) -> int | None:
    """Return the result of the build of the same branch and cell before build `number`.

    `branch` is that of builds that name none.
    """
    query = (
        "SELECT b.results, s.branch,"
        " (SELECT value FROM build_properties WHERE buildid = b.id AND name = ?)"
        " FROM builds b JOIN buildrequests r ON r.id = b.buildrequestid"
        " JOIN buildset_sourcestamps bs ON bs.buildsetid = r.buildsetid"
        " JOIN sourcestamps s ON s.id = bs.sourcestampid"
        " WHERE b.builderid = ? AND b.number < ? AND b.results IN (?, ?, ?, ?)"
        " ORDER BY b.number DESC LIMIT ?"
    )
    given = (CELL, builderid, number, *TELLING, MOST_LOOKED_AT)
    for results, built, cell in sql.rows(query, *given):
        text = cell_text(None if cell is None else json.loads(cell))
        if (built or branch, text) == (facts.branch, facts.cell):
            return int(results)
    return None
