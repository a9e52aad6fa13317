"""Chooses the next build without loading all waiting requests, and without a delay.

Source: buildbot/process/buildrequestdistributor.py and buildbot/process/botmaster.py.
"""

from __future__ import annotations

from typing import Any

from buildbot.config.master import MasterConfig
from buildbot.data.base import ListResult
from buildbot.process import botmaster
from buildbot.process import buildrequestdistributor
from buildbot.process.buildrequest import BuildRequest
from buildbot.util import debounce
from twisted.internet import defer
from twisted.python import log

from litebot.master.builds.builder import Builder
from litebot.master.builds.removal import cancel_waited_for
from litebot.master.builds.removal import end_builds
from litebot.master.builds.removal import starts_are_over
from litebot.master.runtime.visitor_log import for_visitor

PAGE = 20


class BuildChooser(buildrequestdistributor.BasicBuildChooser):
    """Buildbot's, but reads PAGE requests at a time.

    If the configuration has a `nextBuild`, reads all requests at once, as `nextBuild` needs them.
    """

    def __init__(self, bldr: Any, master: Any) -> None:
        super().__init__(bldr, master)
        self._models: dict[int, Any] = {}
        self._last: Any = None
        self._is_last_page = False

    @defer.inlineCallbacks
    def _fetchUnclaimedBrdicts(self) -> Any:
        if self.nextBuild is not None:
            return (yield super()._fetchUnclaimedBrdicts())
        if not self.unclaimedBrdicts and not self._is_last_page:
            yield self._fetch_page()
        return self.unclaimedBrdicts

    @defer.inlineCallbacks
    def _fetch_page(self) -> Any:
        builderid = yield self.bldr.getBuilderId()
        requests = self.master.db.buildrequests
        models = yield requests.get_unclaimed(builderid, self._last, PAGE)
        self._is_last_page = len(models) < PAGE
        if models:
            self._last = models[-1]
        self._models = {model.buildrequestid: model for model in models}
        self.unclaimedBrdicts = ListResult(
            [
                {"buildrequestid": model.buildrequestid, "priority": model.priority}
                for model in models
            ]
        )

    @defer.inlineCallbacks
    def _getBuildRequestForBrdict(self, brdict: dict[str, Any]) -> Any:
        brid = brdict["buildrequestid"]
        model = self._models.get(brid)
        if model is None:
            return (yield super()._getBuildRequestForBrdict(brdict))
        if brid not in self.breqCache:
            self.breqCache[brid] = yield BuildRequest.fromBrdict(self.master, model)
        return self.breqCache[brid]


class BuildRequestDistributor(buildrequestdistributor.BuildRequestDistributor):
    """Buildbot's, but finds the builders with waiting requests in one query."""

    BuildChooser = BuildChooser

    @defer.inlineCallbacks
    def _sortBuilders(self, buildernames: list[str]) -> Any:
        if self.master.config.prioritizeBuilders:
            return (yield super()._sortBuilders(buildernames))
        wanted = set(buildernames)
        urgency = yield self.master.db.buildrequests.get_urgency()
        order = []
        for builderid, (priority, oldest) in urgency.items():
            builder = self.botmaster.getBuilderById(builderid)
            if builder is not None and builder.name in wanted and builder.getAvailableWorkers():
                order.append((-priority, oldest, builder.name))
        # This is Buildbot's order: highest priority, then the oldest request, then the name.
        return [name for _, _, name in sorted(order)]

    async def _maybeStartBuildsOnBuilder(self, bldr: Any) -> None:
        for_visitor.set(False)  # builds are the master's own, whoever asked for them
        if bldr.getAvailableWorkers():  # builders before it may have taken them
            await super()._maybeStartBuildsOnBuilder(bldr)


