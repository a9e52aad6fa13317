"""The stop of a build: it ends soon, whatever its worker and its steps do.

Buildbot tells the step that runs, and waits for its end.  That never comes where the worker stands
still, or where a step waits for what does not happen.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import error
from twisted.internet import task
from twisted.python import log
from twisted.python.failure import Failure

from litebot.master.builds.silence import AnsweringConnection

ANSWERS_WITHIN_S = 7.0
# A step that was told to stop has this long to end, and also its command's `sigtermTime`.
STEP_ENDS_WITHIN_S = 10.0
# What is done next if the step goes on has this long to have its effect.
EFFECT_WITHIN_S = 2.0
TRIES = 2
LOOK_S = 0.1


async def see_to_end(build: Any) -> None:
    """Wait until a build that was told to stop has ended, and end it if that takes too long.

    What runs after its present step, as steps with `alwaysRun` do, has the time that it needs.
    """
    step = build.currentStep
    conn = build.conn or (build.workerforbuilder.worker and build.workerforbuilder.worker.conn)
    if isinstance(conn, AnsweringConnection) and not await conn.answers_within(ANSWERS_WITHIN_S):
        if _has_ended(build, step):
            return
        build.workerforbuilder.abortPingIfAny()
        build.abandon_worker()
    else:
        sigterm_s = _sigterm_s(step)
        if await _ended(build, step, STEP_ENDS_WITHIN_S + sigterm_s) or build._is_substantiating:
            return
        log.msg(f"litebot: {build} does not end by itself")
        if step is not None and step.cmd is not None:
            step.give_up(f"the command did not end within {STEP_ENDS_WITHIN_S + sigterm_s:g} s")
            step.cmd.interrupt(Failure(error.ConnectionLost()))
    for _ in range(TRIES):
        if await _ended(build, step, EFFECT_WITHIN_S):
            return
        if step is not None:
            step.give_up("the step did not end by itself")
            step.cancel()
    if not await _ended(build, step, EFFECT_WITHIN_S):
        await build.end_as_asked()


def _sigterm_s(step: Any) -> float:
    """Return how long the command of a step has between SIGTERM and SIGKILL."""
    arguments = getattr(getattr(step, "cmd", None), "args", None) or {}
    seconds = arguments.get("sigtermTime")
    return float(seconds) if isinstance(seconds, (int, float)) else 0.0


def _has_ended(build: Any, step: Any) -> bool:
    return build.finished or build.currentStep is not step


async def _ended(build: Any, step: Any, timeout_s: float) -> bool:
    """Wait until the build has ended or runs another step; return whether it does in time."""
    reactor = build.master.reactor
    late_at = reactor.seconds() + timeout_s
    while not _has_ended(build, step):
        if reactor.seconds() >= late_at:
            return False
        await task.deferLater(reactor, LOOK_S)
    return True
