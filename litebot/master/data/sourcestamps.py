"""Sourcestamps in the data API: a long list of them is read in pieces.

Source: buildbot/data/sourcestamps.py, whose endpoints these keep.
"""

from __future__ import annotations

from typing import Any
from typing import ClassVar

from buildbot.data import sourcestamps as data_sourcestamps
from twisted.internet import defer

from litebot.master.db.pieces import pieces_of


class SourceStampsEndpoint(data_sourcestamps.SourceStampsEndpoint):
    """Buildbot's, which can also be read in pieces."""

    pathPatterns: ClassVar[list[str]] = data_sourcestamps.SourceStampsEndpoint.pathPatterns
    rootLinkName = data_sourcestamps.SourceStampsEndpoint.rootLinkName

    @defer.inlineCallbacks
    def get(self, resultSpec: Any, kwargs: Any) -> Any:
        """Return all sourcestamps, or those of a buildset."""
        if kwargs or pieces_of(resultSpec) is None:
            return (yield super().get(resultSpec, kwargs))
        found = yield self.master.db.sourcestamps.get_some(resultSpec)
        return [data_sourcestamps._db2data(model) for model in found]


class SourceStamp(data_sourcestamps.SourceStamp):
    """Buildbot's, with these endpoints."""

    endpoints: ClassVar[list[Any]] = [data_sourcestamps.SourceStampEndpoint, SourceStampsEndpoint]
