"""Buildsets: added together with their sourcestamps and requests, in one transaction.

Source: buildbot/db/buildsets.py and buildbot/data/buildsets.py, whose names and models these keep.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import sqlalchemy as sa
from buildbot.db import buildsets
from buildbot.db.base import cached
from buildbot.db.model import Model
from buildbot.db.sourcestamps import SourceStampModel
from buildbot.process.results import SUCCESS
from buildbot.process.results import worst_status
from buildbot.util import datetime2epoch
from buildbot.util.sautils import hash_columns
from twisted.internet import defer

from litebot.master.db.components import lists
from litebot.master.db.components.sourcestamps import thd_stamps
from litebot.master.db.components.values import EndEffect
from litebot.master.db.components.values import epoch2datetime
from litebot.master.db.components.values import fit_text
from litebot.store.sql import Row
from litebot.store.sql import Sql

COLUMNS = (
    "id, external_idstring, reason, submitted_at, complete, complete_at, results, parent_buildid,"
    " parent_relationship, rebuilt_buildid"
)

# Conditions for the argument `complete`, as in Buildbot.
IS_COMPLETE = {True: "complete <> 0", False: "(complete = 0 OR complete IS NULL)"}

# name -> (value, source)
Properties = dict[str, tuple[Any, str]]
# The arguments of SourceStampsConnectorComponent.findSourceStampId, or the id of a sourcestamp.
SourceStamp = dict[str, Any] | int


def thd_buildset(sql: Sql, bsid: int) -> buildsets.BuildSetModel | None:
    """Return a buildset by its id, or None."""
    row = sql.row(f"SELECT {COLUMNS} FROM buildsets WHERE id = ?", bsid)
    return None if row is None else _model_of(sql, row)


def _model_of(sql: Sql, row: Row) -> buildsets.BuildSetModel:
    stamps = "SELECT sourcestampid FROM buildset_sourcestamps WHERE buildsetid = ? ORDER BY id"
    model = _without_stamps(row)
    model.sourcestamps = [found[0] for found in sql.rows(stamps, model.bsid)]
    return model


def _without_stamps(row: Row) -> buildsets.BuildSetModel:
    bsid, external_idstring, reason, submitted, complete, completed, results, *rest = row
    parent_buildid, parent_relationship, rebuilt_buildid = rest
    return buildsets.BuildSetModel(
        bsid=bsid,
        external_idstring=external_idstring,
        reason=reason,
        submitted_at=epoch2datetime(submitted),
        complete=bool(complete),
        complete_at=epoch2datetime(completed),
        results=results,
        parent_buildid=parent_buildid,
        parent_relationship=parent_relationship,
        rebuilt_buildid=rebuilt_buildid,
        sourcestamps=[],
    )


OTHERS = COLUMNS.split(", ")[1:]
LIST = lists.List(
    select=f"SELECT {COLUMNS} FROM buildsets",
    count="buildsets",
    model_of=_without_stamps,
    fields={"bsid": "id", **{name: name for name in OTHERS}},
    key="id",
    unindexed="reason",
)

# A buildset and its sourcestamps.
Stamped = tuple[buildsets.BuildSetModel, list[SourceStampModel]]


class AdditionEffect(Protocol):
    """What is written in the transaction that adds a buildset."""

    def write(self, conn: sa.engine.Connection, bsid: int, ssids: list[int]) -> None:
        """Write it; commits nothing."""

    def written(self) -> None:
        """Note that the transaction is committed."""


class BuildsetsConnectorComponent(buildsets.BuildsetsConnectorComponent):
    """Buildbot's, but adds a buildset and all that belongs to it in one transaction."""

    @defer.inlineCallbacks
    def addBuildset(
        self,
        sourcestamps: Iterable[SourceStamp],
        reason: str,
        properties: Properties | None,
        builderids: Iterable[int],
        waited_for: bool,
        external_idstring: str | None = None,
        submitted_at: datetime.datetime | None = None,
        rebuilt_buildid: int | None = None,
        parent_buildid: int | None = None,
        parent_relationship: str | None = None,
        priority: int = 0,
    ) -> Any:
        """Add a buildset; return its id and {builderid: brid} of its requests."""
        assert isinstance(waited_for, bool), f"waited_for should be boolean: {waited_for!r}"
        stamps, builderids = list(sourcestamps), list(builderids)
        properties = properties or {}
        scheduler = properties.get("scheduler", (None, ""))[0] if rebuilt_buildid is None else None
        effect = self.addition_effect(scheduler, reason)
        now = int(self.master.reactor.seconds())
        submitted = now if submitted_at is None else datetime2epoch(submitted_at)
        # A sourcestamp with a patch is rare, and always gets a row of its own.
        for at, stamp in enumerate(stamps):
            if not isinstance(stamp, int) and stamp.get("patch_body"):
                stamps[at] = yield self.db.sourcestamps.findSourceStampId(**stamp)

        def thd(sql: Sql) -> tuple[int, dict[int, int]]:
            bsid = sql.insert(
                "buildsets",
                submitted_at=submitted,
                reason=fit_text(self.db, Model.buildsets.c.reason, reason),
                rebuilt_buildid=rebuilt_buildid,
                complete=0,
                results=-1,
                external_idstring=external_idstring,
                parent_buildid=parent_buildid,
                parent_relationship=parent_relationship,
            )
            for name, value in properties.items():
                sql.write(
                    "INSERT INTO buildset_properties (buildsetid, property_name, property_value)"
                    " VALUES (?, ?, ?)",
                    *(bsid, name, json.dumps(value)),
                )
            ssids = [s if isinstance(s, int) else thd_stamp(sql, now, **s) for s in stamps]
            for ssid in ssids:
                sql.insert("buildset_sourcestamps", buildsetid=bsid, sourcestampid=ssid)
            brids = {}
            for builderid in builderids:
                brids[builderid] = sql.insert(
                    "buildrequests",
                    buildsetid=bsid,
                    builderid=builderid,
                    priority=priority,
                    complete=0,
                    results=-1,
                    submitted_at=submitted,
                    waited_for=int(waited_for),
                )
            if effect is not None:
                sql.with_connection(lambda conn: effect.write(conn, bsid, ssids))
            return bsid, brids

        bsid, brids = yield self.db.do_sql(thd)
        if effect is not None:
            effect.written()
        self.getBuildsetProperties.cache.put(bsid, buildsets.BsProps(properties))
        return bsid, brids

    def addition_effect(self, scheduler: str | None, reason: str) -> AdditionEffect | None:
        """Return what to write in the transaction of a buildset that this task adds, or None."""
        return None

    def getBuildset(self, bsid: int) -> Any:
        """Return a buildset by its id, or None."""
        return self.db.do_sql(thd_buildset, bsid)

    def get_stamped(self, complete: bool | None, spec: Any) -> Any:
        """Return pairs of a buildset and its sourcestamps; `spec` must be one that LIST can select.

        `complete` says whether the buildsets must be complete; None leaves that open.
        """

        def thd(sql: Sql) -> list[Stamped]:
            models = LIST.page(sql, spec, [] if complete is None else [IS_COMPLETE[complete]])
            by_id = {model.bsid: model for model in models}
            for some in lists.in_parts(list(by_id)):
                query = (
                    "SELECT buildsetid, sourcestampid FROM buildset_sourcestamps"
                    f" WHERE {lists.among('buildsetid', some)} ORDER BY id"
                )
                for bsid, ssid in sql.rows(query, *some):
                    by_id[bsid].sourcestamps.append(ssid)
            stamps = thd_stamps(sql, list({id for model in models for id in model.sourcestamps}))
            return [(model, [stamps[ssid] for ssid in model.sourcestamps]) for model in models]

        return self.db.do_sql(thd).addCallback(LIST.mark_applied, spec)

    def get_properties_of(self, bsids: Sequence[int], names: Collection[str] | None) -> Any:
        """Return {bsid: properties} with the properties of these names; None means all."""

        def thd(sql: Sql) -> dict[int, Properties]:
            found: dict[int, Properties] = {}
            for some in lists.in_parts(bsids):
                query = (
                    "SELECT buildsetid, property_name, property_value FROM buildset_properties"
                    f" WHERE {lists.among('buildsetid', some)}"
                )
                for bsid, name, value in sql.rows(query, *some):
                    if names is None or name in names:
                        found.setdefault(bsid, {})[name] = tuple(json.loads(value))
            return found

        return self.db.do_sql(thd)

    @cached("BuildsetProperties")
    def getBuildsetProperties(self, bsid: int) -> Any:
        """Return the properties of a buildset: {name: (value, source)}."""

        def thd(sql: Sql) -> buildsets.BsProps:
            query = (
                "SELECT property_name, property_value FROM buildset_properties WHERE buildsetid = ?"
            )
            return buildsets.BsProps(
                (name, tuple(json.loads(value))) for name, value in sql.rows(query, bsid)
            )

        return self.db.do_sql(thd)

    def completeBuildset(
        self, bsid: int, results: int, complete_at: datetime.datetime | None = None
    ) -> Any:
        """Complete a buildset.  Raises AlreadyCompleteError."""

        def thd(sql: Sql) -> None:
            if not self._thd_complete(sql, bsid, results, at):
                raise buildsets.AlreadyCompleteError

        now = int(self.master.reactor.seconds())
        at = now if complete_at is None else int(datetime2epoch(complete_at))
        return self.db.do_sql(thd)

    def complete_if_done(self, bsid: int) -> Any:
        """Complete a buildset whose requests are all complete.

        Returns its model, or None if a request is not complete or the buildset already is.
        """
        now = int(self.master.reactor.seconds())
        return self.db.do_sql(self.thd_complete_if_done, bsid, now)

    def thd_complete_if_done(
        self, sql: Sql, bsid: int, complete_at: int
    ) -> buildsets.BuildSetModel | None:
        """Do as complete_if_done, inside a transaction; `complete_at` is in epoch seconds."""
        self.db.cluster.lock_buildset(sql, bsid)
        query = "SELECT 1 FROM buildrequests WHERE buildsetid = ? AND complete <> 1 LIMIT 1"
        if sql.row(query, bsid) is not None:
            return None
        results = SUCCESS
        for row in sql.rows("SELECT results FROM buildrequests WHERE buildsetid = ?", bsid):
            results = worst_status(results, row[0])
        completed = self._thd_complete(sql, bsid, results, complete_at)
        return thd_buildset(sql, bsid) if completed else None

    def _thd_complete(self, sql: Sql, bsid: int, results: int, complete_at: int) -> bool:
        changed = sql.write(
            "UPDATE buildsets SET complete = 1, results = ?, complete_at = ?"
            " WHERE id = ? AND (complete IS NULL OR complete <> 1)",
            *(results, complete_at, bsid),
        )
        effect = self.end_effect(bsid) if changed else None
        if effect is not None:
            sql.with_connection(effect)
        return changed == 1

    def end_effect(self, bsid: int) -> EndEffect | None:
        """Return what to write in the transaction that ends this buildset, or None for nothing."""
        return None


def thd_stamp(
    sql: Sql,
    created_at: int,
    branch: str | None = None,
    revision: str | None = None,
    repository: str | None = None,
    project: str | None = None,
    codebase: str | None = None,
    patch_body: None = None,
    patch_level: Any = None,
    patch_author: Any = None,
    patch_comment: Any = None,
    patch_subdir: Any = None,
) -> int:
    """Return the id of a sourcestamp; adds it if there is none."""
    assert codebase is not None, "codebase cannot be None"
    assert project is not None, "project cannot be None"
    assert repository is not None, "repository cannot be None"
    ss_hash = hash_columns(branch, revision, repository, project, codebase, None)
    row = sql.row("SELECT id FROM sourcestamps WHERE ss_hash = ?", ss_hash)
    if row is not None:
        return int(row[0])
    sql.write(
        "INSERT INTO sourcestamps"
        " (ss_hash, branch, revision, repository, codebase, project, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",  # another master may add it
        *(ss_hash, branch, revision, repository, codebase, project, created_at),
    )
    [[ssid]] = sql.rows("SELECT id FROM sourcestamps WHERE ss_hash = ?", ss_hash)
    return int(ssid)
