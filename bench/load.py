"""Keeping a master busy with builds, and watching its reactor meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from twisted.internet import defer
from twisted.internet import task
from twisted.python import log

from bench.configuration import AT_A_TIME
from bench.configuration import PROJECT
from bench.configuration import builder_name
from bench.counters import Used

# Caches and compiled statements are warm after so many builds.
WARM_UP = 10
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
    """What a number of builds took at full load."""

    builds: int
    before: Used
    after: Used

    @property
    def builds_per_s(self) -> float:
        """Of wall clock time."""
        return self.builds / (self.after.at_s - self.before.at_s)

    @property
    def cpu_ms_per_build(self) -> float:
        """User and system time of the master's process."""
        return (self.after.cpu_s - self.before.cpu_s) / self.builds * 1e3

    @property
    def syncs_per_build(self) -> float | None:
        """fsync and fdatasync calls; None where they are not counted."""
        if self.before.syncs is None or self.after.syncs is None:
            return None
        return (self.after.syncs - self.before.syncs) / self.builds

    @property
    def written_kb_per_build(self) -> float | None:
        """kB of 1000 bytes into files; None where they are not counted."""
        if self.before.written_bytes is None or self.after.written_bytes is None:
            return None
        return (self.after.written_bytes - self.before.written_bytes) / self.builds / 1e3


async def full_load(master: Any, seconds: float, *, builders: int = 1) -> Rate:
    """Keep AT_A_TIME builds running and as many requests waiting; measure `seconds` of it.

    The clock starts and stops as a build finishes, with the same load before and after, so neither
    the first builds nor the last ones count.  Builds are asked for within the process, of each
    builder in turn.  Returns when all have finished.
    """
    builderids = [
        await master.data.updates.findBuilderId(builder_name(number)) for number in range(builders)
    ]
    counts = {"asked": 0, "finished": 0}
    marks: list[tuple[int, Used]] = []
    drained: defer.Deferred[None] = defer.Deferred()

    def submit() -> None:
        builderid = builderids[counts["asked"] % builders]
        counts["asked"] += 1
        d = master.data.updates.addBuildset(
            waited_for=False, builderids=[builderid], sourcestamps=[SOURCESTAMP], reason="bench"
        )
        d.addErrback(log.err, "while asking for a build")

    def finished(_key: Any, _build: Any) -> None:
        counts["finished"] += 1
        if counts["finished"] == WARM_UP:
            marks.append((WARM_UP, Used.now()))
        elif len(marks) == 1 and time.monotonic() >= marks[0][1].at_s + seconds:
            marks.append((counts["finished"], Used.now()))
        if len(marks) < 2:
            submit()
        elif counts["finished"] == counts["asked"] and not drained.called:
            drained.callback(None)

    consumer = await master.mq.startConsuming(finished, ("builds", None, "finished"))
    for _ in range(2 * AT_A_TIME):
        submit()
    await drained
    consumer.stopConsuming()
    (first, before), (last, after) = marks
    return Rate(last - first, before, after)


def builds_seen(master: Any, count: int, what: str) -> defer.Deferred[list[float]]:
    """When each of the next `count` builds was `what` (new, finished): monotonic seconds."""
    times: list[float] = []
    consumers: list[Any] = []
    seen: defer.Deferred[list[float]] = defer.Deferred()

    def happened(_key: Any, _build: Any) -> None:
        times.append(time.monotonic())
        if len(times) == count:
            consumers[0].stopConsuming()
            seen.callback(times)

    d = master.mq.startConsuming(happened, ("builds", None, what))
    d.addCallbacks(consumers.append, seen.errback)
    return seen


class Turns:
    """The longest reactor turn: by how much a timer that should ring every 2 ms rings late."""

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
        """Begin to watch."""
        self._loop.start(TICK_S)

    def stop(self) -> None:
        """`longest_s` stays as it is."""
        self._loop.stop()
