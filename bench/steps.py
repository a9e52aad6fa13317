"""Build steps that run in the master, so that the figures include no work of a worker."""

from __future__ import annotations

import time
from typing import Any

from buildbot.process.buildstep import BuildStep
from buildbot.process.results import SUCCESS
from twisted.internet import defer
from twisted.internet import task

LINES = 20
LINE = "a line of output that is about as long as they are: compiling part {:6d} of it\n"
# A batch must take at least this long to count as a measurement.
MIN_BATCH_S = 1.0
# How many appends are made in one turn of the reactor; a worker's output comes in such bursts.
BURST = 100


class Writes(BuildStep):
    """A typical small step: it writes LINES lines in one append, as from a worker's buffer."""

    async def run(self) -> int:
        out = await self.addLog("stdio")
        out.addStdout("".join(LINE.format(number) for number in range(LINES)))
        return SUCCESS


class Appends(BuildStep):
    """Appends `lines` lines at a time and sets the property lines_per_s_LINES to the speed.

    Writes batches, each twice as large as the one before and into a log of its own, until one takes
    MIN_BATCH_S from its first append to the end of finish().
    """

    renderables = ()

    def __init__(self, lines: int, **kwargs: Any) -> None:
        self.lines = lines
        super().__init__(name=f"append{lines}", **kwargs)

    async def run(self) -> int:
        text = "".join(LINE.format(number) for number in range(self.lines))
        appends, took_s = BURST, 0.0
        while took_s < MIN_BATCH_S:
            appends *= 2
            took_s = await self._batch(text, appends)
        name = f"lines_per_s_{self.lines}"
        self.setProperty(name, int(appends * self.lines / took_s), "bench")
        return SUCCESS

    async def _batch(self, text: str, appends: int) -> float:
        out = await self.addLog(f"of{appends}")
        waiting = []
        began = time.monotonic()
        for number in range(appends):
            waiting.append(out.addStdout(text))
            if number % BURST == BURST - 1:
                await task.deferLater(self.master.reactor, 0)
        await defer.gatherResults(waiting)
        await out.finish()
        return time.monotonic() - began
