"""Compare litebot with stock Buildbot: python -m bench.compare [--short].  `make bench` runs it.

Each round runs every measure on every variant, one right after the other, so that other load of the
machine affects all of them.  Prints medians and their ratios to stock, and writes JSON.
--short is for CI: one measure, only stock and litebot, and exit status 1 if litebot is too slow.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import postgres
from bench.one_run import SECONDS
from bench.one_run import run_in_new_basedir
from bench.report import Row
from bench.report import Samples
from bench.report import console
from bench.report import progress
from bench.report import table
from bench.report import write_json
from bench.variants import LITEBOT
from bench.variants import STOCK
from bench.variants import VARIANTS
from bench.variants import reason_to_skip

# The limits of `make bench-short`, as ratios of litebot to stock.
LEAST_BUILDS_PER_S = 8.0
MOST_CPU_PER_BUILD = 1 / 7

# Stock needs a few seconds for its warm-up and for a handful of builds.
SHORT_SECONDS = 6.0

COMPARED_MEASURES = ("builds", "floor", "commands", "lines", "writes", "idle", "start")
ROWS = (
    Row("builds_per_s", "builds/s"),
    Row("cpu_ms_per_build", "master CPU, ms a build"),
    Row("statements_per_build", "statements a build"),
    Row("plain_ms_per_build", "CPU of these in plain apsw, ms a build"),
    Row("command_builds_per_s", "builds/s, commands on LocalWorkers"),
    Row("lines_per_s_100", "log lines/s, 100 an append"),
    Row("lines_per_s_1", "log lines/s, 1 an append"),
    Row("syncs_per_build", "fsyncs a build"),
    Row("written_kb_per_build", "kB written a build"),
    Row("syncs_per_change_and_build", "fsyncs a change and its build"),
    Row("written_kb_per_change_and_build", "kB written a change and its build"),
    Row("busy_answers_covered", "share of answers synced, busy"),
    Row("idle_answers_covered", "share of answers synced, idle"),
    Row("change_answer_ms", "change answered, idle, ms"),
    Row("change_to_build_ms", "change to build started, idle, ms"),
    Row("start_s", "start to running, s"),
    Row("rss_mb", "memory after start, MB"),
)


def compare(variants: list[str], measures: list[str], rounds: int, seconds: float) -> Samples:
    """Run every measure on every variant in each round, and return the samples."""
    samples = Samples()
    for number in range(1, rounds + 1):
        for measure in measures:
            for variant in variants:
                progress.print(f"round {number} of {rounds}: {measure}, {variant}")
                samples.add(variant, run_in_new_basedir(variant, measure, seconds=seconds))
    return samples


def missed_limits(samples: Samples, min_builds_ratio: float, max_cpu_ratio: float) -> list[str]:
    """Return a sentence for each limit that litebot misses."""
    speed = samples.ratio(LITEBOT, "builds_per_s", STOCK) or 0.0
    cpu = samples.ratio(LITEBOT, "cpu_ms_per_build", STOCK) or 1.0
    missed = []
    if speed < min_builds_ratio:
        missed.append(
            f"builds/s are {speed:.2f} times stock's; it must be at least {min_builds_ratio:g}"
        )
    if cpu > max_cpu_ratio:
        missed.append(
            f"CPU per build is {cpu:.3f} times stock's; it must be at most {max_cpu_ratio:.3f}"
        )
    return missed


def main() -> None:
    """Run the comparison that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="for CI: fail if litebot is too slow")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="of each full load")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--measures", nargs="+", choices=COMPARED_MEASURES, default=list(COMPARED_MEASURES)
    )
    parser.add_argument("--least-builds-per-s", type=float, default=LEAST_BUILDS_PER_S)
    parser.add_argument("--most-cpu-per-build", type=float, default=MOST_CPU_PER_BUILD)
    parser.add_argument("--json", type=Path, default=Path("bench/results/bench.json"))
    options = parser.parse_args()
    if options.short:
        options.variants, options.measures = [STOCK, LITEBOT], ["builds"]
    seconds = options.seconds or (SHORT_SECONDS if options.short else SECONDS)
    skipped = {name: why for name in options.variants if (why := reason_to_skip(name))}
    variants = [name for name in options.variants if name not in skipped]
    against = dict.fromkeys(variants, STOCK)
    with postgres.server():
        samples = compare(variants, options.measures, options.rounds, seconds)
    console.print(table("Medians, and their ratios to stock's", samples, ROWS, against))
    for name, why in skipped.items():
        console.print(f"{name} skipped: {why}")
    results = {
        "rounds": options.rounds,
        "seconds": seconds,
        "variants": {name: VARIANTS[name] for name in variants},
        "skipped": skipped,
        "figures": samples.as_json(against),
    }
    write_json(options.json, results)
    if options.short:
        missed = missed_limits(samples, options.least_builds_per_s, options.most_cpu_per_build)
        sys.exit("\n".join(missed) or 0)


if __name__ == "__main__":
    main()
