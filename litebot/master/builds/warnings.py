"""Has steps that count warnings take linear time, whatever a repository or a compiler says.

Some of Buildbot's patterns take quadratic or cubic time, on the thread that all builds share: a
line of 2500 spaces in a suppression file takes 12 s.
Source: buildbot/steps/shell.py
"""

from __future__ import annotations

import re
from typing import Any
from typing import NamedTuple

from buildbot.steps.shell import WarningCountingShellCommand
from twisted.internet import defer

NUMBERS = re.compile(r"\s*([0-9]+)(?:-([0-9]+))?")
QUOTES = "\u2019\"`'"
ENTERING = re.compile(f": Entering directory [{QUOTES}]")


class Groups(NamedTuple):
    """What a pattern has found."""

    found: tuple[str | None, ...]

    def groups(self) -> tuple[str | None, ...]:
        return self.found

    def group(self, number: int) -> str | None:
        return self.found[number - 1]


class SuppressionLine:
    """Does what Buildbot's `suppressionLineRe` does: FILE : TEXT, or FILE : TEXT : START-END."""

    def match(self, line: str) -> Groups | None:
        r"""Return the groups of ^\s*(.+?)\s*:\s*(.+?)\s*(?:[:]\s*([0-9]+)(?:-([0-9]+))?\s*)?$"""
        start = len(line) - len(line.lstrip())
        at = line.find(":", start + 1)
        if at < 0 or at == len(line) - 1:  # only a space before the first colon can be the file
            if not (start and line[start : start + 1] == ":"):
                return None
            start, at = start - 1, start
        file, rest = line[start:at], line[at + 1 :]
        if not rest:
            return None
        name = file.rstrip() or file
        text, _, numbers = rest.rstrip().rpartition(":")
        found = NUMBERS.fullmatch(numbers)
        if found and text.strip():
            return Groups((name, text.strip(), *found.groups()))
        return Groups((name, rest.strip() or rest[-1], None, None))


class MakeEnters:
    """Does what Buildbot's `directoryEnterPattern` does."""

    def search(self, line: str) -> Groups | None:
        """Return the directory that make enters, in quotes, or None."""
        begin = line.find("make")
        last_quote = max(map(line.rfind, QUOTES))
        if begin < 0 or last_quote < 0:
            return None
        ends = [m.end() for m in ENTERING.finditer(line, begin + 4) if m.end() <= last_quote]
        return Groups((line[ends[-1] : last_quote],)) if ends else None


class MakeLeaves:
    """Does what Buildbot's `directoryLeavePattern` does."""

    def search(self, line: str) -> bool:
        """Return whether make leaves a directory."""
        begin = line.find("make")
        return begin >= 0 and line.find(": Leaving directory", begin + 4) >= 0


LINEAR: dict[str, Any] = {
    "suppressionLineRe": SuppressionLine(),
    "directoryEnterPattern": MakeEnters(),
    "directoryLeavePattern": MakeLeaves(),
}


class LinearWarnings(WarningCountingShellCommand):
    """A step that counts warnings, with patterns of linear time in the place of Buildbot's own."""

    @defer.inlineCallbacks
    def run(self) -> Any:
        """Run as Buildbot does."""
        for name, linear in LINEAR.items():
            if getattr(self, name) == getattr(WarningCountingShellCommand, name):
                setattr(self, name, linear)
        return (yield super().run())
