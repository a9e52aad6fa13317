"""Has steps that count warnings keep nothing waiting, whatever a repository or compiler says.

Some of Buildbot's patterns take quadratic or cubic time, on the thread that all builds share: a
line of 2500 spaces in a suppression file takes 12 s.  The patterns in such a file are those of a
repository, and may take for ever: what they suppress is decided in a process of its own, within a
limit of time.
Source: buildbot/steps/shell.py
"""

from __future__ import annotations

import functools
import json
import re
import sys
from itertools import zip_longest
from typing import Any
from typing import NamedTuple

from buildbot.steps.shell import WarningCountingShellCommand
from buildbot.util import runprocess
from twisted.internet import defer

from litebot.master.builds import suppressing

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


# What a class may replace to decide by itself.
DECIDING = ("run", "addSuppression", "warningLogConsumer", "maybeAddWarning")
# For all suppressions and warnings of a step: a thousand of each take a second or two.
SUPPRESSING_S = 20.0


class BoundedWarnings(WarningCountingShellCommand):
    """A step that counts warnings in linear time, and gives its suppressions a limit of time."""

    @defer.inlineCallbacks
    def run(self) -> Any:
        """Run as Buildbot does."""
        for name, linear in LINEAR.items():
            if getattr(self, name) == getattr(WarningCountingShellCommand, name):
                setattr(self, name, linear)
        self._undecided: list[str] = []  # lines with warnings that may be suppressed
        self._asked: list[str] = []  # what another process is asked about them
        return (yield super().run())

    @functools.cached_property
    def _decides_itself(self) -> bool:
        """Whether the class of the step has a way of its own to find and count warnings."""
        theirs: Any = super()
        return any(
            getattr(theirs, name).__func__ is not getattr(WarningCountingShellCommand, name)
            for name in DECIDING
        )

    def addSuppression(self, suppressionList: Any) -> None:
        """Add suppressions as Buildbot does, but compile none here."""
        if self._decides_itself:
            super().addSuppression(suppressionList)
        else:
            self.suppressions.extend(suppressionList)

    def maybeAddWarning(self, warnings: list[str], line: str, match: Any) -> None:
        """Add a warning as Buildbot does, or later if it may be suppressed."""
        if self._decides_itself or not self.suppressions:
            super().maybeAddWarning(warnings, line, match)
            return
        file, number, text = self.warningExtractor(self, line, match)
        if file and self.directoryStack:
            file = "/".join([*self.directoryStack, file])
        self._undecided.append(line)
        self._asked.append(json.dumps([file, number and int(number), text]))

    @defer.inlineCallbacks
    def createSummary(self) -> Any:
        """Do as Buildbot does, when it is decided which warnings are suppressed."""
        if self._undecided:
            yield defer.ensureDeferred(self._decide())
        yield super().createSummary()

    async def _decide(self) -> None:
        suppressions = [
            [_pattern(file), _pattern(text), start, end]
            for file, text, start, end in self.suppressions
        ]
        lines, asked = self._undecided, self._asked
        self._undecided, self._asked = [], []
        try:
            code, decided, said = await runprocess.run_process(
                self.master.reactor,
                [sys.executable, "-I", "-S", suppressing.__file__],
                initial_stdin="\n".join([json.dumps(suppressions), *asked, ""]).encode(),
                runtime_timeout=SUPPRESSING_S,
                sigterm_timeout=None,
            )
        except OSError as error:  # no process can be started
            code, decided, said = 1, b"", str(error).encode()
        is_suppressed = [each == b"1" for each in decided.split()]
        for line, is_out in zip_longest(lines, is_suppressed, fillvalue=False):
            if not is_out:
                self.loggedWarnings.append(line)
                self.warnCount += 1
        late = len(lines) - len(is_suppressed)
        if code or late:
            await self.addCompleteLog(
                "suppressions",
                f"{late} of {len(lines)} warnings are counted as if there were no suppressions:"
                f" {_reason(code, said)}\n",
            )


def _pattern(pattern: Any) -> tuple[str, int] | None:
    """Return the text and the flags of a suppression's part; None if it fits everything."""
    if pattern is None:
        return None
    if isinstance(pattern, str):
        return pattern, 0
    return pattern.pattern, pattern.flags & ~re.DEBUG  # which prints something


def _reason(code: int, said: bytes) -> str:
    """Return why the process has not decided all, in words."""
    if code < 0:
        return (
            f"they took more than {SUPPRESSING_S:.0f} s, or their process was killed. Look for a"
            " pattern with one repetition in another, such as (a+)+"
        )
    return said.decode(errors="replace").strip().rpartition("\n")[2] or f"exit code {code}"
