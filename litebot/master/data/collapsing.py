"""Collapses build requests, and keeps which request is built in the place of which.

Without that, nothing would know whose changes a build is about.
Source: buildbot/process/buildrequest.py, BuildRequestCollapser
"""

from __future__ import annotations

from typing import Any

from buildbot.process import buildrequest
from twisted.internet import defer


class Collapser(buildrequest.BuildRequestCollapser):
    """Buildbot's, for new requests `brids`: older ones that wait may be collapsed into them."""

    @defer.inlineCallbacks
    def collapse(self) -> Any:
        """Return the ids of the requests that were collapsed."""
        collapsed: list[int] = []
        for survivor in self.brids:
            for brid in (yield self._collapsible(survivor)):
                if (yield self.master.data.updates.claimBuildRequests([brid])):
                    yield self.master.data.rtypes.buildrequest.collapse(brid, survivor)
                    collapsed.append(brid)
        return collapsed

    @defer.inlineCallbacks
    def _collapsible(self, survivor: int) -> Any:
        """Return the ids of the waiting requests that a new one may stand for."""
        request = yield self.master.data.get(("buildrequests", survivor))
        if request["claimed"]:
            return []
        builder = self.master.botmaster.getBuilderById(request["builderid"])
        may_collapse = builder.getCollapseRequestsFn() if builder is not None else None
        if not may_collapse:
            return []
        found = []
        for other in (yield self._getUnclaimedBrs(request["builderid"])):
            if other["buildrequestid"] != survivor:
                answer = yield may_collapse(self.master, builder, request, other)
                if answer is True:
                    found.append(other["buildrequestid"])
        return found
