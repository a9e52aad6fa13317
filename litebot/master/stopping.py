"""A stop while builds run: they end as RETRY, soon, whatever their steps are doing."""

from __future__ import annotations

from typing import Any

from buildbot.process.build import Build
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
    """Sees to it that the builds which Buildbot's own shutdown stops do end, and as RETRY."""

    def __init__(self, master: Any) -> None:
        self._master = master
        self._loop = task.LoopingCall(self._again)
        self._loop.clock = master.reactor
        self._began_at = master.reactor.seconds()

    def start(self) -> None:
        """Call it just before that shutdown.

        Buildbot sets RETRY when the step's CANCELLED has already won over it; a build without a
        connection to its worker keeps RETRY.  Source: buildbot/process/build.py, stepDone
        """
        for build in running_builds(self._master):
            if build.conn is not None and not is_waited_for(build):
                build.subs.unsubscribe()
                build.subs = build.conn = None
        self._loop.start(AGAIN_S, now=False)

    def stop(self) -> None:
        """Call it when the shutdown is through."""
        self._loop.stop()

    def _again(self) -> None:
        """Interrupt what did not notice, as a Trigger step about to run; at last, end what is left.

        What a step of those does on its worker ends with the connection.
        """
        is_late = self._master.reactor.seconds() - self._began_at > PATIENCE_S
        for build in running_builds(self._master):
            step = build.currentStep
            if is_late and not build.finished and build.buildid is not None:
                build.results = CANCELLED if is_waited_for(build) else RETRY
                build.buildFinished(["interrupted"], build.results)
            elif step is not None and step.results is None and not step.stopped:
                step.interrupt(REASON)


def is_waited_for(build: Build) -> bool:
    """Whether a Trigger step waits for it: a retry of that step's build makes another one."""
    return any(request.waitedFor for request in build.requests)
