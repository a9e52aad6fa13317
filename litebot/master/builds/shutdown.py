"""The stop of a master: builds soon end as RETRY, whatever their steps do, and polls end too."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any

from buildbot.process.results import CANCELLED
from buildbot.process.results import RETRY
from buildbot.util.runprocess import RunProcessPP
from buildbot.worker.latent import AbstractLatentWorker
from buildbot.worker.latent import States
from twisted.internet import task
from twisted.internet.process import reapProcessHandlers
from twisted.python import log

from litebot.master.builds.build import Build
from litebot.master.runtime.deferreds import wait_at_most
from litebot.process import alive
from litebot.process import command_of
from litebot.process import descendants

REASON = "Master Shutdown"
INTERRUPT_AGAIN_EVERY_S = 1.0
INTERRUPTED_WITHIN_S = 6.0


def running_builds(master: Any) -> list[Build]:
    """Return all builds that have not ended, those of removed builders too."""
    botmaster = master.botmaster
    builders = [*botmaster.builders.values(), *botmaster.leaving]
    return [build for builder in builders for build in builder.building]


async def let_end(master: Any, grace_s: float) -> None:
    """Wait up to `grace_s` for the running builds to end.

    Meanwhile only builds start that a running build waits for.
    """
    if grace_s <= 0 or not running_builds(master):
        return
    ended = master.botmaster.cleanShutdown(stopReactor=False)
    if not await wait_at_most(ended, grace_s, master.reactor):
        master.botmaster.cancelCleanShutdown()


class BuildInterrupter:
    """Makes sure that the builds which Buildbot's own shutdown stops do end, and as RETRY.

    Steps with `alwaysRun`, such as those that clean up, still run before.  A build that a Trigger
    step waits for ends as CANCELLED.
    """

    def __init__(self, master: Any) -> None:
        self._master = master
        self._loop = task.LoopingCall(self._again)
        self._loop.clock = master.reactor
        self._began_at = master.reactor.seconds()

    def start(self) -> None:
        """Begin; call it just before Buildbot's shutdown."""
        self._retry_all()
        self._loop.start(INTERRUPT_AGAIN_EVERY_S, now=False)

    def _retry_all(self) -> None:
        """Let running builds end as RETRY, except those that a Trigger step waits for."""
        for build in running_builds(self._master):
            build.retries_when_stopped = not is_waited_for(build)

    def stop(self) -> None:
        """End; call it after Buildbot's shutdown."""
        self._loop.stop()

    def _again(self) -> None:
        """Interrupt steps again that still run, such as a Trigger step that was about to start.

        After INTERRUPTED_WITHIN_S, end the builds that are left.  What their steps do on a worker
        ends with the connection.
        """
        self._retry_all()
        is_late = self._master.reactor.seconds() - self._began_at > INTERRUPTED_WITHIN_S
        for build in running_builds(self._master):
            step = build.currentStep
            if is_late and not build.finished and build.buildid is not None:
                build.results = CANCELLED if is_waited_for(build) else RETRY
                build.buildFinished(["interrupted"], build.results)
            elif step and step.results is None and not (step.stopped or step.alwaysRun):
                step.interrupt(REASON)


def is_waited_for(build: Build) -> bool:
    """Return whether a Trigger step waits for a build.

    Such a build is not retried: a retry of the build with that step triggers another one.
    """
    return any(request.waitedFor for request in build.requests)


class CommandEnder:
    """Ends commands that the master itself runs, such as the git of a poll, if they take long."""

    def __init__(self, reactor: Any) -> None:
        self._loop = task.LoopingCall(self._again)
        self._loop.clock = reactor
        self._looks: dict[int, int] = {}  # pid -> in how many looks it was running

    def start(self) -> None:
        """Begin; call it when the stop of the master begins, as that waits for the commands."""
        self._loop.start(INTERRUPT_AGAIN_EVERY_S)

    def stop(self) -> None:
        """Kill the commands that are left; call it when the master has stopped."""
        self._loop.stop()
        for pid in _commands():
            _end(pid, signal.SIGKILL)

    def _again(self) -> None:
        """Send SIGTERM to commands that ran at the last look too, and SIGKILL at the next looks."""
        before = self._looks
        told = {pid for pid, looks in before.items() if looks > 1 and alive(pid)}
        self._looks = {pid: before.get(pid, 0) + 1 for pid in _commands() | told}
        for pid, looks in self._looks.items():
            if looks > 1:
                _end(pid, signal.SIGTERM if looks == 2 else signal.SIGKILL)


def _end(pid: int, number: signal.Signals) -> None:
    log.msg(f"litebot: the stop does not wait for {command_of(pid)} (pid {pid}): {number.name}")
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _commands() -> set[int]:
    """Return the pids of the commands that the master itself runs, and of their descendants."""
    found = set[int]()
    for pid, process in reapProcessHandlers.items():
        if isinstance(process.proto, RunProcessPP):
            found |= {pid} | descendants(pid)
    return found


def latent_workers(master: Any) -> list[str]:
    """Return the names of the latent workers whose instances have not ended."""
    ended = (States.NOT_SUBSTANTIATED, States.SHUT_DOWN)
    workers = master.workers.workers.items()
    return [
        name
        for name, worker in workers
        if isinstance(worker, AbstractLatentWorker) and worker.state not in ended
    ]
