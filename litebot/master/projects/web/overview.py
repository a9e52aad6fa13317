"""What became of the last builds of some builders, and what runs and waits, read at one moment.

Each statement is about all of them and uses an index, so that it takes as long after a million
builds as after a thousand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import NamedTuple

from litebot.master.db.components.lists import among
from litebot.master.db.components.lists import in_parts
from litebot.master.telling.begin import CELL
from litebot.store.sql import Sql

# How many builds a chart shows.
SHOWN = 20
# Of how many builders a statement reads the builds; SQLite takes 500 parts.
BUILDERS_PER_QUERY = 100
OWNER, REVISION = "owner", "got_revision"
# The reason of builds that nobody has asked for.
NIGHTLY = "nightly"


class ShownBuild(NamedTuple):
    """A build, as charts and tables show it: a row of COLUMNS.

    Times are in epoch seconds; one that runs has neither `complete_at` nor results.
    """

    buildid: int
    builderid: int
    number: int
    started_at: int
    complete_at: int | None
    locks_s: int
    results: int | None
    state: str

    @property
    def duration_s(self) -> float | None:
        """How long it took, without waiting for locks; None for one that runs."""
        if self.complete_at is None:
            return None
        return max(0, self.complete_at - self.started_at - self.locks_s)


COLUMNS = "id, builderid, number, started_at, complete_at, locks_duration_s, results, state_string"

# The + keeps SQLite from reading all builds in the order of another index.
RUNNING = "SELECT +builderid, count(*) FROM builds WHERE complete_at IS NULL GROUP BY +builderid"
WAITING = (
    "SELECT r.builderid, count(*) FROM buildrequests r WHERE r.complete <> 1"
    " AND NOT EXISTS (SELECT 1 FROM buildrequest_claims c WHERE c.brid = r.id)"
    " GROUP BY r.builderid"
)


@dataclass(frozen=True)
class Origin:
    """What a build was made of, and who asked for it; each may be unknown."""

    branch: str | None = None
    revision: str | None = None
    who: str | None = None
    reason: str = ""
    cell: str = ""  # of the matrix, such as "CC=clang X=2"


@dataclass
class Activity:
    """What a builder has done and is to do.

    `builds` are its last ones, oldest first; `origins` has those of the newest, by their ids.
    """

    builderid: int
    builds: list[ShownBuild] = field(default_factory=list)
    running: int = 0
    waiting: int = 0
    origins: dict[int, Origin] = field(default_factory=dict)

    @property
    def last(self) -> ShownBuild | None:
        """The newest build."""
        return self.builds[-1] if self.builds else None

    @property
    def last_ended(self) -> ShownBuild | None:
        """The newest build that has ended."""
        return next((each for each in reversed(self.builds) if each.results is not None), None)

    @property
    def origin(self) -> Origin:
        """What the newest build was made of."""
        return Origin() if self.last is None else self.origins.get(self.last.buildid, Origin())


def thd_activity(
    sql: Sql, names: Sequence[str], shown: int = SHOWN, origins: int = 1
) -> dict[str, Activity]:
    """Return what builders do, by their names, with their last `shown` builds.

    `origins` says of how many of these it is told what they were made of.  A builder that the
    database does not know is left out.
    """
    found: dict[str, Activity] = {}
    for some in in_parts(names):
        query = f"SELECT id, name FROM builders WHERE {among('name', some)}"
        found.update((name, Activity(builderid)) for builderid, name in sql.rows(query, *some))
    by_id = {each.builderid: each for each in found.values()}
    ids = list(by_id)
    for start in range(0, len(ids), BUILDERS_PER_QUERY):
        for build in _last_builds(sql, ids[start : start + BUILDERS_PER_QUERY], shown):
            by_id[build.builderid].builds.append(build)
    for builderid, count in sql.rows(RUNNING):
        if builderid in by_id:
            by_id[builderid].running = count
    for builderid, count in sql.rows(WAITING):
        if builderid in by_id:
            by_id[builderid].waiting = count
    for activity in by_id.values():
        activity.builds.sort(key=lambda build: build.number)
    newest = [build for each in by_id.values() for build in each.builds[-origins:]]
    told = thd_origins(sql, newest)
    for build in newest:
        by_id[build.builderid].origins[build.buildid] = told[build.buildid]
    return found


def _last_builds(sql: Sql, builderids: Sequence[int], shown: int) -> Iterable[ShownBuild]:
    one = (
        f"SELECT * FROM (SELECT {COLUMNS} FROM builds WHERE builderid = ?"
        " ORDER BY number DESC LIMIT ?) AS b"
    )
    parameters = [value for builderid in builderids for value in (builderid, shown)]
    query = " UNION ALL ".join([one] * len(builderids))
    return map(ShownBuild._make, sql.rows(query, *parameters))


def thd_origins(sql: Sql, builds: Sequence[ShownBuild]) -> dict[int, Origin]:
    """Return what builds were made of, by their ids."""
    found = {build.buildid: Origin() for build in builds}
    for some in in_parts(list(found)):
        facts = thd_facts(sql, some)
        query = (
            "SELECT b.id, s.branch, s.revision, t.reason,"
            " (SELECT min(c.author) FROM changes c WHERE c.sourcestampid = s.id)"
            " FROM builds b JOIN buildrequests r ON r.id = b.buildrequestid"
            " JOIN buildsets t ON t.id = r.buildsetid"
            " JOIN buildset_sourcestamps bs ON bs.buildsetid = t.id"
            f" JOIN sourcestamps s ON s.id = bs.sourcestampid WHERE {among('b.id', some)}"
        )
        for buildid, branch, revision, reason, author in sql.rows(query, *some):
            known = facts.get(buildid, Origin())
            # An author of a commit has an address, too.
            author = author and author.partition(" <")[0]
            by = known.who or author or (NIGHTLY if reason == NIGHTLY else None)
            found[buildid] = Origin(
                branch, known.revision or revision, by, reason or "", known.cell
            )
    return found


def thd_facts(sql: Sql, buildids: Sequence[int]) -> dict[int, Origin]:
    """Return the owners, revisions and cells that builds have as properties, by their ids."""
    found: dict[int, dict[str, Any]] = {}
    for some in in_parts(buildids):
        query = (
            f"SELECT buildid, name, value FROM build_properties WHERE {among('buildid', some)}"
            f" AND name IN ('{OWNER}', '{REVISION}', '{CELL}')"
        )
        for buildid, name, value in sql.rows(query, *some):
            found.setdefault(buildid, {})[name] = json.loads(value)
    return {buildid: _origin(values) for buildid, values in found.items()}


def _origin(values: dict[str, Any]) -> Origin:
    who, revision = (
        value if isinstance(value := values.get(name), str) else None for name in (OWNER, REVISION)
    )
    cell = values.get(CELL)
    words = (f"{name}={value}" for name, value in cell.items()) if isinstance(cell, dict) else ()
    return Origin(None, revision, who, "", " ".join(words))
