"""Measure a master as it grows: python -m bench.growth.  `make bench-history` runs it.

Takes the same measures on an empty master, with a long history, with few and with many waiting
requests, and with many builders, in interleaved rounds.  Prints medians and ratios; writes JSON.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from bench.compare import ROWS
from bench.history import load_builds
from bench.history import load_waiting
from bench.one_run import SECONDS
from bench.one_run import run_in
from bench.one_run import temporary_folder
from bench.report import Row
from bench.report import Samples
from bench.report import console
from bench.report import progress
from bench.report import table
from bench.report import write_json
from bench.variants import LITEBOT
from bench.variants import ONE_LINE
from bench.variants import STATE_FILE
from bench.variants import STOCK
from bench.variants import prepare

FEW_WAITING, MANY_WAITING = 50, 5_000
MANY_BUILDERS = 100


@dataclass(frozen=True)
class Scenario:
    """A master that has grown in one way; `against` is the scenario it is compared with."""

    against: str
    measures: tuple[str, ...]
    history: bool = False
    waiting: int = 0
    builders: int = 1


SCENARIOS = {
    "empty": Scenario("empty", ("start", "builds", "lists")),
    "history": Scenario("empty", ("start", "builds", "lists", "crawled"), history=True),
    "few waiting": Scenario("few waiting", ("builds",), waiting=FEW_WAITING),
    "many waiting": Scenario("few waiting", ("builds",), waiting=MANY_WAITING),
    "many builders": Scenario("empty", ("builds",), builders=MANY_BUILDERS),
}
COMMON = {"builds_per_s", "cpu_ms_per_build", "start_s", "rss_mb"}
GROWTH_ROWS = (
    *(row for row in ROWS if row.figure in COMMON),
    Row("rest_builds_ms", "REST, last 20 builds, p50 ms"),
    Row("rest_builders_builds_ms", "REST, a builder's last 20 builds, p50 ms"),
    Row("rest_buildrequests_ms", "REST, last 20 buildrequests, p50 ms"),
    Row("rest_changes_ms", "REST, last 20 changes, p50 ms"),
    Row("builds_per_s_alone", "builds/s before the crawl"),
    Row("builds_per_s_crawled", "builds/s during the crawl"),
    Row("crawled_share", "builds/s, during over before the crawl"),
    Row("crawl_per_s", "requests/s of the crawl"),
    Row("crawl_answer_ms", "answer to the crawl, p50 ms"),
    Row("longest_turn_ms", "longest reactor turn during the crawl, ms"),
)


def grow(variant: str, scenarios: list[str], builds: int, rounds: int, seconds: float) -> Samples:
    """Run every scenario in each round; the file with history is made once and used in all."""
    samples = Samples()
    with temporary_folder() as name:
        folder = Path(name)
        with_history = folder / "history" / "m"
        if any(SCENARIOS[title].history for title in scenarios):
            prepare(variant, with_history)
            began = time.monotonic()
            load_builds(with_history / STATE_FILE, builds)
            took_s = time.monotonic() - began
            progress.print(f"{variant}: loaded {builds:,} builds in {took_s:.0f} s")
        for number in range(1, rounds + 1):
            for title in scenarios:
                scenario = SCENARIOS[title]
                for measure in scenario.measures:
                    progress.print(f"{variant}, round {number} of {rounds}: {title}, {measure}")
                    basedir = with_history if scenario.history else folder / "empty" / "m"
                    figures = _measure(basedir, variant, measure, scenario, seconds)
                    samples.add(title, figures)
    return samples


def _measure(
    basedir: Path, variant: str, measure: str, scenario: Scenario, seconds: float
) -> dict[str, float | None]:
    if not scenario.history:
        shutil.rmtree(basedir.parent, ignore_errors=True)
        prepare(variant, basedir)
        if scenario.waiting:
            load_waiting(basedir / STATE_FILE, scenario.waiting)
    return run_in(basedir, variant, measure, seconds=seconds, builders=scenario.builders)


def main() -> None:
    """Take the measures that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--builds", type=int, default=1_000_000, help="of history")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each full load")
    parser.add_argument(
        "--variants", nargs="+", choices=(LITEBOT, STOCK, ONE_LINE), default=[LITEBOT]
    )
    parser.add_argument("--json", type=Path, default=Path("bench/results/history.json"))
    options = parser.parse_args()
    against = {name: SCENARIOS[name].against for name in options.scenarios}
    found = {}
    for variant in options.variants:
        samples = grow(variant, options.scenarios, options.builds, options.rounds, options.seconds)
        title = f"{variant}: medians, and their ratios to those of the smaller master"
        console.print(table(title, samples, GROWTH_ROWS, against))
        found[variant] = samples.as_json(against)
    results = {
        "builds": options.builds,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "against": against,
        "figures": found,
    }
    write_json(options.json, results)


if __name__ == "__main__":
    main()
