"""Sourcestamps: lists of them are read with their patches, in one query.

Source: buildbot/db/sourcestamps.py, whose models these keep.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from buildbot.db import sourcestamps
from buildbot.db.sourcestamps import SourceStampModel

from litebot.master.db.components import lists
from litebot.master.db.components.values import epoch2datetime
from litebot.store.sql import Row
from litebot.store.sql import Sql

SELECT = (
    "SELECT s.id, s.branch, s.revision, s.repository, s.created_at, s.codebase, s.project,"
    " p.id, p.patch_base64, p.patchlevel, p.patch_author, p.patch_comment, p.subdir"
    " FROM sourcestamps s LEFT JOIN patches p ON p.id = s.patchid"
)


def model_of(row: Row) -> SourceStampModel:
    """Return the model of a row of SELECT."""
    ssid, branch, revision, repository, created_at, codebase, project, patchid, body, *others = row
    patch = None
    if patchid is not None:
        patch = sourcestamps.PatchModel(patchid, base64.b64decode(body), *others)
    created = epoch2datetime(created_at)
    return SourceStampModel(ssid, branch, revision, repository, created, codebase, project, patch)


# Buildbot filters and orders them in Python, so SQL has no fields.
LIST = lists.List(
    select=SELECT,
    count="sourcestamps s",
    model_of=model_of,
    fields={},
    key="s.id",
    unindexed="s.created_at",
)


class SourceStampsConnectorComponent(sourcestamps.SourceStampsConnectorComponent):
    """Buildbot's, which can also be listed in pieces."""

    def get_some(self, spec: Any) -> Any:
        """Return what one read in pieces returns; `spec` must have the attribute `pieces`."""
        return self.db.do_sql(LIST.models, spec).addCallback(LIST.mark_applied, spec)


def thd_stamps(sql: Sql, ssids: Sequence[int]) -> dict[int, SourceStampModel]:
    """Return sourcestamps by their ids."""
    stamps = {}
    for some in lists.in_parts(ssids):
        for row in sql.rows(f"{SELECT} WHERE {lists.among('s.id', some)}", *some):
            stamps[row[0]] = model_of(row)
    return stamps
