"""Changes: whoever brings one is answered when it is on disk.

Source: buildbot/db/changes.py and buildbot/data/changes.py, whose names these keep.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from buildbot.data import base
from buildbot.data import changes as data_changes
from buildbot.data.resultspec import ResultSpec
from buildbot.db import changes
from buildbot.db.base import cached
from buildbot.util import epoch2datetime
from twisted.internet import defer

from litebot.master.hot import pages
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


LIST = pages.List(
    select=f"SELECT {COLUMNS} FROM changes",
    count="changes",
    model_of=model_of,
    fields={name: name for name in FIELDS},
)


class ChangesConnectorComponent(changes.ChangesConnectorComponent):
    """Buildbot's; a list is read at once instead of change by change."""

    @cached("chdicts")
    def getChange(self, changeid: int) -> Any:
        """A change by its id, or None."""

        def thd(sql: Sql) -> changes.ChangeModel | None:
            row = sql.row(f"SELECT {COLUMNS} FROM changes WHERE changeid = ?", changeid)
            return None if row is None else _complete(sql, model_of(row))

        return self.db.do_sql(thd)

    def getChanges(self, resultSpec: Any = None) -> Any:
        """Changes that a ResultSpec asks for, the last of them first, as Buildbot has it."""
        spec = ResultSpec() if resultSpec is None else resultSpec
        if not LIST.can_select(spec):
            return super().getChanges(resultSpec)

        def thd(sql: Sql) -> list[changes.ChangeModel]:
            models = [_complete(sql, model) for model in LIST.page(sql, spec)]
            return models if resultSpec is None else models[::-1]

        return self.db.do_sql(thd)

    @defer.inlineCallbacks
    def getChangeFromSSid(self, sourcestampid: int) -> Any:
        """The latest change with this sourcestamp, or None."""

        def thd(sql: Sql) -> int | None:
            query = "SELECT max(changeid) FROM changes WHERE sourcestampid = ?"
            row = sql.row(query, sourcestampid)
            return row[0] if row is not None else None

        changeid = yield self.db.do_sql(thd)
        return None if changeid is None else (yield self.getChange(changeid))


def _complete(sql: Sql, model: changes.ChangeModel) -> changes.ChangeModel:
    """The same with its files and properties."""
    changeid = model.changeid
    files = sql.rows("SELECT filename FROM change_files WHERE changeid = ?", changeid)
    model.files = [row[0] for row in files]
    query = "SELECT property_name, property_value FROM change_properties WHERE changeid = ?"
    for name, text in sql.rows(query, changeid):
        try:
            value = json.loads(text)
        except ValueError:
            continue
        # A development version of Buildbot stored the value alone.
        pair = isinstance(value, (list, str)) and len(value) == 2 and value[1] == "Change"
        model.properties[name] = (value[0], "Change") if pair else (value, "Change")
    return model


class Change(data_changes.Change):
    """Buildbot's, whose addChange waits for the disk after it has told the schedulers."""

    @base.updateMethod
    @defer.inlineCallbacks
    def addChange(
        self,
        files: list[str] | None = None,
        comments: str | None = None,
        author: str | None = None,
        committer: str | None = None,
        revision: str | None = None,
        when_timestamp: int | None = None,
        branch: str | None = None,
        category: str | Callable[..., Any] | None = None,
        revlink: str | None = "",
        properties: dict[str, Any] | None = None,
        repository: str = "",
        codebase: str | None = None,
        project: str = "",
        src: str | None = None,
    ) -> Any:
        """Store a change; its id, when a power loss won't take it any more."""
        changeid = yield super().addChange(
            files=files,
            comments=comments,
            author=author,
            committer=committer,
            revision=revision,
            when_timestamp=when_timestamp,
            branch=branch,
            category=category,
            revlink=revlink,
            properties=properties,
            repository=repository,
            codebase=codebase,
            project=project,
            src=src,
        )
        yield self.master.db.on_disk()
        return changeid
