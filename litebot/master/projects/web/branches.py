"""How the branches of projects are: the worst result, over the matrix, at the newest revision."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

from buildbot.process.results import CANCELLED
from buildbot.process.results import EXCEPTION
from buildbot.process.results import FAILURE
from buildbot.process.results import RETRY
from buildbot.process.results import SKIPPED
from buildbot.process.results import SUCCESS
from buildbot.process.results import WARNINGS

from litebot.master.projects.building.pulls import number_of
from litebot.master.projects.web.overview import BUILDERS_PER_QUERY
from litebot.master.projects.web.overview import COLUMNS
from litebot.master.projects.web.overview import Activity
from litebot.master.projects.web.overview import Origin
from litebot.master.projects.web.overview import ShownBuild
from litebot.master.projects.web.overview import thd_facts
from litebot.master.projects.web.overview import thd_origins
from litebot.projects.build_file import MOST_CELLS
from litebot.store.sql import Sql

# Among how many builds of a builder those of a branch are looked for, and how many are read.
SEARCHED, READ = 200, MOST_CELLS + 6
# Results from the best to the worst; None is a build that runs.
ORDER = (SUCCESS, SKIPPED, WARNINGS, None, CANCELLED, FAILURE, EXCEPTION)


@dataclass(frozen=True)
class Branch:
    """A branch or pull request, and the build that says how its newest revision is."""

    name: str
    build: ShownBuild
    origin: Origin

    @property
    def is_pull(self) -> bool:
        """Whether it is a pull request, or a merge request as GitLab calls it."""
        return number_of(self.name) is not None

    @property
    def title(self) -> str:
        """Its name as people read it."""
        number = number_of(self.name)
        if number is None:
            return self.name
        kind = "Merge" if self.name.startswith("refs/merge-requests/") else "Pull"
        return f"{kind} request {number}"


def worst(builds: Sequence[ShownBuild], origins: Mapping[int, Origin]) -> ShownBuild | None:
    """Return the build that says how a branch is, of its builds, the oldest first.

    That is the worst at the newest revision of which a build has ended.  Of each cell of the matrix
    its last build counts.
    """
    counted = [build for build in reversed(builds) if build.results != RETRY]
    newest = next((build for build in counted if build.results is not None), None)
    if newest is None:
        return counted[0] if counted else None
    wanted = origins[newest.buildid]
    by_cell: dict[str, ShownBuild] = {}
    for build in counted:
        origin = origins[build.buildid]
        # A build that failed before it knew its cell has another one in its place.
        if origin.revision != wanted.revision or bool(origin.cell) != bool(wanted.cell):
            continue
        known = by_cell.get(origin.cell)
        if known is None or (known.results is None and build.results is not None):
            by_cell[origin.cell] = build
    return max(by_cell.values(), key=lambda build: ORDER.index(build.results))


def branches_of(activity: Activity) -> Iterator[Branch]:
    """Yield the branches among the last builds, that of the newest build first.

    A branch of which no build found a revision, such as a mistyped one, is left out.
    """
    by_name: dict[str, list[ShownBuild]] = {}
    for build in reversed(activity.builds):
        by_name.setdefault(activity.origins[build.buildid].branch or "(none)", []).append(build)
    for name, builds in by_name.items():
        if any(activity.origins[build.buildid].revision for build in builds):
            found = worst(builds[::-1], activity.origins)
            if found is not None:
                yield Branch(name, found, activity.origins[found.buildid])


def thd_branches(sql: Sql, wanted: Mapping[int, str]) -> dict[int, Branch]:
    """Return how one branch of each builder is: `wanted` has their names, by builderid.

    A branch that was not built lately is left out.
    """
    builds: dict[int, list[ShownBuild]] = {}
    revisions: dict[int, str | None] = {}
    ids = list(wanted)
    for start in range(0, len(ids), BUILDERS_PER_QUERY):
        some = {each: wanted[each] for each in ids[start : start + BUILDERS_PER_QUERY]}
        for *columns, revision in _last_of(sql, some):
            build = ShownBuild._make(columns)
            builds.setdefault(build.builderid, []).append(build)
            revisions[build.buildid] = revision
    facts = thd_facts(sql, list(revisions))
    origins = {
        buildid: Origin(
            revision=facts.get(buildid, Origin()).revision or revision,
            cell=facts.get(buildid, Origin()).cell,
        )
        for buildid, revision in revisions.items()
    }
    shown = []
    for each in builds.values():
        each.sort(key=lambda build: build.number)
        if (build_found := worst(each, origins)) is not None:
            shown.append(build_found)
    told = thd_origins(sql, shown)
    return {
        build.builderid: Branch(
            wanted[build.builderid],
            build,
            replace(told[build.buildid], branch=wanted[build.builderid]),
        )
        for build in shown
    }


def _last_of(sql: Sql, wanted: Mapping[int, str]) -> Iterator[Sequence[Any]]:
    """Yield the last builds of branches, and the revisions that they were asked for."""
    columns = ", ".join(f"b.{column}" for column in COLUMNS.split(", "))
    one = (
        f"SELECT * FROM (SELECT {columns}, s.revision FROM"  # noqa: S608 (constants)
        f" (SELECT {COLUMNS}, buildrequestid FROM builds WHERE builderid = ?"
        " ORDER BY number DESC LIMIT ?) AS b"
        " JOIN buildrequests r ON r.id = b.buildrequestid"
        " JOIN buildset_sourcestamps bs ON bs.buildsetid = r.buildsetid"
        " JOIN sourcestamps s ON s.id = bs.sourcestampid"
        " WHERE s.branch = ? ORDER BY b.number DESC LIMIT ?) AS found"
    )
    parameters = [
        value
        for builderid, branch in wanted.items()
        for value in (builderid, SEARCHED, branch, READ)
    ]
    yield from sql.rows(" UNION ALL ".join([one] * len(wanted)), *parameters)
