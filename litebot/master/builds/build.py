"""Builds that can't begin, and whose worker goes while they begin or end: they end, too.

Buildbot looks after a worker that goes while steps run.  Before, between two questions to the
database, it takes the worker to be there still: what fails then, as does a mistake in the
configuration, leaves a build without an end and a request that waits for it for ever.  So does the
end of a build with an exception.  Source: buildbot/process/build.py, startBuild and buildFinished
"""

from __future__ import annotations

from functools import partial
from typing import Any

from buildbot.process.build import Build
from buildbot.process.results import EXCEPTION
from buildbot.process.results import RETRY
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure

from litebot.errors import StoreFailed


def watch(builder: Any) -> None:
    """See to it that what a builder is going to build ends."""
    if not isinstance(builder.building, Building):
        builder.building = Building(builder.building)
        builder.maybeStartBuild = partial(_start, builder, builder.maybeStartBuild)


@defer.inlineCallbacks
def _start(builder: Any, start: Any, workerforbuilder: Any, requests: list[Any]) -> Any:
    """In place of `maybeStartBuild`, which makes a build of requests that are claimed already."""
    try:
        return (yield start(workerforbuilder, requests))
    except StoreFailed:
        raise  # the master stops
    except Exception:
        if workerforbuilder.worker is None:
            log.msg(f"the worker for a build of {builder.name} was lost before it began")
            return False  # another worker may have them
        log.err(None, f"while a build of {builder.name} was made")
        master, brids = builder.master, [request.id for request in requests]
        yield master.data.updates.completeBuildRequests(brids, EXCEPTION)
        for brid in brids:
            master.botmaster.remove_in_progress_buildrequest(brid)
        return True


class Building(list[Build]):
    """The list of a builder's builds: to each one that comes this is seen."""

    def append(self, build: Build) -> None:
        """Buildbot does so before the build begins."""
        build.startBuild = partial(_begin, build, build.startBuild)
        build.buildFinished = partial(_end, build, build.buildFinished)
        super().append(build)


@defer.inlineCallbacks
def _begin(build: Any, start_build: Any, workerforbuilder: Any) -> Any:
    """In place of `startBuild`: what it raises ends the build."""
    build.workerforbuilder = workerforbuilder
    was_connected = workerforbuilder.worker.conn is not None  # a latent one is not yet
    try:
        yield start_build(workerforbuilder)
    except StoreFailed:
        raise  # the master stops
    except Exception:
        failure = Failure()
        preparation = build._preparation_step
        is_preparing = yield _is_open(build, preparation)
        is_prepared = preparation is not None and not is_preparing
        worker = workerforbuilder.worker
        if worker is None or (worker.conn is None and (was_connected or is_prepared)):
            log.msg(f"the worker {build.workername} was lost while {build} began")
            results, text = RETRY, ["worker", "not", "available"]
        else:
            log.err(failure, f"while {build} began")
            results, text = EXCEPTION, ["build", "could", "not", "begin"]
        if build.finished:
            return  # a stop, or a reconfig, did not wait for it
        if is_preparing and results == EXCEPTION:
            yield preparation.addLogWithFailure(failure)
        for step in (preparation, build._locks_acquire_step):
            if (yield _is_open(build, step)):
                yield build.master.data.updates.finishStep(step.stepid, results, False)
        if build.subs is None:
            build.conn = None
        if build.buildid is not None:
            yield build.buildFinished(text, results)
        else:  # there is only the request
            build.results = results
            _let_go(build)


@defer.inlineCallbacks
def _is_open(build: Any, step: Any) -> Any:
    """Whether a step has been added, and has no end."""
    if step is None or step.stepid is None:
        return False
    model = yield build.master.db.steps.getStep(step.stepid)
    return model is not None and model.complete_at is None


@defer.inlineCallbacks
def _end(build: Any, build_finished: Any, text: list[str], results: int) -> Any:
    """In place of `buildFinished`, which would send a worker that is gone into quarantine."""
    if build.finished:
        return
    yield build_finished(text, results)
    is_gone = build.workerforbuilder.worker is None
    if is_gone and build.results == EXCEPTION and build in build.builder.building:
        _let_go(build)


def _let_go(build: Any) -> None:
    """The end of Buildbot's `buildFinished`."""
    build.workerforbuilder.buildFinished()
    build.builder.buildFinished(build, build.workerforbuilder)
