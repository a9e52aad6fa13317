"""Changes: those that come together are stored together, and answered when they are on disk.

Source: buildbot/db/changes.py and buildbot/data/changes.py, whose names these keep.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any
from typing import Protocol

from buildbot.data.resultspec import ResultSpec
from buildbot.db import changes
from buildbot.db.base import cached
from buildbot.db.sourcestamps import PatchModel
from buildbot.db.sourcestamps import SourceStampModel
from buildbot.util import datetime2epoch
from twisted.internet import defer

from litebot.master.db.components import lists
from litebot.master.db.components.buildsets import thd_stamp
from litebot.master.db.components.values import epoch2datetime
from litebot.store.sql import Row
from litebot.store.sql import Sql

COLUMNS = (
    "changeid, author, committer, comments, branch, revision, revlink, when_timestamp, category, "
    "sourcestampid, parent_changeids, repository, codebase, project"
)
# What the data API can filter and sort by; others are found in the models.
FIELDS = set(COLUMNS.split(", ")) - {"committer", "parent_changeids"}


def model_of(row: Row) -> changes.ChangeModel:
    """The model of a row of COLUMNS, as yet without files and properties."""
    *before, when_timestamp, category, sourcestampid, parent, repository, codebase, project = row
    return changes.ChangeModel(
        *before,
        epoch2datetime(when_timestamp),
        category,
        sourcestampid,
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
)


STAMPS = (
    "SELECT s.id, s.branch, s.revision, s.repository, s.created_at, s.codebase, s.project,"
    " p.id, p.patch_base64, p.patchlevel, p.patch_author, p.patch_comment, p.subdir"
    " FROM sourcestamps s LEFT JOIN patches p ON p.id = s.patchid"
)
# Changes whose files are read at once; SQLite takes some 32,000 parameters.
CHANGES_A_QUERY = 500


# The columns of a change, by name.
Columns = dict[str, Any]


class ChangeOrigin(Protocol):
    """Where changes come from."""

    def write(self, sql: Sql, changes: Sequence[Columns]) -> bool:
        """Write down that they were taken; false where they had been, and must not be added."""

    def written(self, changes: Sequence[Columns]) -> None:
        """It is committed."""


STAMP = ("branch", "revision", "repository", "codebase", "project")
OTHERS = ("author", "committer", "comments", "revlink", "category")
KNOWN = {
    *(*STAMP, *OTHERS, "when_timestamp", "files", "properties", "uid"),
    *("is_dir", "_test_changeid"),
}


class ChangesConnectorComponent(changes.ChangesConnectorComponent):
    """Buildbot's; adds many at once, and a list is read at once instead of change by change."""

    @defer.inlineCallbacks
    def addChange(self, **change: Any) -> Any:
        """Add a change; its id, or None where its origin says that it was added before."""
        (changeid,) = (yield self.addChanges([change])) or [None]
        return changeid

    @defer.inlineCallbacks
    def addChanges(self, changes: Sequence[dict[str, Any]]) -> Any:
        """Add all of these changes, each as addChange of Buildbot's takes it, or none; their ids.

        What their origin has to say of them is written with them.  Without ids where they were
        added before.
        """
        now = int(self.master.reactor.seconds())
        came_from = self.change_origin()
        rows = [_columns(change, now) for change in changes]
        changeids = yield self.db.do_sql(self._thd_add, rows, list(changes), came_from, now)
        if came_from is not None:
            came_from.written(rows)
        return changeids

    def _thd_add(
        self,
        sql: Sql,
        rows: list[Columns],
        changes: list[dict[str, Any]],
        came_from: ChangeOrigin | None,
        now: int,
    ) -> list[int]:
        self.db.cluster.order_changes(sql)
        if came_from is not None and not came_from.write(sql, rows):
            return []
        pairs = zip(rows, changes, strict=True)
        return [_thd_add_one(sql, row, change, now) for row, change in pairs]

    def change_origin(self) -> ChangeOrigin | None:
        """Where the changes come from that this task adds."""
        return None

    @cached("chdicts")
    def getChange(self, changeid: int) -> Any:
        """A change by its id, or None."""

        def thd(sql: Sql) -> changes.ChangeModel | None:
            row = sql.row(f"SELECT {COLUMNS} FROM changes WHERE changeid = ?", changeid)
            return None if row is None else _complete(sql, [model_of(row)])[0]

        return self.db.do_sql(thd)

    def getChanges(self, resultSpec: Any = None) -> Any:
        """Changes that a ResultSpec asks for, the last of them first, as Buildbot has it."""
        spec = ResultSpec() if resultSpec is None else resultSpec
        if not LIST.can_select(spec):
            return super().getChanges(resultSpec)

        def thd(sql: Sql) -> list[changes.ChangeModel]:
            models = _complete(sql, LIST.models(sql, spec))
            return models if resultSpec is None else models[::-1]

        return self.db.do_sql(thd).addCallback(lists.nothing_left, spec)

    def get_stamped(self, spec: Any) -> Any:
        """As getChanges, each with its sourcestamp, or None; where LIST.can_select(spec)."""

        def thd(sql: Sql) -> list[tuple[changes.ChangeModel, SourceStampModel | None]]:
            models = _complete(sql, LIST.models(sql, spec))[::-1]
            stamps = _thd_stamps(sql, list({model.sourcestampid for model in models}))
            return [(model, stamps.get(model.sourcestampid)) for model in models]

        return self.db.do_sql(thd).addCallback(lists.nothing_left, spec)

    @defer.inlineCallbacks
    def getChangeFromSSid(self, sourcestampid: int) -> Any:
        """The latest change with this sourcestamp, or None."""

        def thd(sql: Sql) -> int | None:
            query = "SELECT max(changeid) FROM changes WHERE sourcestampid = ?"
            row = sql.row(query, sourcestampid)
            return row[0] if row is not None else None

        changeid = yield self.db.do_sql(thd)
        return None if changeid is None else (yield self.getChange(changeid))


