"""Kills busy masters at random points while changes come, then checks their history.

LITEBOT_CRASH_KILLS is the number of kills; LITEBOT_CRASH_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from support.commands import LITEBOT
from support.commands import begin
from support.commands import is_running
from support.commands import wait_for
from support.history import faults
from support.killed import Victim
from support.killed import joined
from support.master import Master
from support.master import on_both

KILLS = int(os.environ.get("LITEBOT_CRASH_KILLS", "4"))
SEED = int(os.environ.get("LITEBOT_CRASH_SEED") or random.SystemRandom().randrange(10**6))

# How many pieces of database work a master does before it is killed: from the first of its start
# to some seconds of work.
LEAST, MOST = 1, 2000
ROUND_S = 20.0
PAUSE_S = 0.2
STUCK_S = 30.0

CONFIG = """
c["caches"] = {"Changes": 1, "chdicts": 1}

reporter("pusher", reporters.BuildStatusGenerator(mode="all"))
lines = shell("for n in 1 2 3 4 5 6 7 8; do echo line $n; sleep 0.01; done")
builder("quick", lines)
builder("child", lines)
builder("parent", shell("true"), steps.Trigger(schedulerNames=["t"], waitForFinish=True))
on_main = util.ChangeFilter(branch="main")
single = SingleBranch("single", change_filter=on_main, builderNames=["quick"])
c["schedulers"] += [
    single,
    SingleBranch("stable", change_filter=on_main, treeStableTimer=0.5, builderNames=["parent"]),
    AnyBranch("any", treeStableTimer=0.5, builderNames=["quick"]),
    Periodic("timed", periodicBuildTimer=2, onlyIfChanged=True, builderNames=["quick"]),
    schedulers.Dependent("after", upstream=single, builderNames=["quick"]),
    schedulers.Triggerable("t", builderNames=["child"]),
]
"""

WANTS = {"single": "main", "stable": "main", "any": "%", "timed": "%"}


@pytest.fixture
def victim(victim: Victim) -> Victim:
    settings = victim.basedir / "litebot.toml"
    text = re.sub(r"(?m)^max_attempts = 3$", "max_attempts = 1000", settings.read_text())
    settings.write_text(text)
    victim.write_config(CONFIG)
    victim.reported.touch()
    return victim


WAITING = "SELECT count(*) FROM buildrequests WHERE complete = 0"
MANY = 12


class Committers(threading.Thread):
    """Sends changes, each once and to a random master, until stopped."""

    def __init__(self, victims: Sequence[Victim], rng: random.Random) -> None:
        super().__init__()
        self.acknowledged: list[str] = []
        self._victims = victims
        self._rng = rng
        self._stop_asked = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._stop_asked.wait(self._rng.random() * 2 * PAUSE_S):
            victim = self._rng.choice(self._victims)
            if victim.rows(WAITING)[0][0] > MANY:
                continue  # a master that is killed often builds little
            number += 1
            branch = self._rng.choice(["main", "main", "a", "b"])
            try:
                status = victim.change(branch=branch, revision=str(number))
            except OSError:
                continue  # no master runs, or it has died: the change may be stored or not
            if status == 200:
                self.acknowledged.append(str(number))

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


@on_both
@pytest.mark.timeout(120 + 60 * KILLS)
def test_nothing_is_lost_doubled_or_stuck(victim: Victim) -> None:
    print(f"LITEBOT_CRASH_SEED={SEED} LITEBOT_CRASH_KILLS={KILLS}")
    rng = random.Random(SEED)
    committers = Committers([victim], random.Random(SEED + 1))
    committers.start()
    try:
        for _ in range(KILLS):
            victim.start_to_die(f"db.pool.do:{rng.randint(LEAST, MOST)}")
            if victim.pids and is_running(victim.pid):
                await_end(victim)
        victim.start()
    finally:
        committers.stop()
    await_rest(victim)
    print(f"{len(committers.acknowledged)} acknowledged changes")
    assert faults(victim, committers.acknowledged, WANTS) == []


@pytest.fixture
def victims(victim: Victim, watch: Callable[[Master], Master], tmp_path: Path) -> list[Victim]:
    """Three masters that share a database and the file to which their reporters write."""
    victim.configure(f"REPORTED = {str(victim.reported)!r}")
    others = [joined(victim, tmp_path / name) for name in ("ci2", "ci3")]
    for other in others:
        watch(other)
    return [victim, *others]


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
@pytest.mark.timeout(180 + 60 * KILLS)
def test_several_masters_lose_and_double_nothing(victims: list[Victim]) -> None:
    print(f"LITEBOT_CRASH_SEED={SEED} LITEBOT_CRASH_KILLS={KILLS}")
    rng = random.Random(SEED)
    committers = Committers(victims, random.Random(SEED + 1))
    for victim in victims:
        victim.start()
    committers.start()
    try:
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.5, 4))
            victim = rng.choice(victims)
            end(victim, rng)
            time.sleep(rng.choice([0, rng.uniform(0, 6)]))  # the others may take over
            victim.start()
    finally:
        committers.stop()
    await_rest(victims[0])
    print(f"{len(committers.acknowledged)} acknowledged changes")
    assert faults(victims[0], committers.acknowledged, WANTS) == []


def end(victim: Victim, rng: random.Random) -> None:
    """Kill a master, stop it, or kill it while it stops."""
    how = rng.choice(["kill", "kill", "stop", "both"])
    if how == "kill":
        victim.kill()
        return
    with begin(LITEBOT, "stop", victim.basedir):
        if how == "both":
            time.sleep(rng.uniform(0.3, 1.5))
            with suppress(ProcessLookupError):
                os.kill(victim.pid, signal.SIGKILL)
    wait_for(lambda: not is_running(victim.pid), "its end")


def await_end(victim: Victim) -> None:
    """Wait up to ROUND_S until a master has killed itself; then kill it."""
    try:
        wait_for(lambda: not is_running(victim.pid), "its end", ROUND_S)
    except pytest.fail.Exception:
        victim.kill()


UNDONE = """
SELECT (SELECT count(*) FROM buildrequests WHERE complete = 0),
       (SELECT count(*) FROM buildsets WHERE complete = 0),
       (SELECT count(*) FROM builds WHERE complete_at IS NULL),
       (SELECT count(*) FROM scheduler_changes),
       (SELECT count(*) FROM litebot_subscriptions),
       (SELECT count(*) FROM litebot_outbox),
       (SELECT count(*) FROM litebot_handovers WHERE changeid < (SELECT max(changeid) FROM changes))
"""


def await_rest(victim: Victim) -> None:
    """Wait until no work is left; fails if nothing changes for STUCK_S."""
    (undone,) = victim.rows(UNDONE)
    while any(undone):
        before = undone

        def moves(before: tuple[int, ...] = before) -> bool:
            return victim.rows(UNDONE) != [before]

        wait_for(moves, f"anything of {before} to be done", STUCK_S)
        (undone,) = victim.rows(UNDONE)
