"""The cells of a build's matrix: the build that finds the matrix is one, and asks for the others.

Each cell is a build request of its own, so that they run side by side where workers are free, and
each has a result of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from buildbot.process.buildrequest import BuildRequest

from litebot.master.telling.begin import CELL
from litebot.store.sql import Sql

SOURCE = "litebot"
# By which the buildset of a cell is known again.
MARK = "cell {number} of build request {brid}"


async def ask_for_others(build: Any, cells: Sequence[Mapping[str, str]], revision: str) -> None:
    """Ask for builds of all cells but the first, once, whatever kills the master meanwhile."""
    request, updates = build.requests[0], build.master.data.updates
    stamps = [_stamp(source, revision) for source in build.getAllSourceStamps()]
    for index, cell in enumerate(cells[1:], 2):
        mark = MARK.format(number=index, brid=request.id)
        if await build.master.db.do_sql(_thd_is_asked, request.bsid, mark):
            continue
        given = {
            name: (value, source)
            for name, value, source in request.properties.asList()
            if name != "scheduler"
        }
        await updates.addBuildset(
            waited_for=False,
            scheduler=build.getProperty("scheduler"),
            external_idstring=mark,
            sourcestamps=stamps,
            reason=request.reason,
            properties={**given, CELL: (dict(cell), SOURCE)},
            builderids=[await build.getBuilderId()],
            parent_buildid=build.buildid,
            parent_relationship="matrix",
            priority=request.priority,
        )


def _stamp(source: Any, revision: str) -> Any:
    """Return a sourcestamp for the same revision; it is the same one if it names a revision."""
    if source.revision:
        return source.ssid
    return {
        "codebase": source.codebase,
        "repository": source.repository,
        "project": source.project,
        "branch": source.branch,
        "revision": revision or None,
    }


async def requests_of_others(master: Any, brid: int) -> list[int]:
    """Return the build requests of the other cells that the build of a request has asked for."""
    found: list[int] = await master.db.do_sql(_thd_others, brid)
    return found


def _thd_others(sql: Sql, brid: int) -> list[int]:
    query = (
        "SELECT r.id FROM buildsets s JOIN buildrequests r ON r.buildsetid = s.id"
        " WHERE s.id > (SELECT buildsetid FROM buildrequests WHERE id = ?)"
        " AND s.external_idstring LIKE ? ORDER BY r.id"
    )
    return [found for (found,) in sql.rows(query, brid, MARK.format(number="%", brid=brid))]


def _thd_is_asked(sql: Sql, bsid: int, mark: str) -> bool:
    # Buildsets of cells come after that of the build that asks for them.
    query = "SELECT 1 FROM buildsets WHERE id > ? AND external_idstring = ?"
    return sql.row(query, bsid, mark) is not None


async def collapse_same_cell(master: Any, builder: Any, new: Any, old: Any) -> bool:
    """Say whether an older request may be built as a newer one, as a builder's collapseRequests."""
    cells = []
    for request in (new, old):
        where = ("buildsets", request["buildsetid"], "properties")
        properties = await master.data.get(where)
        cells.append(properties.get(CELL, (None, ""))[0])
    if cells[0] != cells[1]:
        return False
    return bool(await BuildRequest.canBeCollapsed(master, new, old))
