"""Build data: old rows are deleted in pieces.  Source: buildbot/db/build_data.py"""

from __future__ import annotations

from buildbot.db import build_data
from twisted.internet import defer

from litebot.master.db.components.pruning import delete_build_data


class BuildDataConnectorComponent(build_data.BuildDataConnectorComponent):
    """Buildbot's, but deletes in pieces."""

    def deleteOldBuildData(self, older_than_timestamp: int) -> defer.Deferred[int]:
        return defer.ensureDeferred(delete_build_data(self.db, older_than_timestamp))
