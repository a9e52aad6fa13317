"""Buildsets in the data API: events from the written rows, and collapsing only where it is on.

Source: buildbot/data/buildsets.py, whose names these keep.
"""

from __future__ import annotations

import copy
from typing import Any
from typing import ClassVar

from buildbot.data import base
from buildbot.data import buildsets as data_buildsets
from buildbot.data import sourcestamps as data_sourcestamps
from buildbot.db import buildsets
from buildbot.db.sourcestamps import SourceStampModel
from buildbot.schedulers.forcesched import ForceScheduler
from twisted.internet import defer
from twisted.python import log

from litebot.master.data.collapsing import Collapser
from litebot.master.data.events import UncopiedMessages
from litebot.master.db.components.buildsets import LIST
from litebot.master.db.components.buildsets import Properties
from litebot.master.db.components.buildsets import SourceStamp
from litebot.master.db.components.values import epoch2datetime
from litebot.master.db.components.values import epoch_of
from litebot.master.limits import words

# The attributes of a buildset that the data API shows as they are.
SHOWN = (
    *("bsid", "external_idstring", "reason", "complete", "results"),
    *("parent_buildid", "parent_relationship", "rebuilt_buildid"),
)


class BuildsetsEndpoint(data_buildsets.BuildsetsEndpoint):
    """Buildbot's, but reads the sourcestamps together with their buildsets."""

    pathPatterns: ClassVar[list[str]] = data_buildsets.BuildsetsEndpoint.pathPatterns
    rootLinkName = data_buildsets.BuildsetsEndpoint.rootLinkName

    @defer.inlineCallbacks
    def get(self, resultSpec: Any, kwargs: Any) -> Any:
        """Do as Buildbot does."""
        if not LIST.can_select(resultSpec):
            return (yield super().get(resultSpec, kwargs))
        complete = resultSpec.popBooleanFilter("complete")
        found = yield self.master.db.buildsets.get_stamped(complete, resultSpec)
        return [_shown(model, stamps) for model, stamps in found]


def _shown(model: buildsets.BuildSetModel, stamps: list[SourceStampModel]) -> dict[str, Any]:
    """Return a buildset as the data API shows it."""
    shown = {name: getattr(model, name) for name in SHOWN}
    shown["submitted_at"] = None if model.submitted_at is None else epoch_of(model.submitted_at)
    shown["complete_at"] = None if model.complete_at is None else epoch_of(model.complete_at)
    shown["sourcestamps"] = [data_sourcestamps._db2data(stamp) for stamp in stamps]
    return shown


class Buildset(UncopiedMessages, data_buildsets.Buildset):
    """Buildbot's, with events from the rows that were written.

    Runs the collapser only for builders that collapse requests.
    """

    endpoints: ClassVar[list[Any]] = [data_buildsets.BuildsetEndpoint, BuildsetsEndpoint]

    @base.updateMethod
    @defer.inlineCallbacks
    def addBuildset(
        self,
        waited_for: bool,
        scheduler: str | None = None,
        sourcestamps: list[SourceStamp] | None = None,
        reason: str = "",
        properties: Properties | None = None,
        builderids: list[int] | None = None,
        external_idstring: str | None = None,
        rebuilt_buildid: int | None = None,
        parent_buildid: int | None = None,
        parent_relationship: str | None = None,
        priority: int = 0,
    ) -> Any:
        """Add a buildset; return its id and {builderid: brid}, once it is on disk.

        Raises RefusedWord for a sourcestamp or a property that commands would misunderstand.
        """
        self._check_words(sourcestamps or [], properties, scheduler)
        submitted_at = int(self.master.reactor.seconds())
        bsid, brids = yield self.master.db.buildsets.addBuildset(
            sourcestamps=sourcestamps or [],
            reason=reason,
            rebuilt_buildid=rebuilt_buildid,
            properties=properties or {},
            builderids=builderids or [],
            waited_for=waited_for,
            external_idstring=external_idstring,
            submitted_at=epoch2datetime(submitted_at),
            parent_buildid=parent_buildid,
            parent_relationship=parent_relationship,
            priority=priority,
        )
        mergeable = [brid for builderid, brid in brids.items() if self._collapses(builderid)]
        if mergeable:
            yield Collapser(self.master, mergeable).collapse()
        model = yield self.master.db.buildsets.getBuildset(bsid)
        stamps = yield self._stamps(model)
        self.master.data.rtypes.buildrequest.generateEvent(list(brids.values()), "new")
        self.produceEvent(
            {
                "bsid": bsid,
                "external_idstring": external_idstring,
                "reason": reason,
                "parent_buildid": parent_buildid,
                "rebuilt_buildid": rebuilt_buildid,
                "submitted_at": submitted_at,
                "complete": False,
                "complete_at": None,
                "results": None,
                "scheduler": scheduler,
                "sourcestamps": stamps,
            },
            "new",
        )
        log.msg(f"added buildset {bsid} to database")
        if not brids:
            yield self.maybeBuildsetComplete(bsid)
        yield self.master.db.on_disk()
        return bsid, brids

    def _check_words(
        self, stamps: list[SourceStamp], properties: Properties | None, scheduler: str | None
    ) -> None:
        """Check new sourcestamps; those that are stored already are checked by source steps."""
        by_visitor = isinstance(self.master.config.schedulers.get(scheduler), ForceScheduler)
        for stamp in stamps:
            if not isinstance(stamp, int):
                words.check_stamp(stamp, self.master.config, by_visitor=by_visitor)
        words.check_properties(properties, self.master.config)

    def _collapses(self, builderid: int) -> bool:
        builder = self.master.botmaster.getBuilderById(builderid)
        return builder is not None and builder.getCollapseRequestsFn() is not None

    @base.updateMethod
    @defer.inlineCallbacks
    def maybeBuildsetComplete(self, bsid: int) -> Any:
        """Complete a buildset whose requests all are complete, and announce that once."""
        model = yield self.master.db.buildsets.complete_if_done(bsid)
        if model is not None:
            yield self.announce_complete(model)

    @defer.inlineCallbacks
    def announce_complete(self, model: buildsets.BuildSetModel) -> Any:
        """Produce the event of a buildset that has been completed."""
        stamps = yield self._stamps(model)
        self.produceEvent(
            {
                "bsid": model.bsid,
                "external_idstring": model.external_idstring,
                "reason": model.reason,
                "rebuilt_buildid": model.rebuilt_buildid,
                "sourcestamps": stamps,
                "submitted_at": model.submitted_at,
                "complete": True,
                "complete_at": model.complete_at,
                "results": model.results,
                "parent_buildid": model.parent_buildid,
                "parent_relationship": model.parent_relationship,
            },
            "complete",
        )

    @defer.inlineCallbacks
    def _stamps(self, model: buildsets.BuildSetModel) -> Any:
        stamps = []
        for ssid in model.sourcestamps:
            stamp = yield self.master.data.get(("sourcestamps", str(ssid)))
            stamps.append(copy.deepcopy(stamp))
        return stamps
