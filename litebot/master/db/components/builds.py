"""Builds and their properties, which are all set in one transaction.

Source: buildbot/db/builds.py and buildbot/data/builds.py, whose names and models these keep.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from collections.abc import Sequence
from typing import Any

from buildbot.data.resultspec import ResultSpec
from buildbot.db import builds
from buildbot.db.model import Model
from twisted.internet import defer

from litebot.master.db.components import lists
from litebot.master.db.components.values import INTEGRITY_ERRORS
from litebot.master.db.components.values import EndEffect
from litebot.master.db.components.values import epoch2datetime
from litebot.master.db.components.values import fit_text
from litebot.store.sql import Row
from litebot.store.sql import Sql

COLUMNS = (
    "id, number, builderid, buildrequestid, workerid, masterid, started_at, complete_at, "
    "locks_duration_s, state_string, results"
)

# name -> (value, source)
Properties = dict[str, tuple[Any, str]]


def model_of(row: Row) -> builds.BuildModel:
    """Return the model of a row of COLUMNS."""
    id, number, builderid, buildrequestid, workerid, masterid, started, complete, *rest = row
    locks_duration_s, state_string, results = rest
    return builds.BuildModel(
        id=id,
        number=number,
        builderid=builderid,
        buildrequestid=buildrequestid,
        workerid=workerid,
        masterid=masterid,
        started_at=epoch2datetime(started),
        complete_at=epoch2datetime(complete),
        locks_duration_s=locks_duration_s,
        state_string=state_string,
        results=results,
    )


LIST = lists.List(
    select=f"SELECT {COLUMNS} FROM builds",
    count="builds",
    model_of=model_of,
    fields={"buildid": "id", **{name: name for name in COLUMNS.split(", ")[1:]}},
    key="id",
    unindexed="state_string",
)


class BuildsConnectorComponent(builds.BuildsConnectorComponent):
    """Buildbot's, in plain SQL; a method that changes a build returns its model."""

    def getBuild(self, buildid: int) -> Any:
        """Return a build by its id, or None."""
        return self.db.do_sql(_thd_build, "id = ?", buildid)

    def getBuildByNumber(self, builderid: int, number: int) -> Any:
        """Return a build by its builder and number, or None."""
        return self.db.do_sql(_thd_build, "builderid = ? AND number = ?", builderid, number)

    def getBuilds(
        self,
        builderid: int | None = None,
        buildrequestid: int | None = None,
        workerid: int | None = None,
        complete: bool | None = None,
        resultSpec: Any = None,
    ) -> Any:
        """Return the builds that match each argument that is not None."""
        spec = ResultSpec() if resultSpec is None else resultSpec
        if not LIST.can_select(spec):
            return super().getBuilds(builderid, buildrequestid, workerid, complete, resultSpec)
        given = {"builderid": builderid, "buildrequestid": buildrequestid, "workerid": workerid}
        given = {name: value for name, value in given.items() if value is not None}
        where = [f"{'+' if complete is False else ''}{name} = ?" for name in given]
        if complete is not None:
            where.append(f"complete_at IS {'NOT ' if complete else ''}NULL")
        d = self.db.do_sql(LIST.page, spec, where, list(given.values()))
        return d.addCallback(LIST.mark_applied, spec)

    @defer.inlineCallbacks
    def addBuild(
        self,
        builderid: int,
        buildrequestid: int,
        workerid: int,
        masterid: int,
        state_string: str,
        _race_hook: Any = None,
    ) -> Any:
        """Start a build now, under its builder's next number; return its id and number."""

        def thd(sql: Sql) -> tuple[int, int]:
            self.db.cluster.lock_build_numbers(sql, builderid)
            highest = sql.row("SELECT max(number) FROM builds WHERE builderid = ?", builderid)
            number = ((highest and highest[0]) or 0) + 1
            id = sql.insert(
                "builds",
                number=number,
                builderid=builderid,
                buildrequestid=buildrequestid,
                workerid=workerid,
                masterid=masterid,
                started_at=now,
                state_string=state_string,
                locks_duration_s=0,
            )
            return id, number

        now = int(self.master.reactor.seconds())
        if _race_hook is not None:
            ids = (builderid, buildrequestid, workerid, masterid)
            return (yield super().addBuild(*ids, state_string, _race_hook))
        while True:
            try:
                return (yield self.db.do_sql(thd))
            except INTEGRITY_ERRORS:
                pass  # another master took the number

    def setBuildStateString(self, buildid: int, state_string: str) -> Any:
        """Set the text that says what a build is doing."""
        text = fit_text(self.db, Model.builds.c.state_string, state_string)
        return self._update(buildid, state_string=text)

    def finishBuild(self, buildid: int, results: int) -> Any:
        """Mark a build as finished, now."""

        def thd(sql: Sql) -> builds.BuildModel | None:
            sql.update("builds", buildid, complete_at=now, results=results)
            if effect is not None:
                sql.with_connection(effect)
            return _thd_build(sql, "id = ?", buildid)

        now = int(self.master.reactor.seconds())
        effect = self.end_effect(buildid)
        return self.db.do_sql(thd)

    def end_effect(self, buildid: int) -> EndEffect | None:
        """Return what to write in the transaction that ends this build, or None for nothing."""
        return None

    def add_build_locks_duration(self, buildid: int, duration_s: int) -> Any:
        """Add to the time that a build has waited for locks."""

        def thd(sql: Sql) -> builds.BuildModel | None:
            sql.write(
                "UPDATE builds SET locks_duration_s = locks_duration_s + ? WHERE id = ?",
                *(duration_s, buildid),
            )
            return _thd_build(sql, "id = ?", buildid)

        return self.db.do_sql(thd)

    def getBuildProperties(self, bid: int, resultSpec: Any = None) -> Any:
        """Return the properties of a build: {name: (value, source)}."""
        if resultSpec is not None:
            return super().getBuildProperties(bid, resultSpec)
        return self.db.do_sql(_thd_properties, bid)

    def get_properties_of(self, buildids: Sequence[int], names: Collection[str] | None) -> Any:
        """Return {buildid: properties} with the properties of these names; None means all."""
        return self.db.do_sql(_thd_properties_of, buildids, names)

    def setBuildProperty(self, bid: int, name: str, value: Any, source: str) -> Any:
        """Set one property of a build."""
        return self.set_properties(bid, {name: (value, source)})

    def set_properties(self, bid: int, properties: Properties) -> Any:
        """Set the properties that are new or that differ; return those that were set."""

        def thd(sql: Sql) -> Properties:
            query = "SELECT name, value, source FROM build_properties WHERE buildid = ?"
            before = {row[0]: row[1:] for row in sql.rows(query, bid)}
            changed = {}
            for name, (value, source) in properties.items():
                text = json.dumps(value)
                if name not in before:
                    sql.write(
                        "INSERT INTO build_properties (buildid, name, value, source)"
                        " VALUES (?, ?, ?, ?)",
                        *(bid, name, text, source),
                    )
                elif before[name] != (text, source):
                    sql.write(
                        "UPDATE build_properties SET value = ?, source = ?"
                        " WHERE buildid = ? AND name = ?",
                        *(text, source, bid, name),
                    )
                else:
                    continue
                changed[name] = (value, source)
            return changed

        return self.db.do_sql(thd)

    def _update(self, buildid: int, **values: Any) -> Any:
        def thd(sql: Sql) -> builds.BuildModel | None:
            sql.update("builds", buildid, **values)
            return _thd_build(sql, "id = ?", buildid)

        return self.db.do_sql(thd)


def _thd_build(sql: Sql, where: str, *parameters: Any) -> builds.BuildModel | None:
    row = sql.row(f"SELECT {COLUMNS} FROM builds WHERE {where}", *parameters)
    return None if row is None else model_of(row)


def _thd_properties_of(
    sql: Sql, buildids: Sequence[int], names: Collection[str] | None
) -> dict[int, Properties]:
    found: dict[int, Properties] = {}
    for some in lists.in_parts(buildids):
        query = (
            "SELECT buildid, name, value, source FROM build_properties"
            f" WHERE {lists.among('buildid', some)}"
        )
        for bid, name, value, source in sql.rows(query, *some):
            if names is None or name in names:
                found.setdefault(bid, {})[name] = (json.loads(value), source)
    return found


def _thd_properties(sql: Sql, bid: int) -> Properties:
    query = "SELECT name, value, source FROM build_properties WHERE buildid = ?"
    return {name: (json.loads(value), source) for name, value, source in sql.rows(query, bid)}
