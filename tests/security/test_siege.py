"""All attacks at the same time: builds go on, and an honest visitor is answered."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import nullcontext
from pathlib import Path

import pytest

from bench.configuration import builder_name
from bench.history import load_waiting
from support.attacks import LONGEST_S
from support.attacks import MB
from support.attacks import forget_memory
from support.attacks import memory_bytes
from support.attacks import visits
from support.long_history import load_history
from support.master import Master
from support.timing import require_less

WAITING = 20_000
ROUNDS = 3
SECONDS = float(os.environ.get("LITEBOT_SIEGE_SECONDS", "5"))
ATTACKS = os.environ.get("LITEBOT_SIEGE_ATTACKS", "").split()  # all, if it names none
SETTLING_S = 1.0
# Of what it builds alone in a second of the reactor; the attackers and other tests take some of a
# small machine, and the test alone finds 0.7.
LEAST_SHARE = 0.3
MOST_MB = 150

CONFIG = """
c["collapseRequests"] = False
c["www"] = {"change_hook_dialects": {"base": True}}
c["workers"] = [worker.LocalWorker(name, max_builds=1) for name in ("w0", "w1", "w2", "w3")]
step = steps.SetProperty(property="p", value="v")
c["builders"] = [
    util.BuilderConfig(
        name=%r, workernames=["w0", "w1", "w2", "w3"], factory=util.BuildFactory([step] * 3)
    )
]
c["schedulers"] = [schedulers.ForceScheduler(name="force", builderNames=[%r])]
"""


@pytest.fixture
def busy(master: Master) -> Master:
    """A master with a long history, and many builds to do."""
    load_history(master.state_file)
    load_waiting(master.state_file, WAITING)
    name = builder_name(0)
    master.configure(CONFIG % (name, name))
    master.start()
    return master


@contextmanager
def besieged(master: Master, measured: Callable[[str], None]) -> Iterator[None]:
    command = [sys.executable, "-m", "support.siege", *map(str, master.ports), *ATTACKS]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as siege:
        yield
        measured("attacks: " + ", ".join(siege.communicate()[0].splitlines()))


def reactor_s(master: Master) -> float:
    """Return how much of the processor's time the reactor's thread has had, in seconds."""
    path = Path(f"/proc/{master.pid}/task/{master.pid}/stat")
    fields = path.read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Pace:
    """How many builds begin, in how many seconds and how much of the reactor's time."""

    def __init__(self) -> None:
        self.builds, self.took_s, self.reactor_s = 0, 0.0, 0.0

    def measure(self, master: Master) -> None:
        before = begun(master), time.monotonic(), reactor_s(master)
        time.sleep(SECONDS)
        self.builds += begun(master) - before[0]
        self.took_s += time.monotonic() - before[1]
        self.reactor_s += reactor_s(master) - before[2]

    @property
    def per_reactor_s(self) -> float:
        return self.builds / self.reactor_s

    def __str__(self) -> str:
        return (
            f"{self.builds / self.took_s:.1f} builds/s, {self.per_reactor_s:.1f} in a second of the"
            f" reactor, which had {self.reactor_s / self.took_s:.2f}"
        )


def begun(master: Master) -> int:
    (count,) = master.rows("SELECT max(id) FROM builds")[0]
    assert isinstance(count, int)
    return count


@pytest.mark.timeout(300)
def test_builds_and_visitors_under_all_attacks(
    busy: Master, measured: Callable[[str], None]
) -> None:
    alone, attacked = Pace(), Pace()
    time.sleep(5 * SETTLING_S)
    memory = forget_memory(busy)
    waits: list[float] = []
    for _ in range(ROUNDS):
        for pace in (alone, attacked):
            with besieged(busy, measured) if pace is attacked else nullcontext():
                time.sleep(SETTLING_S)
                with visits(busy) as waited:
                    pace.measure(busy)
            if pace is attacked:
                waits += waited
            time.sleep(SETTLING_S)
    waits.sort()
    measured(f"alone: {alone}; attacked: {attacked}")
    middle, most = waits[len(waits) // 2], waits[int(0.95 * len(waits))]
    measured(f"answers: {middle:.3f} s, 95 % in {most:.3f} s, all in {waits[-1]:.3f} s")
    measured(f"{(memory_bytes(busy) - memory) / 1e6:.0f} MB more; {busy.status()['refused']}")
    assert attacked.per_reactor_s >= LEAST_SHARE * alone.per_reactor_s
    require_less(most, LONGEST_S)
    assert memory_bytes(busy) - memory < MOST_MB * MB