def _columns(change: dict[str, Any], now: int) -> Columns:
    """Of the row of a change, but for those that tell of other rows."""
    if unknown := change.keys() - KNOWN:
        raise TypeError(f"a change has no {', '.join(sorted(unknown))}")
    when = change.get("when_timestamp")
    row = {name: change.get(name) for name in (*STAMP, *OTHERS)}
    row["author"] = row["author"] or ""
    row["comments"] = row["comments"] or ""
    row["revlink"] = change.get("revlink", "")
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
    """The newest change of the same branch and repository, as Buildbot has it."""
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


def _complete(sql: Sql, models: list[changes.ChangeModel]) -> list[changes.ChangeModel]:
    """The same with their files and properties."""
    for start in range(0, len(models), CHANGES_A_QUERY):
        of = {model.changeid: model for model in models[start : start + CHANGES_A_QUERY]}
        some = f"WHERE changeid IN ({', '.join('?' * len(of))})"
        for changeid, name in sql.rows(f"SELECT changeid, filename FROM change_files {some}", *of):
            of[changeid].files.append(name)
        query = f"SELECT changeid, property_name, property_value FROM change_properties {some}"
        for changeid, name, text in sql.rows(query, *of):
            try:
                value = json.loads(text)
            except ValueError:
                continue
            # A development version of Buildbot stored the value alone.
            pair = isinstance(value, (list, str)) and len(value) == 2 and value[1] == "Change"
            of[changeid].properties[name] = (value[0], "Change") if pair else (value, "Change")
    return models


def _thd_stamps(sql: Sql, ssids: list[int]) -> dict[int, SourceStampModel]:
    """Sourcestamps by their ids."""
    stamps = {}
    for start in range(0, len(ssids), CHANGES_A_QUERY):
        some = ssids[start : start + CHANGES_A_QUERY]
        query = f"{STAMPS} WHERE s.id IN ({', '.join('?' * len(some))})"
        for ssid, branch, revision, repository, created_at, *rest in sql.rows(query, *some):
            codebase, project, patchid, body, *others = rest
            patch = None
            if patchid is not None:
                patch = PatchModel(patchid, base64.b64decode(body), *others)
            created = epoch2datetime(created_at)
            stamps[ssid] = SourceStampModel(
                ssid, branch, revision, repository, created, codebase, project, patch
            )
    return stamps
