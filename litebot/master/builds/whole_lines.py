"""Keeps long lines of what a command prints whole, or says in the log how much is lost.

The finder of lines in buildbot_worker cuts a line that is too long, and sends empty lines for most
of it.  Each piece of a line costs it as much as all that came before.  So a LocalWorker has a
finder of litebot's; a worker over WebSocket is told to cut late; of one over PB, which can't be
told, the log says how much it has lost at least.
Source: buildbot_worker/util/lineboundaries.py
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from buildbot.process.remotecommand import RemoteCommand
from buildbot.util.twisted import async_to_deferred
from buildbot_worker.pb import ProtocolCommandPb

LONGEST_CHARS = 64 * 1024 * 1024
# A worker reads 8192 bytes at a time, and looks each time through all of a line that has not ended:
# that is a third of a second of its processor for a line that is as long as this.
LONGEST_OVER_WEBSOCKET = 256 * 1024
# A worker over PB sends so many characters of a line that it cuts, if the line begins what it has
# read, and an empty line for each further piece of this size.
KEPT_OVER_PB = 4095

# What ends a line beside "\n": as in Buildbot, also sequences that move the cursor.
ENDS = re.compile(r"\r\n|\r|\033\[u|\033\[[0-9]+;[0-9]+[Hf]|\033\[2J|\x08+")
# The beginning of one of these, of which the rest may come later.
MAY_BE_AN_END = re.compile(r"(?:\r|\033(?:\[[0-9;]{0,11})?)\Z")
LONGEST_END = 16

# Lines that end with "\n", the places of these, and the time at which each line began to come.
LineInfo = tuple[str, list[int], list[float]]


class LineFinder:
    """Joins pieces of text into lines; cuts one after LONGEST_CHARS, and loses nothing."""

    def __init__(self) -> None:
        self._pieces: list[str] = []  # of the line that has not ended
        self._size = 0
        self._undecided = ""  # the end of the last piece, if it may be the beginning of an end
        self._begun_at = 0.0

    def append(self, text: str, time: float) -> LineInfo | None:
        """Return the lines that are complete now, or None."""
        text = self._undecided + text
        found = MAY_BE_AN_END.search(text, max(0, len(text) - LONGEST_END))
        cut = found.start() if found else len(text)
        self._undecided = text[cut:]
        text = text[:cut]
        if "\r" in text or "\033" in text or "\b" in text:  # to look is faster than the pattern
            text = ENDS.sub("\n", text)
        if self._size + len(text) > LONGEST_CHARS and "\n" not in text:
            text += "\n"
        if not self._pieces:
            self._begun_at = time
        end = text.rfind("\n") + 1
        if not end:
            self._keep(text)
            return None
        whole = "".join([*self._pieces, text[:end]])
        places = [match.start() for match in re.finditer("\n", whole)]
        times = [self._begun_at, *[time] * (len(places) - 1)]
        self._pieces, self._size, self._begun_at = [], 0, time
        self._keep(text[end:])
        return whole, places, times

    def _keep(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._size += len(text)

    def flush(self) -> LineInfo | None:
        """Return the last line with an end, if it has none."""
        if not self._pieces and not self._undecided:
            return None
        return self.append("\n", self._begun_at)


class ProtocolCommand(ProtocolCommandPb):
    """A command of a LocalWorker, whose long lines are kept whole."""

    def split_lines(self, stream: str, text: str, text_time: float) -> LineInfo | None:
        """Return the lines of a stream that are complete now, or None."""
        if stream not in self._lbfs:
            self._lbfs[stream] = LineFinder()
        found: LineInfo | None = self._lbfs[stream].append(text, text_time)
        return found


class LineStarts:
    """Does what Buildbot's pattern `^` does, by which each line gets the letter of its stream."""

    def sub(self, letter: str, lines: str) -> str:
        """Return lines with a letter at the start of each, and one more at the end."""
        if lines.find("\n") == len(lines) - 1:  # a copy of a line of 64 MB takes 70 ms
            return f"{letter}{lines}{letter}"
        return letter + lines.replace("\n", f"\n{letter}")


LINE_STARTS = LineStarts()


class FoundLines(RemoteCommand):
    """Put before the class of a command on a LocalWorker, whose lines need not be found again.

    Buildbot's pattern takes a second for 12 MB.
    """

    def split_line(self, stream: str, text: str) -> str | None:
        """Return the lines, as they were found by a LineFinder."""
        return text


CUT_LINES = re.compile(rf"(?:^|(?<=\n))[^\n]{{{KEPT_OVER_PB}}}\n(\n*)")


class CutLines(RemoteCommand):
    """Put before the class of a command on a worker over PB, to say what the worker has cut."""

    _cut: Counter[str] | None = None  # by stream, in pieces

    def split_line(self, stream: str, text: str) -> str | None:
        """Do as Buildbot does, and note which lines were cut."""
        if len(text) > KEPT_OVER_PB and (pieces := sum(map(len, CUT_LINES.findall(text)))):
            self._cut = self._cut or Counter()
            self._cut[stream] += pieces
        return super().split_line(stream, text)

    @async_to_deferred
    async def remoteComplete(self, maybeFailure: Any) -> None:
        """Do as Buildbot does, and say first what was cut."""
        for stream, pieces in (self._cut or {}).items():
            await self.remoteUpdate(
                "header",
                f"litebot: the worker has cut lines of {stream} that are longer than"
                f" {KEPT_OVER_PB} characters, and lost at least {pieces * KEPT_OVER_PB}; a worker"
                " over WebSocket keeps longer ones (docs/guide/workers.md)\n",
                False,
            )
        await super().remoteComplete(maybeFailure)