class BotMaster(botmaster.BotMaster):
    """Buildbot's, but starts builds at once instead of after 100 ms without a new request.

    If a request is cancelled while its build is about to begin, the build ends.  `leaving` are the
    builders that a reconfig has removed and that still have builds.
    """

    def __init__(self) -> None:
        super().__init__()
        stock: Any = self.brd
        stock.disownServiceParent()
        self.brd: Any = BuildRequestDistributor(self)
        self.leaving: list[Any] = []
        self._builders_byid: dict[int, Any] = {}  # another master may ask for one before a reconfig
        self.brd.setServiceParent(self)

    # Requests that come within one turn are still handled together.
    @debounce.method(wait=0.0)
    def _flush_pending_builders(self) -> Any:
        pending: set[Any] = self._pending_builderids
        builders = [self.getBuilderById(builderid) for builderid in pending]
        pending.clear()
        names = [builder.name for builder in builders if builder is not None]
        if names:
            self.brd.maybeStartBuildsOn(names)

    def remove_in_progress_buildrequest(self, brid: int) -> None:
        """Note that the build of a request has begun, and stop the build if it is cancelled.

        Buildbot returns the reason of the cancel to the build, which then stops before its first
        step and never ends.
        Source: buildbot/process/build.py, startBuild
        """
        reason = super().remove_in_progress_buildrequest(brid)
        if isinstance(reason, str):
            self.master.reactor.callLater(0, self._stop_builds_of, brid, reason)

    def _stop_builds_of(self, brid: int, reason: str) -> None:
        for builder in self.builders.values():
            for build in builder.building:
                if brid in {request.id for request in build.requests}:
                    d = build.stopBuild(reason)
                    d.addErrback(log.err, f"while stopping {build}")

    def workerLost(self, bot: Any) -> None:
        """Do as Buildbot does, and detach also from builders that no longer use the worker.

        Otherwise the end of their builds would ask the worker for its master, which it no longer
        has, and fail before it deals with the request.
        """
        super().workerLost(bot)
        for workerforbuilder in list(bot.workerforbuilders.values()):
            workerforbuilder.detached()

    @defer.inlineCallbacks
    def reconfigServiceBuilders(self, new_config: MasterConfig) -> Any:
        """Do as Buildbot does, after the builds of removed builders have ended.

        New builders are made here, of litebot's class; Buildbot's method then finds them.
        """
        names = {config.name for config in new_config.builders}
        removed = [b for b in list(self) if isinstance(b, Builder) and b.name not in names]
        self.leaving = [builder for builder in self.leaving if builder.building] + removed
        for builder in removed:
            yield builder.disownServiceParent()  # it starts no more builds
            del self.builders[builder.name]
        if removed:
            yield defer.ensureDeferred(end_builds(self, removed))
        for name in dict.fromkeys(config.name for config in new_config.builders):
            if name not in self.builders:
                self.builders[name] = builder = Builder(name)
                builder.botmaster = self
                builder.master = self.master
                yield builder.setServiceParent(self)
        yield super().reconfigServiceBuilders(new_config)
        if removed:
            names_removed = [builder.name for builder in removed]
            yield defer.ensureDeferred(cancel_waited_for(self.master, names_removed))

    @defer.inlineCallbacks
    def reconfigServiceWithBuildbotConfig(self, new_config: MasterConfig) -> Any:
        """Do as Buildbot does, and detach workers from builders that no longer use them.

        Otherwise a latent worker would still have such a builder, and not attach to it when a later
        reconfig adds it again.
        """
        yield super().reconfigServiceWithBuildbotConfig(new_config)
        gone = [
            workerforbuilder
            for worker in self.master.workers.workers.values()
            for workerforbuilder in worker.workerforbuilders.values()
            if not self._has(workerforbuilder.builder, worker)
        ]
        # A build that is about to start may have chosen one of them.
        if gone and (yield defer.ensureDeferred(starts_are_over(self))):
            for workerforbuilder in gone:
                if workerforbuilder.worker is not None and not workerforbuilder.isBusy():
                    workerforbuilder.detached()

    def _has(self, builder: Any, worker: Any) -> bool:
        return builder.parent is self and worker.name in builder.config.workernames
