"""Builds in the data API: their events are made from the rows that were written.

Source: buildbot/data/builds.py, whose names these keep.
"""

from __future__ import annotations

from typing import Any
from typing import ClassVar

from buildbot.data import base
from buildbot.data import builds as data_builds
from buildbot.data.resultspec import ResultSpec
from buildbot.db import builds
from twisted.internet import defer

from litebot.master.data.events import UncopiedMessages
from litebot.master.delivery.controls import BUILDREQUESTS
from litebot.master.delivery.controls import add
from litebot.master.secrets.masker import masker

NO_REASON = "no reason"  # as in Buildbot


class BuildEndpoint(data_builds.BuildEndpoint):
    """Buildbot's, but keeps a stop as a pending control, which outlives a crash."""

    pathPatterns: ClassVar[list[str]] = data_builds.BuildEndpoint.pathPatterns

    @defer.inlineCallbacks
    def actionStop(self, args: Any, kwargs: Any) -> Any:
        """Stop the build."""
        build = yield self.get(ResultSpec(), kwargs)
        if build is None:
            return
        reason = kwargs.get("reason", args.get("reason", NO_REASON))
        if not build["complete"]:
            row = (BUILDREQUESTS, build["buildrequestid"], "cancel", reason)
            yield self.master.db.pool.do_with_transaction(add, *row)
        yield super().actionStop(args, {**kwargs, "buildid": build["buildid"]})


class BuildsEndpoint(data_builds.BuildsEndpoint):
    """Buildbot's, but reads the properties of all builds in one query."""

    pathPatterns: ClassVar[list[str]] = data_builds.BuildsEndpoint.pathPatterns
    rootLinkName = data_builds.BuildsEndpoint.rootLinkName

    @defer.inlineCallbacks
    def get(self, resultSpec: Any, kwargs: Any) -> Any:
        """Do as Buildbot does."""
        wanted = set(resultSpec.popProperties() or ())
        found = yield super().get(resultSpec, kwargs)
        if wanted and found:
            buildids = [build["buildid"] for build in found]
            names = None if "*" in wanted else wanted
            properties = yield self.master.db.builds.get_properties_of(buildids, names)
            for build in found:
                build["properties"] = properties.get(build["buildid"], {})
        return found


class Build(UncopiedMessages, data_builds.Build):
    """Buildbot's, with events from the rows that were written."""

    endpoints: ClassVar[list[Any]] = [
        BuildEndpoint,
        BuildsEndpoint,
        data_builds.BuildTriggeredBuildsEndpoint,
    ]

    def _announce(self, build: builds.BuildModel | None, event: str) -> None:
        if build is not None:
            self.produceEvent(data_builds._db2data(build), event)

    @base.updateMethod
    @defer.inlineCallbacks
    def generateNewBuildEvent(self, buildid: int) -> Any:
        """Announce a new build, once its properties are known, and wait until it is committed.

        Its first step begins after this and may kill the master; the next start must then know that
        the build existed.
        """
        build = yield self.master.db.builds.getBuild(buildid)
        self._announce(build, "new")
        yield self.master.db.committed()

    @base.updateMethod
    def setBuildStateString(self, buildid: int, state_string: str) -> Any:
        """Set the text that says what a build is doing."""
        d = self.master.db.builds.setBuildStateString(buildid, masker.mask(state_string))
        return d.addCallback(self._announce, "update")

    @base.updateMethod
    def add_build_locks_duration(self, buildid: int, duration_s: int) -> Any:
        """Add to the time that a build has waited for locks."""
        d = self.master.db.builds.add_build_locks_duration(buildid, duration_s)
        return d.addCallback(self._announce, "update")

    @base.updateMethod
    def finishBuild(self, buildid: int, results: int) -> Any:
        """Mark a build as finished."""
        d = self.master.db.builds.finishBuild(buildid, results)
        return d.addCallback(self._announce, "finished")
