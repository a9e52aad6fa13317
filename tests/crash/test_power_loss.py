"""Power losses at each point of a store's writes, and at random points of a master's.

LITEBOT_POWER_TIMES multiplies the work, and is the number of ways to lose power at each point.
LITEBOT_POWER_SEED chooses the builds and the ways; the work of a master still differs a little
from run to run.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import pytest

from litebot.store.connection import DURABILITY
from support.commands import LITEBOT
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.killed import Victim
from support.killed import copy_of
from support.master import Master
from support.power import Commits
from support.power import Disk
from support.power import Examiner
from support.power import Outcome
from support.power import fail_everywhere
from support.power import is_all_recorded
from support.power import read_trace
from support.power import recording
from support.power import seed

TIMES = int(os.environ.get("LITEBOT_POWER_TIMES", "1"))
BUILDS = 2 * TIMES
WORK_S = 2.0 * TIMES
POINTS = 300 * TIMES  # at about how many points of a master's record the power fails
TESTS = Path(__file__).parent.parent

pytestmark = pytest.mark.timeout(120 * TIMES**2)


def run_of_the_store(durability: str, template: Path, folder: Path) -> Outcome:
    number = seed()
    basedir = folder / "ci"
    basedir.mkdir()
    state_file = basedir / "state.sqlite"
    shutil.copy(template, state_file)
    disk, commits = Disk(state_file), Commits(state_file)
    trace, recorder = recording(state_file, folder)
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(TESTS / "support" / "store_work.py")]
    arguments = [str(basedir), durability, f"{number}", f"{BUILDS}"]
    env = {**os.environ, **recorder, "PYTHONPATH": path}
    succeeded(run(*command, *arguments, env=env, timeout_s=60 * TIMES))
    examiner = Examiner(folder / "after", commits)
    outcome = fail_everywhere(
        read_trace(trace), disk, examiner, commits, random.Random(number), states=TIMES
    )
    print(f"{durability}: {commits.count} commits, {outcome}")
    assert is_all_recorded(disk, state_file)
    assert outcome.answers > BUILDS
    assert len(outcome.contents) > commits.count / 2
    return outcome


@pytest.mark.parametrize("durability", DURABILITY)
def test_of_what_a_store_acknowledged(durability: str, template: Path, tmp_path: Path) -> None:
    """With "process" the latest work is lost, which also shows that the test detects losses."""
    outcome = run_of_the_store(durability, template, tmp_path)
    assert outcome.unsound == []
    assert bool(outcome.lost) is (durability == "process")


# a whole master

CONFIG = """
from litebot.master.db.sqlite import checkpointer
checkpointer.START_PAGES = 100

builder("quick", shell("for n in 1 2 3 4 5; do echo line $n; sleep 0.01; done"), shell("true"))
c["schedulers"] += [
    SingleBranch("single", change_filter=util.ChangeFilter(branch="a"), builderNames=["quick"]),
    AnyBranch("any", treeStableTimer=0.5, builderNames=["quick"]),
]
"""
CLIENTS = 3


class Client(threading.Thread):
    """Sends changes to the hook, one after the other, each from a port of its own."""

    def __init__(self, victim: Victim, number: int, until: float) -> None:
        super().__init__()
        self.sent: dict[int, str] = {}  # the revision that was sent, by its port
        self._port = victim.ports[0]
        self._number = number
        self._until = until
        self.start()

    def run(self) -> None:
        count = 0
        while time.monotonic() < self._until:
            count += 1
            revision = f"{self._number}-{count}"
            form = {"author": "Ada", "comments": "c", "branch": "ab"[count % 2], "project": "p"}
            body = urlencode({**form, "revision": revision})
            connection = HTTPConnection("127.0.0.1", self._port, timeout=20)
            connection.connect()
            port = connection.sock.getsockname()[1]
            assert port not in self.sent
            self.sent[port] = revision
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/change_hook/base", body, kind)
            assert connection.getresponse().status == 200
            connection.close()
            time.sleep(0.02)


def record_a_master(victim: Victim, variables: dict[str, str]) -> dict[int, str]:
    """Record a master while it works and stops; return the revision sent from each port."""
    command = [LITEBOT, "start", "--foreground", str(victim.basedir)]
    with (victim.basedir / "output").open("wb") as output:
        env = {**os.environ, **variables}
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
    victim.pids.append(process.pid)
    lock = victim.basedir / "master.lock"
    wait_for(lambda: lock.exists() and '"url": "' in lock.read_text(), "the master to answer")
    until = time.monotonic() + WORK_S
    clients = [Client(victim, number, until) for number in range(CLIENTS)]
    for client in clients:
        client.join()
    process.terminate()
    assert process.wait(30) == 0
    return {port: revision for client in clients for port, revision in client.sent.items()}


def run_of_a_master(
    durability: str, created: Master, watch: Callable[[Master], Master], folder: Path
) -> Outcome:
    number = seed()
    victim = copy_of(created, folder / "ci")
    watch(victim)
    victim.write_config(CONFIG)
    victim.set("database", "durability", durability)
    disk, commits = Disk(victim.state_file), Commits(victim.state_file)
    trace, recorder = recording(victim.state_file, folder)
    sent = record_a_master(victim, recorder)
    events = read_trace(trace)
    outcome = fail_everywhere(
        events,
        disk,
        Examiner(folder / "after", commits),
        commits,
        random.Random(number),
        states=TIMES,
        points=POINTS / len(events),
        sent=sent,
        query="SELECT revision FROM changes",
    )
    print(f"{durability}: {len(events)} events, {commits.count} commits, {outcome}")
    assert is_all_recorded(disk, victim.state_file)
    assert outcome.answers == len(sent) > WORK_S
    return outcome


@pytest.mark.parametrize("durability", list(DURABILITY)[: 1 if TIMES == 1 else None])
def test_of_what_a_master_acknowledged(
    durability: str, created: Master, watch: Callable[[Master], Master], tmp_path: Path
) -> None:
    outcome = run_of_a_master(durability, created, watch, tmp_path)
    assert outcome.unsound == []
    assert bool(outcome.lost) is (durability == "process")
