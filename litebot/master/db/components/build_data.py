"""Build data: old rows are deleted in pieces.  Source: buildbot/db/build_data.py"""

from __future__ import annotations

from typing import Any

from buildbot.db import build_data
from twisted.internet import defer

from litebot.master.db.components.pruning import delete_build_data
from litebot.master.secrets.masker import masker


class BuildDataConnectorComponent(build_data.BuildDataConnectorComponent):
    """Buildbot's, but deletes in pieces, and stores no secrets."""

    def setBuildData(self, buildid: int, name: str, value: bytes, source: str) -> Any:
        """Store a value of a build; what is in it as UTF-8 is masked."""
        return super().setBuildData(buildid, name, masker.mask_bytes(value), source)

    def deleteOldBuildData(self, older_than_timestamp: int) -> defer.Deferred[int]:
        return defer.ensureDeferred(delete_build_data(self.db, older_than_timestamp))
