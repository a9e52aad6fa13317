"""Ends builds that fail to begin, or whose worker is lost while they begin or end.

Buildbot handles the loss of a worker while steps run.  Before the first step it assumes that the
worker is still connected.  If it is not, or if the configuration is wrong, an exception leaves the
build without an end, and its request waits for ever.  The same happens when a build ends as
EXCEPTION after its worker was lost.
Source: buildbot/process/build.py, startBuild and buildFinished

Steps are adopted where they are made, as a build may add some that no configuration has.
"""

from __future__ import annotations

from typing import Any

from buildbot.process import build
from buildbot.process.buildrequest import BuildRequest
from buildbot.process.buildrequest import TempChange
from buildbot.process.buildrequest import TempSourceStamp
from buildbot.process.results import EXCEPTION
from buildbot.process.results import RETRY
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure

from litebot.errors import StoreFailed
from litebot.master.builds.adoption import adopt


class Build(build.Build):
    """A build that always ends, even if its worker is lost or the configuration is wrong.

    When a configuration is loaded, this class is put before that of the builds of each factory.  A
    stop of the master sets `retries_when_stopped`; the build then ends as RETRY once it is stopped.
    """

    retries_when_stopped = False
    sources: list[Any]
    _other_owners: frozenset[str] = frozenset()  # of requests that were collapsed

    def setupBuildSteps(self, step_factories: Any) -> Any:
        """Make steps as Buildbot does, and have them refuse what is dangerous."""
        made: list[Any] = super().setupBuildSteps(step_factories)
        for step in made:
            adopt(step)
        return made

    @defer.inlineCallbacks
    def startBuild(self, workerforbuilder: Any) -> Any:
        """Begin as Buildbot does, but end the build after an exception.

        Raises StoreFailed, as the master then stops.
        """
        self.workerforbuilder = workerforbuilder
        was_connected = workerforbuilder.worker.conn is not None  # not so for a latent worker
        try:
            yield self._gather_changes()
            yield super().startBuild(workerforbuilder)
        except StoreFailed:
            raise  # the master stops
        except Exception:
            yield self._end_beginning(Failure(), was_connected)

    @defer.inlineCallbacks
    def _gather_changes(self) -> Any:
        """Add what collapsed requests, and changes that a scheduler gathered, say to the build."""
        ids: set[int] = set()
        for request in self.requests:
            ids.update((yield self.master.db.changes.get_ids_of_request(request.id)))
            for model in (yield self.master.db.buildrequests.get_collapsed(request.id)):
                other = yield BuildRequest.fromBrdict(self.master, model)
                self._other_owners |= _owners(other)
        ids -= {change.changeid for change in self.allChanges()}
        more = []
        for changeid in sorted(ids):
            shown = yield self.master.data.get(("changes", changeid))
            more += [TempChange(shown)] if shown is not None else []
        if more:
            self.sources = [_with_changes(source, more) for source in self.sources]

    def setupBuild(self) -> None:
        """Set up as Buildbot does, and name also the owners of collapsed requests."""
        super().setupBuild()
        if self._other_owners:
            owners = self._other_owners | set(self.getProperty("owners") or ())
            self.setProperty("owners", sorted(owners), "Build")

    @defer.inlineCallbacks
    def _end_beginning(self, failure: Failure, was_connected: bool) -> Any:
        """End the build, which could not begin: as RETRY if its worker was lost, or EXCEPTION."""
        preparation: Any = self._preparation_step
        is_preparing = yield self._is_open(preparation)
        is_prepared = preparation is not None and not is_preparing
        worker: Any = self.workerforbuilder.worker
        if worker is None or (worker.conn is None and (was_connected or is_prepared)):
            log.msg(f"the worker {self.workername} was lost while {self} began")
            results, text = RETRY, ["worker", "not", "available"]
        else:
            log.err(failure, f"while {self} began")
            results, text = EXCEPTION, ["build", "could", "not", "begin"]
        if self.finished:
            return  # a stop or a reconfig has ended it meanwhile
        if is_preparing and results == EXCEPTION:
            yield preparation.addLogWithFailure(failure)
        for step in (preparation, self._locks_acquire_step):
            if (yield self._is_open(step)):
                yield self.master.data.updates.finishStep(step.stepid, results, False)
        if self.subs is None:
            self.conn = None
        if self.buildid is not None:
            yield self.buildFinished(text, results)
        else:  # the database has only the request yet
            self.results = results
            self._let_go()

    @defer.inlineCallbacks
    def _is_open(self, step: Any) -> Any:
        """Return whether a step has been added and has not ended."""
        if step is None or step.stepid is None:
            return False
        model = yield self.master.db.steps.getStep(step.stepid)
        return model is not None and model.complete_at is None

    @defer.inlineCallbacks
    def stepDone(self, results: Any, step: Any) -> Any:
        """Do as Buildbot does, but keep RETRY as the result of a build that a stop interrupted.

        Otherwise the CANCELLED of the interrupted step would replace it.
        Source: buildbot/process/build.py, stopBuild
        """
        terminate = yield super().stepDone(results, step)
        if self.stopped and self.retries_when_stopped:
            self.results = RETRY
        return terminate

    @defer.inlineCallbacks
    def buildFinished(self, text: list[str], results: int) -> Any:
        """End as Buildbot does, but only once, and also if the worker is gone.

        Buildbot puts the worker of a build with an EXCEPTION into quarantine, which fails without a
        worker.
        """
        if self.finished:
            return
        yield super().buildFinished(text, results)
        is_gone = self.workerforbuilder.worker is None
        if is_gone and self.results == EXCEPTION and self in self.builder.building:
            self._let_go()

    def _let_go(self) -> None:
        """Release the worker and the builder, as Buildbot's `buildFinished` does last."""
        self.workerforbuilder.buildFinished()
        self.builder.buildFinished(self, self.workerforbuilder)


def _owners(request: Any) -> set[str]:
    """Return who asked for a request: its property `owner`, and the authors of its patches."""
    owner = request.properties.getProperty("owner")
    authors = [source.patch_info[0] for source in request.sources.values() if source.patch]
    return {str(each) for each in (owner, *authors) if each}


def _with_changes(source: Any, more: list[Any]) -> Any:
    """Return a copy of a source with more changes, those of its codebase; other builds share it."""
    copied = TempSourceStamp(source.asSSDict())
    mine = [change for change in more if change.codebase == source.codebase]
    copied.changes = sorted([*source.changes, *mine], key=lambda change: change.changeid)
    return copied
