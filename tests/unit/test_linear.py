"""What replaces a slow pattern of Buildbot's finds the same, in linear time."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable

import pytest
from buildbot.process.log import StreamLog
from buildbot.steps.shell import WarningCountingShellCommand as Stock
from buildbot_worker.util.lineboundaries import LineBoundaryFinder

from litebot.master.builds.warnings import LINEAR
from litebot.master.builds.whole_lines import LINE_STARTS
from litebot.master.builds.whole_lines import LineFinder
from support.timing import require_less

SUPPRESSION, ENTERS, LEAVES = LINEAR.values()


def test_suppression_lines_are_read_as_buildbot_reads_them() -> None:
    for length in range(8):
        for characters in itertools.product("a :1-" if length < 7 else "a :1", repeat=length):
            line = "".join(characters)
            theirs = Stock.suppressionLineRe.match(line)
            ours = SUPPRESSION.match(line)
            assert (ours and ours.groups()) == (theirs and theirs.groups()), line


@pytest.mark.parametrize("begin", ["", "make[1]", "xmake", "mak"])
def test_directories_are_read_as_buildbot_reads_them(begin: str) -> None:
    parts = [": Entering directory `", ": Leaving directory", "make", "'", "a"]
    for picked in itertools.product(parts, repeat=4):
        line = begin + "".join(picked)
        theirs = re.search(Stock.directoryEnterPattern, line)
        ours = ENTERS.search(line)
        assert (ours and ours.group(1)) == (theirs and theirs.group(1)), line
        assert bool(LEAVES.search(line)) == bool(re.search(Stock.directoryLeavePattern, line))


@pytest.mark.parametrize(
    ("run", "unit"),
    [
        (SUPPRESSION.match, " "),
        (SUPPRESSION.match, ":"),
        (SUPPRESSION.match, "a: "),
        (SUPPRESSION.match, "1"),
        (ENTERS.search, "make"),
        (ENTERS.search, "make: Entering directory '"),
        (LEAVES.search, "make: Leaving directo"),
    ],
)
def test_a_long_line_takes_little_time(run: Callable[[str], object], unit: str) -> None:
    started = time.perf_counter()
    run(unit * (400_000 // len(unit)) + "x")
    require_less(time.perf_counter() - started, 0.25)


def test_lines_are_found_as_buildbot_finds_short_ones() -> None:
    pieces = ["a", "\r", "\n", "\033[", "2J", "\b"]
    for picked in itertools.product(pieces, repeat=5):
        theirs = LineBoundaryFinder(4096, r"(\r\n|\r(?=.)|\033\[u|\033\[2J|\x08+)")
        ours = LineFinder()
        said: list[list[str]] = [[], []]
        for text, finder in itertools.product((*picked, None), (theirs, ours)):
            info = finder.flush() if text is None else finder.append(text, 1.0)
            said[finder is ours].append(info[0] if info else "")
        assert "".join(said[0]) == "".join(said[1]), picked


def test_a_line_of_64_mb_in_small_pieces_takes_linear_time() -> None:
    finder = LineFinder()
    started = time.perf_counter()
    for number in range(8000):
        assert finder.append("x" * 8192, float(number)) is None
    info = finder.append("\n", 9.0)
    assert info is not None
    assert (len(info[0]), info[1], info[2]) == (8000 * 8192 + 1, [8000 * 8192], [0.0])
    require_less(time.perf_counter() - started, 5)


def test_letters_are_put_before_lines_as_buildbot_does() -> None:
    for pieces in itertools.product(["a", "\n", "\r", "é"], repeat=5):
        lines = "".join(pieces) + "\n"
        assert LINE_STARTS.sub("o", lines) == StreamLog.pat.sub("o", lines)
