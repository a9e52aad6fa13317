"""Keeps a master busy with builds, and measures the turns of its reactor meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from twisted.internet import defer
from twisted.internet import task
from twisted.python import log

from bench.configuration import BUILDS_AT_A_TIME
from bench.configuration import PROJECT
from bench.configuration import builder_name
from bench.counters import Usage

# The number of builds after which caches and compiled statements are warm.
WARM_UP_BUILDS = 10
TICK_S = 0.002

SOURCESTAMP = {
    "codebase": "",
    "repository": "",
    "project": PROJECT,
    "branch": None,
    "revision": None,
}


@dataclass(frozen=True)
class Rate:
    """What a number of builds used at full load: the usage before the first and after the last."""

    builds: int
    before: Usage
    after: Usage

    @property
    def builds_per_s(self) -> float:
        """Builds per second of wall clock time."""
        return self.builds / (self.after.at_s - self.before.at_s)

    @property
    def cpu_ms_per_build(self) -> float:
        """User and system time of the master's process per build."""
        return (self.after.cpu_s - self.before.cpu_s) / self.builds * 1e3

    @property
    def syncs_per_build(self) -> float | None:
        """The fsync and fdatasync calls per build, or None if they are not counted."""
        if self.before.syncs is None or self.after.syncs is None:
            return None
        return (self.after.syncs - self.before.syncs) / self.builds

    @property
    def written_kb_per_build(self) -> float | None:
        """The kB of 1000 bytes written into files per build, or None if they are not counted."""
        if self.before.written_bytes is None or self.after.written_bytes is None:
            return None
        return (self.after.written_bytes - self.before.written_bytes) / self.builds / 1e3


async def full_load(master: Any, seconds: float, *, builders: int = 1) -> Rate:
    """Keep BUILDS_AT_A_TIME builds running and as many requests waiting; measure for `seconds`.

    The measurement starts and stops as a build finishes, with the same load before and after, so
    neither the first builds nor the last ones count.  Builds are requested within the process, of
    each builder in turn.  Returns when all have finished.
    """
    builderids = [
        await master.data.updates.findBuilderId(builder_name(number)) for number in range(builders)
    ]
    counts = {"requested": 0, "finished": 0}
    marks: list[tuple[int, Usage]] = []
    drained: defer.Deferred[None] = defer.Deferred()

    def submit() -> None:
        builderid = builderids[counts["requested"] % builders]
        counts["requested"] += 1
        d = master.data.updates.addBuildset(
            waited_for=False, builderids=[builderid], sourcestamps=[SOURCESTAMP], reason="bench"
        )
        d.addErrback(log.err, "while requesting a build")

    def finished(_key: Any, _build: Any) -> None:
        counts["finished"] += 1
        if counts["finished"] == WARM_UP_BUILDS:
            marks.append((WARM_UP_BUILDS, Usage.now()))
        elif len(marks) == 1 and time.monotonic() >= marks[0][1].at_s + seconds:
            marks.append((counts["finished"], Usage.now()))
        if len(marks) < 2:
            submit()
        elif counts["finished"] == counts["requested"] and not drained.called:
            drained.callback(None)

    consumer = await master.mq.startConsuming(finished, ("builds", None, "finished"))
    for _ in range(2 * BUILDS_AT_A_TIME):
        submit()
    await drained
    consumer.stopConsuming()
    (first, before), (last, after) = marks
    return Rate(last - first, before, after)


def times_of_builds(master: Any, count: int, event: str) -> defer.Deferred[list[float]]:
    """Fire with the times, in monotonic seconds, of the next `count` builds' `event`.

    `event` is new or finished, as in the message queue.
    """
    times: list[float] = []
    consumers: list[Any] = []
    complete: defer.Deferred[list[float]] = defer.Deferred()

    def note_time(_key: Any, _build: Any) -> None:
        times.append(time.monotonic())
        if len(times) == count:
            consumers[0].stopConsuming()
            complete.callback(times)

    d = master.mq.startConsuming(note_time, ("builds", None, event))
    d.addCallbacks(consumers.append, complete.errback)
    return complete


class ReactorTurns:
    """Measures the longest reactor turn: how late a timer is that is due every 2 ms."""

    def __init__(self, reactor: Any) -> None:
        self.longest_s = 0.0
        self._expected_at = 0.0
        self._loop = task.LoopingCall(self._tick)
        self._loop.clock = reactor

    def _tick(self) -> None:
        now = time.monotonic()
        if self._expected_at:
            self.longest_s = max(self.longest_s, now - self._expected_at)
        self._expected_at = now + TICK_S

    def start(self) -> None:
        """Start measuring."""
        self._loop.start(TICK_S)

    def stop(self) -> None:
        """Stop measuring; `longest_s` keeps its value."""
        self._loop.stop()
