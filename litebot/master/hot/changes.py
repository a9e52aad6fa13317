"""Changes: whoever brings one is answered when it is on disk.

Source: buildbot/db/changes.py and buildbot/data/changes.py, whose names these keep.
"""

from __future__ import annotations

from typing import Any

from buildbot.data import base
from buildbot.data import changes as data_changes
from buildbot.db import changes
from twisted.internet import defer

from litebot.store.sql import Sql


class ChangesConnectorComponent(changes.ChangesConnectorComponent):
    """Buildbot's, which finds out quickly that a sourcestamp has no change."""

    @defer.inlineCallbacks
    def getChangeFromSSid(self, sourcestampid: int) -> Any:
        """The latest change with this sourcestamp, or None."""

        def thd(sql: Sql) -> int | None:
            query = "SELECT max(changeid) FROM changes WHERE sourcestampid = ?"
            row = sql.row(query, sourcestampid)
            return row[0] if row is not None else None

        changeid = yield self.db.do_sql(thd)
        return None if changeid is None else (yield self.getChange(changeid))


class Change(data_changes.Change):
    """Buildbot's, whose addChange waits for the disk after it has told the schedulers."""

    @base.updateMethod
    @defer.inlineCallbacks
    def addChange(self, *args: Any, **kwargs: Any) -> Any:
        """Store a change; its id, when a power loss won't take it any more."""
        changeid = yield super().addChange(*args, **kwargs)
        yield self.master.db.on_disk()
        return changeid
