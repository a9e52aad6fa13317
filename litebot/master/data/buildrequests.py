"""Build requests in the data API: their events are made from the rows that were written.

Source: buildbot/data/buildrequests.py, whose names these keep.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any
from typing import ClassVar

from buildbot.data import base
from buildbot.data import buildrequests as data_buildrequests
from buildbot.data.resultspec import ResultSpec
from buildbot.db import buildrequests
from buildbot.process.results import SKIPPED
from twisted.internet import defer

from litebot.master.data.builds import NO_REASON
from litebot.master.data.events import UncopiedMessages
from litebot.master.db.components.buildrequests import Model
from litebot.master.delivery.controls import BUILDREQUESTS
from litebot.master.delivery.controls import add


class BuildRequestEndpoint(data_buildrequests.BuildRequestEndpoint):
    """Buildbot's, but keeps a cancellation as a pending control, which outlives a crash."""

    pathPatterns: ClassVar[list[str]] = data_buildrequests.BuildRequestEndpoint.pathPatterns

    @defer.inlineCallbacks
    def control(self, action: str, args: Any, kwargs: Any) -> Any:
        """Cancel the request, or set its priority."""
        if action == "cancel":
            request = yield self.get(ResultSpec(), kwargs)
            if request is not None and not request["complete"]:
                reason = args.get("reason", NO_REASON)
                row = (BUILDREQUESTS, request["buildrequestid"], action, reason)
                yield self.master.db.pool.do_with_transaction(add, *row)
        yield super().control(action, args, kwargs)


class BuildRequestsEndpoint(data_buildrequests.BuildRequestsEndpoint):
    """Buildbot's, but reads the properties of all requests in one query."""

    pathPatterns: ClassVar[list[str]] = data_buildrequests.BuildRequestsEndpoint.pathPatterns
    rootLinkName = data_buildrequests.BuildRequestsEndpoint.rootLinkName

    @defer.inlineCallbacks
    def get(self, resultSpec: Any, kwargs: Any) -> Any:
        """Do as Buildbot does."""
        wanted = set(resultSpec.popProperties() or ())
        found = yield super().get(resultSpec, kwargs)
        if wanted and found:
            bsids = list({request["buildsetid"] for request in found})
            names = None if "*" in wanted else wanted
            properties = yield self.master.db.buildsets.get_properties_of(bsids, names)
            for request in found:
                request["properties"] = properties.get(request["buildsetid"], {})
        return found


class BuildRequest(UncopiedMessages, data_buildrequests.BuildRequest):
    """Buildbot's, with events from the rows that were written."""

    endpoints: ClassVar[list[Any]] = [
        BuildRequestEndpoint,
        BuildRequestsEndpoint,
    ]

    def announce(self, models: list[Model], event: str) -> None:
        """Produce the event for each of the requests."""
        for model in models:
            self.produceEvent(data_buildrequests._db2data(model, None), event)

    def generateEvent(self, brids: Iterable[int], event: str) -> Any:
        """Read the requests and produce the event for each."""
        return self.master.db.buildrequests.get_some(brids).addCallback(self.announce, event)

    @base.updateMethod
    @defer.inlineCallbacks
    def claimBuildRequests(
        self, brids: list[int], claimed_at: datetime.datetime | None = None
    ) -> Any:
        """Claim requests for this master; return False if one was claimed already."""
        try:
            models = yield self.master.db.buildrequests.claimBuildRequests(brids, claimed_at)
        except buildrequests.AlreadyClaimedError:
            return False
        self.announce(models, "claimed")
        return True

    @base.updateMethod
    @defer.inlineCallbacks
    def completeBuildRequests(
        self, brids: list[int], results: int, complete_at: datetime.datetime | None = None
    ) -> Any:
        """Complete requests and their buildsets; return False if one was complete already."""
        return (yield self._complete(brids, results, complete_at))

    def collapse(self, brid: int, survivor: int) -> Any:
        """Complete a request because another is built in its place; see completeBuildRequests."""
        return self._complete([brid], SKIPPED, survivor=survivor)

    @defer.inlineCallbacks
    def _complete(
        self,
        brids: list[int],
        results: int,
        complete_at: datetime.datetime | None = None,
        survivor: int | None = None,
    ) -> Any:
        try:
            models, done = yield self.master.db.buildrequests.complete(
                brids, results, complete_at, survivor=survivor
            )
        except buildrequests.NotClaimedError:
            return False
        self.announce(models, "complete")
        for model in done:
            yield self.master.data.rtypes.buildset.announce_complete(model)
        return True
