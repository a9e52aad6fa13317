"""What commands say of a master that was killed or stopped, and how it goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator

import pytest

from support.commands import succeeded
from support.master import RETRY
from support.master import SUCCESS
from support.master import Master
from support.master import on_both
from support.waiting import wait_for_waiting_step
from support.waiting import waiting_step

pytestmark = pytest.mark.usefixtures("real_commands")


@on_both
def test_a_build_that_kill_9_interrupts_is_retried_and_status_says_so(master: Master) -> None:
    master.define_builder("slow", waiting_step(master))
    master.start()
    succeeded(master.force("slow", "--no-wait"))
    wait_for_waiting_step(master)
    waiting = int(succeeded(master.force("slow", "--no-wait")).stdout)
    before = master.status()
    assert [b["builder"] for b in before["running_builds"]] == ["slow"]
    assert [r["buildrequestid"] for r in before["pending_requests"]] == [waiting]

    master.kill()
    (master.basedir / "go").touch()  # also for the step, which is a process of its own
    master.start()
    assert master.finished_build("slow", 3)["results"] == SUCCESS
    assert [b["results"] for b in master.builds("slow")] == [RETRY, SUCCESS, SUCCESS]
    (repair,) = master.status()["last_start"]["repairs"]
    assert repair["buildid"] == 1
    assert repair["message"].startswith("build 1 of 'slow' was running when the master died")
    assert repair["message"] in succeeded(master.run("status")).stdout


def test_kill_9_of_an_idle_master_leaves_nothing_to_repair(master: Master) -> None:
    master.start()
    assert master.force("hello").returncode == 0
    before = master.rest("builds")
    master.kill()
    master.start()
    assert master.rest("builds") == before
    assert master.status()["last_start"]["repairs"] == []


@pytest.mark.parametrize("command", ["build", "stop", "status"])
def test_what_the_commands_say_after_a_crash(crashed: Master, command: str) -> None:
    done = crashed.run(command, *(["hello"] if command == "build" else []))
    if command == "build":
        assert done.returncode == 1
        assert f"no master runs in {crashed.basedir}" in done.stderr
        assert f"Try: litebot start {crashed.basedir}" in done.stderr
    elif command == "stop":
        assert (done.returncode, done.stdout) == (0, f"no master runs in {crashed.basedir}\n")
    else:
        assert done.returncode == 3
        assert "ended without a clean stop" in done.stdout


@pytest.fixture(scope="module")
def crashed(created: Master, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    """A basedir whose master was killed."""
    master = Master(tmp_path_factory.mktemp("crashed") / "ci")
    shutil.copytree(created.basedir, master.basedir)
    master.use_free_ports()
    master.start()
    master.kill()
    yield master
    master.end()


@on_both
def test_status_of_a_stopped_master(master: Master) -> None:
    never = master.run("status")
    assert never.returncode == 3
    assert "never started" in never.stdout
    master.start()
    master.stop()
    done = master.run("status", "--json")
    assert done.returncode == 3
    status = json.loads(done.stdout)
    assert (status["running"], status["pid"], status["url"]) == (False, None, None)
    assert status["last_start"]["started_at"] < status["last_start"]["stopped_at"] <= time.time()
