"""The measures, each taken in a run of its own, on a master that was started for it."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet import defer
from twisted.internet import task

from bench import configuration
from bench.counters import Usage
from bench.counters import covering_syncs
from bench.floor import Statement
from bench.floor import copy
from bench.floor import recorded
from bench.floor import run_again
from bench.http_client import Answer
from bench.http_client import Plan
from bench.http_client import send
from bench.load import Rate
from bench.load import ReactorTurns
from bench.load import full_load
from bench.load import times_of_builds

Figures = dict[str, float | None]

# How many changes, each with a build, the measures `writes` and `idle` send.
CHANGES = 40
IDLE_CHANGES = 20
# Between two changes of `idle`: long enough for a stock master to be idle again.
IDLE_EVERY_S = 1.0
LISTS = {
    "rest_builds_ms": "/api/v2/builds?order=-buildid&limit=20",
    "rest_builders_builds_ms": "/api/v2/builders/1/builds?order=-number&limit=20",
    "rest_buildrequests_ms": "/api/v2/buildrequests?order=-buildrequestid&limit=20",
    "rest_changes_ms": "/api/v2/changes?order=-changeid&limit=20",
}
LIST_REPEATS = 100
CRAWL_PER_S = 50
# The process that crawls takes time to start, and the builds that are measured meanwhile have a
# warm-up; so the crawl begins before the measurement and lasts longer.
CRAWL_STARTS_S = 3.0
CRAWL_LONGER_S = 9.0
# How many times builds are measured without and with the crawl, one right after the other, as the
# speed of a machine drifts.
CRAWLS = 6


@dataclass(frozen=True)
class Run:
    """A started master, and the options of its measurement."""

    master: Any
    web_port: int
    seconds: float
    builders: int
    running_after_s: float
    rss_mb: float


@dataclass(frozen=True)
class Measure:
    """A measure, and what kind of master it needs."""

    take: Callable[[Run], Awaitable[Figures]]
    steps: Callable[[], list[Any]] = configuration.writing
    with_workers: bool = True
    local_workers: bool = False  # LocalWorkers in the master's process
    counted: bool = False  # counters.c is loaded and counts syncs and bytes


async def start(run: Run) -> Figures:
    """The time from the start of the process until the master runs, and its memory in RAM then."""
    return {"start_s": run.running_after_s, "rss_mb": run.rss_mb}


async def builds(run: Run) -> Figures:
    """Full load of builds whose steps run in the master; the workers are in another process."""
    return _speed(await full_load(run.master, run.seconds, builders=run.builders))


async def floor(run: Run) -> Figures:
    """The statements of a full load and their CPU in plain apsw; only for litebot."""
    handle = getattr(run.master.db.pool, "_handle", None)
    if handle is None:
        return {}
    before = Path(run.master.basedir) / "before.sqlite"
    await run.master.db.on_disk()
    copy(handle, before)
    statements: list[Statement] = []
    with recorded(handle, statements):
        await full_load(run.master, run.seconds)
    builds = handle.execute("SELECT count(*) FROM builds").get
    return {
        "statements_per_build": len(statements) / builds,
        "plain_ms_per_build": run_again(before, statements, builds) / builds * 1e3,
    }


async def commands(run: Run) -> Figures:
    """Full load of builds with commands on LocalWorkers."""
    rate = await full_load(run.master, run.seconds)
    return {"command_builds_per_s": rate.builds_per_s}


async def lines(run: Run) -> Figures:
    """Log lines per second, with 100 and with 1 per append, in a single build."""
    finished = times_of_builds(run.master, 1, "finished")
    await send(Plan(run.web_port, 1, changes=True))
    await finished
    properties = await run.master.data.get(("builds", 1, "properties"))
    return {name: value for name, (value, source) in properties.items() if source == "bench"}


async def writes(run: Run) -> Figures:
    """Syncs and bytes per build at full load, then for builds that changes by HTTP start."""
    rate = await full_load(run.master, run.seconds)
    before = Usage.now()
    finished = times_of_builds(run.master, CHANGES, "finished")
    answers = await send(Plan(run.web_port, CHANGES, every_s=0.001, changes=True))
    covered = _share_covered(answers)
    await finished
    changes = Rate(CHANGES, before, Usage.now())
    return {
        "syncs_per_build": rate.syncs_per_build,
        "written_kb_per_build": rate.written_kb_per_build,
        "syncs_per_change_and_build": changes.syncs_per_build,
        "written_kb_per_change_and_build": changes.written_kb_per_build,
        "busy_answers_covered": covered,
    }


async def idle(run: Run) -> Figures:
    """The time from a change on an idle master to the message that its build is in the database."""
    started = times_of_builds(run.master, IDLE_CHANGES, "new")
    finished = times_of_builds(run.master, IDLE_CHANGES, "finished")
    answers = await send(Plan(run.web_port, IDLE_CHANGES, every_s=IDLE_EVERY_S, changes=True))
    covered = _share_covered(answers)
    times = zip(answers, await started, strict=True)
    await finished
    return {
        "change_to_build_ms": statistics.median(at - a.sent_at for a, at in times) * 1e3,
        "change_answer_ms": statistics.median(a.took_s for a in answers) * 1e3,
        "idle_answers_covered": covered,
    }


async def lists(run: Run) -> Figures:
    """The median times of the lists that the web page shows, one at a time on an idle master."""
    plan = Plan(run.web_port, LIST_REPEATS * len(LISTS), tuple(LISTS.values()))
    answers = await send(plan)
    return {
        name: statistics.median(a.took_s for a in answers if a.path == path) * 1e3
        for name, path in LISTS.items()
    }


async def crawled(run: Run) -> Figures:
    """Full load of builds alone, then during CRAWL_PER_S requests per second; CRAWLS times.

    Returns the medians of the figures, but the maximum of the longest turns.
    """
    samples = [await _sample_crawl(run) for _ in range(CRAWLS)]
    figures = {name: statistics.median(each[name] for each in samples) for name in samples[0]}
    return {**figures, "longest_turn_ms": max(each["longest_turn_ms"] for each in samples)}


async def _sample_crawl(run: Run) -> dict[str, float]:
    alone = await full_load(run.master, run.seconds)
    count = int(CRAWL_PER_S * (run.seconds + CRAWL_LONGER_S))
    plan = Plan(run.web_port, count, tuple(LISTS.values()), 1 / CRAWL_PER_S)
    crawl = defer.ensureDeferred(send(plan))
    await task.deferLater(run.master.reactor, CRAWL_STARTS_S)
    turns = ReactorTurns(run.master.reactor)
    turns.start()
    during = await full_load(run.master, run.seconds)
    turns.stop()
    answers = await crawl
    if answers[0].sent_at > during.before.at_s or answers[-1].answered_at < during.after.at_s:
        raise RuntimeError("the crawl did not last as long as the builds measured during it")
    took_s = [a.took_s for a in answers if during.before.at_s < a.sent_at < during.after.at_s]
    return {
        "builds_per_s_alone": alone.builds_per_s,
        "builds_per_s_crawled": during.builds_per_s,
        "crawled_share": during.builds_per_s / alone.builds_per_s,
        "longest_turn_ms": turns.longest_s * 1e3,
        "crawl_answer_ms": statistics.median(took_s) * 1e3,
        "crawl_per_s": len(answers) / (answers[-1].answered_at - answers[0].sent_at),
    }


MEASURES = {
    "start": Measure(start, with_workers=False),
    "builds": Measure(builds),
    "floor": Measure(floor),
    "commands": Measure(commands, configuration.commands, local_workers=True),
    "lines": Measure(lines, configuration.appends),
    "writes": Measure(writes, counted=True),
    "idle": Measure(idle, counted=True),
    "lists": Measure(lists),
    "crawled": Measure(crawled),
}


def _speed(rate: Rate) -> Figures:
    return {"builds_per_s": rate.builds_per_s, "cpu_ms_per_build": rate.cpu_ms_per_build}


def _share_covered(answers: list[Answer]) -> float | None:
    """Return the share of answers during whose wait a sync ended that made something durable.

    Returns None if syncs are not counted.
    """
    syncs = covering_syncs()
    if not syncs:
        return None
    return sum(any(a.sent_at < at < a.answered_at for at in syncs) for a in answers) / len(answers)
