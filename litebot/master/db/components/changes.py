"""Changes: those that arrive together are added in one transaction, and lists read in few queries.

Source: buildbot/db/changes.py and buildbot/data/changes.py, whose names these keep.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from typing import Protocol

from buildbot.data.resultspec import ResultSpec
from buildbot.db import changes
from buildbot.db.base import cached
from buildbot.db.sourcestamps import SourceStampModel
from buildbot.util import datetime2epoch
from twisted.internet import defer

from litebot.master.db.components import lists
from litebot.master.db.components.buildrequests import thd_collapsed
from litebot.master.db.components.buildsets import thd_stamp
from litebot.master.db.components.links import link_or_empty
from litebot.master.db.components.sourcestamps import thd_stamps
from litebot.master.db.components.values import epoch2datetime
from litebot.store.sql import Row
from litebot.store.sql import Sql

COLUMNS = (
    "changeid, author, committer, comments, branch, revision, revlink, when_timestamp, category, "
    "sourcestampid, parent_changeids, repository, codebase, project"
)
# What SQL can filter and sort by; for other fields the data API does so on the models.
FIELDS = set(COLUMNS.split(", ")) - {"committer", "parent_changeids"}


def model_of(row: Row) -> changes.ChangeModel:
    """Return the model of a row of COLUMNS, still without files and properties."""
    *before, revlink, when_timestamp, category, ssid, parent, repository, codebase, project = row
    return changes.ChangeModel(
        *before,
        link_or_empty(revlink),
        epoch2datetime(when_timestamp),
        category,
        ssid,
        [parent] if parent else [],
        repository,
        codebase,
        project,
    )


LIST = lists.List(
    select=f"SELECT {COLUMNS} FROM changes",
    count="changes",
    model_of=model_of,
    fields={name: name for name in FIELDS},
    key="changeid",
    unindexed="project",
    is_reversed=True,  # as Buildbot does
)


# The columns of a change, by name.
Columns = dict[str, Any]


class ChangeOrigin(Protocol):
    """Where changes come from."""

    def write(self, sql: Sql, changes: Sequence[Columns]) -> bool:
        """Record that these changes are added; commits nothing.

        Returns False if they were added before, and must not be added again.
        """

    def written(self, changes: Sequence[Columns]) -> None:
        """Note that the transaction is committed."""


STAMP = ("branch", "revision", "repository", "codebase", "project")
OTHER_TEXTS = ("author", "committer", "comments", "revlink", "category")
ARGUMENTS = {
    *(*STAMP, *OTHER_TEXTS, "when_timestamp", "files", "properties", "uid"),
    *("is_dir", "_test_changeid"),
}


class ChangesConnectorComponent(changes.ChangesConnectorComponent):
    """Buildbot's, in plain SQL; adds many changes at once, and reads a list in few queries."""

    @defer.inlineCallbacks
    def addChange(self, **change: Any) -> Any:
        """Add a change; return its id, or None if it was added before, by its origin."""
        (changeid,) = (yield self.addChanges([change])) or [None]
        return changeid

    @defer.inlineCallbacks
    def addChanges(self, changes: Sequence[dict[str, Any]]) -> Any:
        """Add all of these changes or none; return their ids.

        Each change is a dict of the arguments of Buildbot's addChange.  What their origin records
        is written in the same transaction.  Returns an empty list if the origin has recorded that
        they were added before.
        """
        now = int(self.master.reactor.seconds())
        origin = self.change_origin()
        rows = [_columns(change, now) for change in changes]
        changeids = yield self.db.do_sql(self._thd_add, rows, list(changes), origin, now)
        if origin is not None:
            origin.written(rows)
        return changeids

    def _thd_add(
        self,
        sql: Sql,
        rows: list[Columns],
        changes: list[dict[str, Any]],
        origin: ChangeOrigin | None,
        now: int,
    ) -> list[int]:
        self.db.cluster.order_changes(sql)
        if origin is not None and not origin.write(sql, rows):
            return []
        pairs = zip(rows, changes, strict=True)
        return [_thd_add_one(sql, row, change, now) for row, change in pairs]

    def change_origin(self) -> ChangeOrigin | None:
        """Return where the changes come from that this task adds; None if nothing records that."""
        return None

    @cached("chdicts")
    def getChange(self, changeid: int) -> Any:
        """Return a change by its id, or None."""

        def thd(sql: Sql) -> changes.ChangeModel | None:
            row = sql.row(f"SELECT {COLUMNS} FROM changes WHERE changeid = ?", changeid)
            return None if row is None else _add_details(sql, [model_of(row)])[0]

        return self.db.do_sql(thd)

    def getChanges(self, resultSpec: Any = None) -> Any:
        """Return the changes that a ResultSpec asks for, in reverse order, as Buildbot does."""
        spec = ResultSpec() if resultSpec is None else resultSpec
        if not LIST.can_select(spec):
            return super().getChanges(resultSpec)

        def thd(sql: Sql) -> list[changes.ChangeModel]:
            models = _add_details(sql, LIST.models(sql, spec))
            return models[::-1] if resultSpec is None else models

        return self.db.do_sql(thd).addCallback(LIST.mark_applied, spec)

    def get_stamped(self, spec: Any) -> Any:
        """Do as getChanges, but return pairs of a change and its sourcestamp or None.

        `spec` must be one that LIST can select.
        """

        def thd(sql: Sql) -> list[tuple[changes.ChangeModel, SourceStampModel | None]]:
            models = _add_details(sql, LIST.models(sql, spec))
            stamps = thd_stamps(sql, list({model.sourcestampid for model in models}))
            return [(model, stamps.get(model.sourcestampid)) for model in models]

        return self.db.do_sql(thd).addCallback(LIST.mark_applied, spec)

    @defer.inlineCallbacks
    def getChangeFromSSid(self, sourcestampid: int) -> Any:
        """Return the newest change with this sourcestamp, or None."""

        def thd(sql: Sql) -> int | None:
            query = "SELECT max(changeid) FROM changes WHERE sourcestampid = ?"
            row = sql.row(query, sourcestampid)
            return row[0] if row is not None else None

        changeid = yield self.db.do_sql(thd)
        return None if changeid is None else (yield self.getChange(changeid))

    def get_ids_of_request(self, brid: int) -> Any:
        """Return the ids of the changes that a request stands for, beside those of its stamps.

        They are those which its scheduler gathered before it made the buildset, and those of the
        requests that were collapsed into it.
        """

        def thd(sql: Sql) -> list[int]:
            found: set[int] = set()
            for each in (brid, *thd_collapsed(sql, brid)):
                query = (
                    "SELECT b.changeid FROM litebot_built b JOIN buildrequests r"
                    " ON b.bsid = r.buildsetid WHERE r.id = ?"
                )
                found.update(row[0] for row in sql.rows(query, each))
                if each != brid:
                    query = (
                        "SELECT c.changeid FROM buildrequests r JOIN buildset_sourcestamps s"
                        " ON s.buildsetid = r.buildsetid JOIN changes c"
                        " ON c.sourcestampid = s.sourcestampid WHERE r.id = ?"
                    )
                    found.update(row[0] for row in sql.rows(query, each))
            return sorted(found)

        return self.db.do_sql(thd)

    @defer.inlineCallbacks
    def getChangesForBuild(self, buildid: int) -> Any:
        """Return the changes since the last success, and all that the build's request stands for.

        The newest comes first.
        """
        found = yield super().getChangesForBuild(buildid)
        build = yield self.master.db.builds.getBuild(buildid)
        ids = yield self.get_ids_of_request(build.buildrequestid)
        missing = set(ids) - {model.changeid for model in found}
        for changeid in missing:
            model = yield self.getChange(changeid)
            found += [model] if model is not None else []
        return sorted(found, key=lambda model: -model.changeid) if missing else found


