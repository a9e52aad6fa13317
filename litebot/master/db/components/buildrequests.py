"""Build requests: found by an index of the unfinished, completed together with their buildsets.

Source: buildbot/db/buildrequests.py and buildbot/data/buildrequests.py, whose names and models
these keep.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any
from typing import TypeAlias

from buildbot.data.resultspec import ResultSpec
from buildbot.db import buildrequests
from buildbot.db.buildsets import BuildSetModel
from buildbot.process.results import RETRY
from buildbot.util import datetime2epoch

from litebot.master.db.components import lists
from litebot.master.db.components.values import INTEGRITY_ERRORS
from litebot.master.db.components.values import epoch2datetime
from litebot.store.sql import Row
from litebot.store.sql import Sql

SELECT = (
    "SELECT r.id, r.buildsetid, r.builderid, b.name, r.submitted_at, r.complete_at, r.complete,"
    " r.results, r.waited_for, r.priority, c.claimed_at, c.masterid"
    " FROM buildrequests r JOIN builders b ON b.id = r.builderid"
    " LEFT JOIN buildrequest_claims c ON c.brid = r.id"
)
UNCLAIMED = "c.brid IS NULL AND r.complete <> 1"

# Each builder that has unfinished requests, with the highest priority and the oldest submitted_at
# of its unclaimed ones.  It is one statement, as it runs at each start of a build.
_OF_BUILDER = (
    " FROM buildrequests r LEFT JOIN buildrequest_claims c ON c.brid = r.id"
    f" WHERE {UNCLAIMED} AND r.builderid = unfinished.builderid"
)
URGENCY = (
    "WITH RECURSIVE unfinished(builderid) AS ("
    "SELECT min(builderid) FROM buildrequests WHERE complete <> 1"
    " UNION ALL SELECT (SELECT min(r.builderid) FROM buildrequests r"
    " WHERE r.complete <> 1 AND r.builderid > unfinished.builderid)"
    " FROM unfinished WHERE unfinished.builderid IS NOT NULL)"
    f" SELECT builderid, (SELECT r.priority{_OF_BUILDER} ORDER BY r.priority DESC, r.id LIMIT 1),"
    f" (SELECT r.submitted_at{_OF_BUILDER} ORDER BY r.submitted_at LIMIT 1)"
    " FROM unfinished WHERE builderid IS NOT NULL"
)

Model: TypeAlias = buildrequests.BuildRequestModel


def model_of(row: Row) -> Model:
    """Return the model of a row of SELECT."""
    id, buildsetid, builderid, buildername, submitted, completed, complete, results, *rest = row
    waited_for, priority, claimed, masterid = rest
    return Model(
        buildrequestid=id,
        buildsetid=buildsetid,
        builderid=builderid,
        buildername=buildername,
        submitted_at=epoch2datetime(submitted),
        complete_at=epoch2datetime(completed),
        complete=bool(complete),
        results=results,
        waited_for=bool(waited_for),
        priority=priority,
        claimed_at=epoch2datetime(claimed),
        claimed_by_masterid=masterid,
    )


OWN = "buildsetid builderid priority complete results submitted_at complete_at waited_for"
LIST = lists.List(
    select=SELECT,
    count="buildrequests r",
    model_of=model_of,
    fields={
        "buildrequestid": "r.id",
        "claimed_at": "c.claimed_at",
        "claimed_by_masterid": "c.masterid",
        **{name: f"r.{name}" for name in OWN.split()},
    },
    key="r.id",
    unindexed="r.waited_for",
)


class BuildRequestsConnectorComponent(buildrequests.BuildRequestsConnectorComponent):
    """Buildbot's, in plain SQL."""

    def getBuildRequest(self, brid: int) -> Any:
        """Return a request by its id, or None."""

        def thd(sql: Sql) -> Model | None:
            row = sql.row(f"{SELECT} WHERE r.id = ?", brid)
            return None if row is None else model_of(row)

        return self.db.do_sql(thd)

    def get_some(self, brids: Iterable[int]) -> Any:
        """Return the requests with these ids, in the same order; skips those that don't exist."""
        return self.db.do_sql(_thd_requests, list(brids))

    def getBuildRequests(
        self,
        builderid: int | None = None,
        complete: bool | None = None,
        claimed: bool | int | None = None,
        bsid: int | None = None,
        branch: str | None = None,
        repository: str | None = None,
        resultSpec: Any = None,
    ) -> Any:
        """Return the requests that match each argument that is not None.

        `claimed` may be the id of the master that has claimed them.
        """
        spec = ResultSpec() if resultSpec is None else resultSpec
        if not (branch is repository is None and LIST.can_select(spec)):
            return super().getBuildRequests(
                builderid, complete, claimed, bsid, branch, repository, resultSpec
            )
        where: list[str] = []
        parameters: list[int] = []
        if isinstance(claimed, bool):
            where += ["c.claimed_at IS NOT NULL"] if claimed else UNCLAIMED.split(" AND ")
        elif claimed is not None:
            where.append(f"{'+' if complete is False else ''}c.masterid = ?")
            parameters.append(claimed)
        if builderid is not None:
            where.append("r.builderid = ?")
            parameters.append(builderid)
        if complete is not None:
            where.append("r.complete <> 0" if complete else "r.complete <> 1")
        if bsid is not None:
            where.append("r.buildsetid = ?")
            parameters.append(bsid)
        d = self.db.do_sql(LIST.page, spec, where, parameters)
        return d.addCallback(LIST.mark_applied, spec)

    def get_unclaimed(self, builderid: int, after: Model | None, limit: int) -> Any:
        """Return up to `limit` unclaimed requests of a builder, those that follow `after`.

        The highest priority comes first, and of the same priority the oldest.
        """

        def thd(sql: Sql) -> list[Model]:
            where, parameters = f"{UNCLAIMED} AND r.builderid = ?", [builderid]
            if after is not None:
                where += " AND (r.priority < ? OR r.priority = ? AND r.id > ?)"
                parameters += [after.priority, after.priority, after.buildrequestid]
            query = f"{SELECT} WHERE {where} ORDER BY r.priority DESC, r.id LIMIT {limit:d}"
            return [model_of(row) for row in sql.rows(query, *parameters)]

        return self.db.do_sql(thd)

    def get_urgency(self) -> Any:
        """Return {builderid: (highest priority, oldest submitted_at)} of the unclaimed requests.

        The query steps along the index of unfinished requests, from one builder to the next.
        """

        def thd(sql: Sql) -> dict[int, tuple[int, int]]:
            rows = sql.rows(URGENCY)
            return {id: (priority, oldest) for id, priority, oldest in rows if oldest is not None}

        return self.db.do_sql(thd)

    def claimBuildRequests(
        self, brids: Iterable[int], claimed_at: datetime.datetime | None = None
    ) -> Any:
        """Claim requests for this master, all or none; return them.

        Raises AlreadyClaimedError if one is claimed already or does not exist.
        """

        def thd(sql: Sql) -> list[Model]:
            for brid in ids:
                try:
                    claimed = sql.write(
                        "INSERT INTO buildrequest_claims (brid, masterid, claimed_at)"
                        " VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                        *(brid, self.db.master.masterid, seconds),
                    )
                except INTEGRITY_ERRORS as error:  # there is no such request
                    raise buildrequests.AlreadyClaimedError from error
                if not claimed:
                    raise buildrequests.AlreadyClaimedError
            return _thd_requests(sql, ids)

        ids, seconds = list(brids), self._seconds(claimed_at)
        return self.db.do_sql(thd)

    def completeBuildRequests(
        self, brids: Iterable[int], results: int, complete_at: datetime.datetime | None = None
    ) -> Any:
        """Complete requests.  Raises NotClaimedError if one is complete already."""
        return self.db.do_sql(_thd_complete, list(brids), results, self._seconds(complete_at))

    def complete(
        self,
        brids: Iterable[int],
        results: int,
        complete_at: datetime.datetime | None = None,
        *,
        survivor: int | None = None,
    ) -> Any:
        """Do as completeBuildRequests, and complete the buildsets of which these were the last.

        If they were collapsed, `survivor` is the request into which.  Returns the models of the
        requests and of the buildsets that were completed.
        """

        def thd(sql: Sql) -> tuple[list[Model], list[BuildSetModel]]:
            _thd_complete(sql, ids, results, seconds)
            for brid in ids if survivor is not None else ():
                statement = "INSERT INTO litebot_collapsed (brid, survivor) VALUES (?, ?)"
                sql.write(statement, brid, survivor)
            models = _thd_requests(sql, ids)
            sets = {model.buildsetid for model in models}
            component = self.db.buildsets
            done = [component.thd_complete_if_done(sql, bsid, now) for bsid in sorted(sets)]
            return models, [model for model in done if model is not None]

        ids, seconds, now = list(brids), self._seconds(complete_at), self._seconds(None)
        return self.db.do_sql(thd)

    def get_collapsed(self, survivor: int) -> Any:
        """Return the requests that were collapsed into this one, also by way of others."""

        def thd(sql: Sql) -> list[Model]:
            return _thd_requests(sql, thd_collapsed(sql, survivor))

        return self.db.do_sql(thd)

    def set_build_requests_priority(self, brids: Iterable[int], priority: int) -> Any:
        """Set the priority of requests, except complete ones.  Buildbot's fails on SQLAlchemy 2."""

        def thd(sql: Sql) -> None:
            for brid in ids:
                query = "UPDATE buildrequests SET priority = ? WHERE id = ? AND complete <> 1"
                sql.write(query, priority, brid)

        ids = list(brids)  # thd may be run again
        return self.db.do_sql(thd)

    def _seconds(self, at: datetime.datetime | None) -> int:
        return int(self.master.reactor.seconds()) if at is None else int(datetime2epoch(at))


def thd_collapsed(sql: Sql, survivor: int) -> list[int]:
    """Return the ids of the requests that were collapsed into this one, the oldest first."""
    query = """
        WITH RECURSIVE found(id) AS (
            SELECT brid FROM litebot_collapsed WHERE survivor = ?
            UNION SELECT c.brid FROM litebot_collapsed c JOIN found ON c.survivor = found.id
        ) SELECT id FROM found ORDER BY id
    """
    return [row[0] for row in sql.rows(query, survivor)]


def _thd_requests(sql: Sql, brids: list[int]) -> list[Model]:
    rows = [sql.row(f"{SELECT} WHERE r.id = ?", brid) for brid in brids]
    return [model_of(row) for row in rows if row is not None]


def _thd_complete(sql: Sql, brids: list[int], results: int, complete_at: int) -> None:
    assert results != RETRY, "a buildrequest cannot be completed with a retry status!"
    for brid in brids:
        changed = sql.write(
            "UPDATE buildrequests SET complete = 1, results = ?, complete_at = ?"
            " WHERE id = ? AND complete <> 1",
            *(results, complete_at, brid),
        )
        if not changed:
            raise buildrequests.NotClaimedError
