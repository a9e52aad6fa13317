"""What differs between stock and litebot's store, held against the list of known differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path

import tomlkit
from sides import Result
from sides import Side

# More than this many at once are no flakes; running them again would only take time.
RUN_AGAIN_AT_MOST = 25
SHOWN_AT_MOST = 20
REASON_LINES = 8

BROKEN = {"failed", "error", "unexpected success", "unfinished", "not loaded"}
ABSENT = Result("absent")

Pair = tuple[Result, Result]
RunTests = Callable[[list[str]], tuple[Side, Side]]


@dataclass(frozen=True)
class Known:
    """An entry of the list: the outcomes of one test on stock and on litebot, and why.

    With `only_in` it counts in the suite of this name only.
    """

    test: str
    stock: str
    litebot: str
    reason: str
    only_in: str | None = None


def load_known(path: Path) -> list[Known]:
    """All entries of the list.  Raises TypeError for a missing or an unknown key."""
    listed = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    known = [Known(**entry) for entry in listed.pop("difference", [])]
    for entry in listed.pop("stock_failure", []):
        outcome = entry.pop("outcome", None)
        known.append(Known(stock=outcome, litebot=outcome, **entry))
    if listed:
        raise TypeError(f"{path}: no such section: {', '.join(listed)}")
    return known


class Comparison:
    """Both sides of one suite, test by test, and what the list has for them."""

    def __init__(self, stock: Side, litebot: Side, known: Iterable[Known]) -> None:
        self.stock = stock
        self.litebot = litebot
        self.known = {entry.test: entry for entry in known}
        self.tests = sorted(stock.results.keys() | litebot.results.keys())
        # What the first run of those said that were run again.
        self.first: dict[str, Pair] = {}

    def pair(self, test: str) -> Pair:
        """The results of a test on stock and on litebot."""
        return self.stock.results.get(test, ABSENT), self.litebot.results.get(test, ABSENT)

    def is_expected(self, test: str) -> bool:
        """Whether a test did as listed or, where it is not listed, as well as on stock."""
        stock, litebot = self.pair(test)
        entry = self.known.get(test)
        if entry is not None:
            return (stock.outcome, litebot.outcome) == (entry.stock, entry.litebot)
        return stock.outcome == litebot.outcome and stock.outcome not in BROKEN

    def run_unexpected_again(self, run: RunTests) -> None:
        """Give a test that did not do as expected another chance, without the others around it."""
        again = [test for test in self.tests if not self.is_expected(test)]
        if not 0 < len(again) <= RUN_AGAIN_AT_MOST or self.not_loaded():
            return
        self.first = {test: self.pair(test) for test in again}
        stock, litebot = run(again)
        self.stock = replace(self.stock, results=self.stock.results | stock.results)
        self.litebot = replace(self.litebot, results=self.litebot.results | litebot.results)

    # what is wrong

    def not_loaded(self) -> list[str]:
        """Modules that can't be imported on one side or both: their tests are missing."""
        return [test for test in self.tests if "not loaded" in self._outcomes(test)]

    def unknown_differences(self) -> list[str]:
        """Tests that differ, and not as listed."""
        return [test for test in self._unexpected() if self._differs(test)]

    def broken_on_stock(self) -> list[str]:
        """Tests that fail on stock, and not as listed."""
        return [
            test
            for test in self._unexpected()
            if (outcome := self._outcomes(test)[0]) in BROKEN
            and (test not in self.known or self.known[test].stock != outcome)
        ]

    def stale(self) -> list[str]:
        """Listed tests that are gone, or that no longer differ or fail as listed."""
        return [
            test for test in self.known if not self.is_expected(test) and not self._differs(test)
        ]

    def _unexpected(self) -> list[str]:
        return [test for test in self.tests if not self.is_expected(test)]

    def _differs(self, test: str) -> bool:
        stock, litebot = self._outcomes(test)
        return stock != litebot

    def _outcomes(self, test: str) -> tuple[str, str]:
        stock, litebot = self.pair(test)
        return stock.outcome, litebot.outcome

    # for people

    def table(self, title: str) -> str:
        """Counts of both sides, the known differences, and what was run again."""
        sides = {"stock": self.stock, "litebot": self.litebot}
        counts = {
            name: Counter(result.outcome for result in side.results.values())
            for name, side in sides.items()
        }
        outcomes = sorted({outcome for count in counts.values() for outcome in count})
        head = "".join(f"{word:>{len(word) + 3}}" for word in ("tests", *outcomes, "seconds"))
        lines = [title, " " * 9 + head]
        for name, side in sides.items():
            numbers = {"tests": len(side.results)}
            numbers |= {outcome: counts[name][outcome] for outcome in outcomes}
            numbers["seconds"] = round(side.seconds)
            cells = "".join(f"{number:>{len(word) + 3}}" for word, number in numbers.items())
            lines.append(f"  {name:<7}{cells}")
        for test, (stock, litebot) in self.first.items():
            lines.append(
                f"  run again alone: {test}: {stock.outcome} and {litebot.outcome}, then"
                f" {' and '.join(self._outcomes(test))}"
            )
            lines += [f"      {line}" for line in _last_lines(stock, litebot)]
        lines += [
            f"  known: {self._said_of(test)}" for test in self.known if self.is_expected(test)
        ]
        return "\n".join(lines)

    def explain(self, tests: list[str]) -> str:
        """The outcomes of tests on both sides, and the last lines of what went wrong."""
        lines = []
        for test in tests[:SHOWN_AT_MOST]:
            lines.append(self._said_of(test))
            if test in self.known:
                entry = self.known[test]
                lines.append(f"    listed as {entry.stock} on stock, {entry.litebot} on litebot")
            lines += [f"    {line}" for line in _last_lines(*self.pair(test))]
        if len(tests) > SHOWN_AT_MOST:
            lines.append(f"and {len(tests) - SHOWN_AT_MOST} more")
        return "\n".join(lines)

    def _said_of(self, test: str) -> str:
        stock, litebot = self._outcomes(test)
        return f"{test}: {stock} on stock, {litebot} on litebot"


def _last_lines(*results: Result) -> list[str]:
    lines = []
    for reason in dict.fromkeys(result.reason for result in results):
        said = [line for line in reason.splitlines() if line.strip()]
        lines += said[-REASON_LINES:]
    return lines
