"""Finds the lines of what a command prints, and keeps long ones whole.

The finder of buildbot_worker loses most of a line from 4096 characters on, and each piece of a line
costs as much as all that came before it.
Source: buildbot_worker/util/lineboundaries.py
"""

from __future__ import annotations

import re

from buildbot_worker.pb import ProtocolCommandPb

LONGEST_CHARS = 64 * 1024 * 1024

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