def _columns(change: dict[str, Any], now: int) -> Columns:
    """Return the columns of a change's row, except those that refer to other rows."""
    if unknown := change.keys() - ARGUMENTS:
        raise TypeError(f"a change has no {', '.join(sorted(unknown))}")
    when = change.get("when_timestamp")
    row = {name: change.get(name) for name in (*STAMP, *OTHER_TEXTS)}
    row["author"] = row["author"] or ""
    row["comments"] = row["comments"] or ""
    row["revlink"] = link_or_empty(change.get("revlink", ""))
    for name in ("repository", "codebase", "project"):
        row[name] = change.get(name, "")
        assert row[name] is not None, f"{name} must be a string, not None"
    row["when_timestamp"] = now if when is None else datetime2epoch(when)
    if change.get("_test_changeid") is not None:
        row["changeid"] = change["_test_changeid"]
    return row


def _thd_add_one(sql: Sql, row: Columns, change: dict[str, Any], now: int) -> int:
    stamp = {name: row[name] for name in STAMP}
    row = {**row, "sourcestampid": thd_stamp(sql, now, **stamp)}
    changeid = sql.insert("changes", **row, parent_changeids=_thd_parent(sql, row))
    for filename in change.get("files") or ():
        query = "INSERT INTO change_files (changeid, filename) VALUES (?, ?)"
        sql.write(query, changeid, filename)
    for name, value in (change.get("properties") or {}).items():
        assert value[1] == "Change", "properties must be qualified with source 'Change'"
        query = (
            "INSERT INTO change_properties (changeid, property_name, property_value)"
            " VALUES (?, ?, ?)"
        )
        sql.write(query, changeid, name, json.dumps(value))
    if change.get("uid"):
        query = "INSERT INTO change_users (changeid, uid) VALUES (?, ?)"
        sql.write(query, changeid, change["uid"])
    return changeid


def _thd_parent(sql: Sql, row: Columns) -> int | None:
    """Return the newest change of the same branch and repository, which Buildbot calls parent."""
    names = ("repository", "project", "codebase")
    values = [row[name] for name in names]
    branch = "branch IS NULL"
    if row["branch"] is not None:
        branch = "branch = ?"
        values.insert(0, row["branch"])
    query = (
        f"SELECT changeid FROM changes WHERE {branch} AND repository = ? AND project = ?"
        " AND codebase = ? ORDER BY changeid DESC LIMIT 1"
    )
    found = sql.row(query, *values)
    return None if found is None else found[0]


def _add_details(sql: Sql, models: list[changes.ChangeModel]) -> list[changes.ChangeModel]:
    """Return the same models, with their files and properties added."""
    for part in lists.in_parts(models):
        by_id = {model.changeid: model for model in part}
        some = f"WHERE {lists.among('changeid', part)}"
        for changeid, name in sql.rows(
            f"SELECT changeid, filename FROM change_files {some}", *by_id
        ):
            by_id[changeid].files.append(name)
        query = f"SELECT changeid, property_name, property_value FROM change_properties {some}"
        for changeid, name, text in sql.rows(query, *by_id):
            try:
                value = json.loads(text)
            except ValueError:
                continue
            # A development version of Buildbot stored the value alone.
            pair = isinstance(value, (list, str)) and len(value) == 2 and value[1] == "Change"
            by_id[changeid].properties[name] = (value[0], "Change") if pair else (value, "Change")
    return models
