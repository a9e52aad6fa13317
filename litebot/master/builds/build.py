"""Builds that can't begin, and whose worker goes while they begin or end: they end, too.

Buildbot looks after a worker that goes while steps run.  Before, between two questions to the
database, it takes the worker to be there still: what fails then, as does a mistake in the
configuration, leaves a build without an end and a request that waits for it for ever.  So does the
end of a build with an exception.  Source: buildbot/process/build.py, startBuild and buildFinished
"""

from __future__ import annotations

from typing import Any

from buildbot.process import build
from buildbot.process.results import EXCEPTION
from buildbot.process.results import RETRY
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure

from litebot.errors import StoreFailed


class Build(build.Build):
    """A build that ends, whatever its worker does and the configuration gets wrong.

    When a configuration is loaded, this class is put before that of the builds of each factory.  A
    stop of the master sets `retries_when_stopped`; the build then ends as RETRY once it is stopped.
    """

    retries_when_stopped = False

    @defer.inlineCallbacks
    def startBuild(self, workerforbuilder: Any) -> Any:
        """Begin as Buildbot does; an exception ends the build."""
        self.workerforbuilder = workerforbuilder
        was_connected = workerforbuilder.worker.conn is not None  # a latent one is not yet
        try:
            yield super().startBuild(workerforbuilder)
        except StoreFailed:
            raise  # the master stops
        except Exception:
            yield self._end_beginning(Failure(), was_connected)

    @defer.inlineCallbacks
    def _end_beginning(self, failure: Failure, was_connected: bool) -> Any:
        """End the build, which could not begin: as RETRY where it is its worker that was lost."""
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
            return  # a stop, or a reconfig, did not wait for it
        if is_preparing and results == EXCEPTION:
            yield preparation.addLogWithFailure(failure)
        for step in (preparation, self._locks_acquire_step):
            if (yield self._is_open(step)):
                yield self.master.data.updates.finishStep(step.stepid, results, False)
        if self.subs is None:
            self.conn = None
        if self.buildid is not None:
            yield self.buildFinished(text, results)
        else:  # there is only the request
            self.results = results
            self._let_go()

    @defer.inlineCallbacks
    def _is_open(self, step: Any) -> Any:
        """Whether a step has been added, and has no end."""
        if step is None or step.stepid is None:
            return False
        model = yield self.master.db.steps.getStep(step.stepid)
        return model is not None and model.complete_at is None

    @defer.inlineCallbacks
    def stepDone(self, results: Any, step: Any) -> Any:
        """As Buildbot's, where the CANCELLED of a step wins over the RETRY of its stopped build.

        Source: buildbot/process/build.py, stopBuild
        """
        terminate = yield super().stepDone(results, step)
        if self.stopped and self.retries_when_stopped:
            self.results = RETRY
        return terminate

    @defer.inlineCallbacks
    def buildFinished(self, text: list[str], results: int) -> Any:
        """End once, as Buildbot does, which would send a worker that is gone into quarantine."""
        if self.finished:
            return
        yield super().buildFinished(text, results)
        is_gone = self.workerforbuilder.worker is None
        if is_gone and self.results == EXCEPTION and self in self.builder.building:
            self._let_go()

    def _let_go(self) -> None:
        """Do what the end of Buildbot's `buildFinished` does."""
        self.workerforbuilder.buildFinished()
        self.builder.buildFinished(self, self.workerforbuilder)
