"""A stop while builds run: they end as RETRY, soon, whatever their steps are doing."""

from __future__ import annotations

from functools import partial
from typing import Any

from buildbot.process.build import Build
from buildbot.process.buildstep import BuildStep
from buildbot.process.results import CANCELLED
from buildbot.process.results import RETRY
from twisted.internet import defer
from twisted.internet import task

REASON = "Master Shutdown"
AGAIN_S = 1.0
PATIENCE_S = 6.0


def running_builds(master: Any) -> list[Build]:
    """All builds that have not ended."""
    botmaster = master.botmaster
    builders = [*botmaster.builders.values(), *botmaster.leaving]
    return [build for builder in builders for build in builder.building]


async def let_end(master: Any, grace_s: float) -> None:
    """Start no more builds but those that others wait for; wait up to `grace_s` for them to end."""
    if grace_s <= 0 or not running_builds(master):
        return
    ended = master.botmaster.cleanShutdown(stopReactor=False)
    over: defer.Deferred[None] = task.deferLater(master.reactor, grace_s)
    await defer.DeferredList([ended, over], fireOnOneCallback=True, fireOnOneErrback=True)
    if over.called:
        master.botmaster.cancelCleanShutdown()
    else:
        over.addErrback(lambda failure: failure.trap(defer.CancelledError))
        over.cancel()


class Interrupter:
    """Sees to it that the builds which Buildbot's own shutdown stops do end, and as RETRY.

    What is to run always in such a build, as what cleans up, runs before.
    """

    def __init__(self, master: Any) -> None:
        self._master = master
        self._loop = task.LoopingCall(self._again)
        self._loop.clock = master.reactor
        self._began_at = master.reactor.seconds()
        self._retried: set[Build] = set()

    def start(self) -> None:
        """Call it just before that shutdown."""
        self._retry_all()
        self._loop.start(AGAIN_S, now=False)

    def _retry_all(self) -> None:
        """Have what runs end as RETRY, except where a Trigger step waits for it."""
        for build in running_builds(self._master):
            if build not in self._retried and not is_waited_for(build):
                self._retried.add(build)
                step_done = partial(_step_done, build, build.stepDone)
                build.stepDone = step_done

    def stop(self) -> None:
        """Call it when the shutdown is through."""
        self._loop.stop()

    def _again(self) -> None:
        """Interrupt what did not notice, as a Trigger step about to run; at last, end what is left.

        What a step of those does on its worker ends with the connection.
        """
        self._retry_all()
        is_late = self._master.reactor.seconds() - self._began_at > PATIENCE_S
        for build in running_builds(self._master):
            step = build.currentStep
            if is_late and not build.finished and build.buildid is not None:
                build.results = CANCELLED if is_waited_for(build) else RETRY
                build.buildFinished(["interrupted"], build.results)
            elif step and step.results is None and not (step.stopped or step.alwaysRun):
                step.interrupt(REASON)


@defer.inlineCallbacks
def _step_done(build: Build, step_done: Any, results: Any, step: BuildStep) -> Any:
    """In place of the `stepDone` of a build that a stop ends.

    Buildbot sets RETRY when the CANCELLED of the step has already won over it.
    Source: buildbot/process/build.py, stopBuild
    """
    terminate = yield step_done(results, step)
    if build.stopped:
        build.results = RETRY
    return terminate


def is_waited_for(build: Build) -> bool:
    """Whether a Trigger step waits for it: a retry of that step's build makes another one."""
    return any(request.waitedFor for request in build.requests)
