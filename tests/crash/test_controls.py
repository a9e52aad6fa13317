"""Kills after a user was told that a build is stopped, a request cancelled or a worker paused."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.commands import wait_for
from support.killed import Victim
from support.master import CANCELLED
from support.master import SUCCESS
from support.master import on_both
from support.remote import remote_worker

DEAF = """
class Deaf(steps.ShellCommand):
    # A step that does not notice in time that it is to stop.
    def interrupt(self, reason):
        pass


builder("b", Deaf(command="until [ -e {go} ]; do sleep 0.05; done", logEnviron=False))
"""

WORKER = """
class Slow(worker.LocalWorker):
    # A worker that dies before it has done what it is told.
    def pause(self, reason):
        pass

    def unpause(self):
        pass


c["workers"] = [Slow("local")]
builder("b", shell("true"))
"""


@pytest.fixture
def go(tmp_path: Path) -> Path:
    return tmp_path / "go"


def run_deaf_build(victim: Victim, go: Path) -> None:
    victim.write_config(DEAF.format(go=go))
    victim.start()
    victim.ask_for("b")
    wait_for(lambda: victim.rows("SELECT 1 FROM steps WHERE name = 'shell'"), "the step to run")


@on_both
@pytest.mark.parametrize(
    ("path", "action"),
    [("builds/1", "stop"), ("builders/b/builds/1", "stop"), ("buildrequests/1", "cancel")],
)
def test_what_was_to_end_is_not_tried_again(
    victim: Victim, go: Path, path: str, action: str
) -> None:
    run_deaf_build(victim, go)
    assert victim.login().control(path, action, reason="a typo").status == 200
    victim.kill()
    go.touch()
    victim.start()
    victim.await_quiet()
    rows = victim.rows("SELECT results, state_string FROM builds")
    assert rows == [(CANCELLED, "the master died; cancelled (a typo)")]
    for table in ("buildrequests", "buildsets"):
        assert victim.rows(f"SELECT results FROM {table}") == [(CANCELLED,)]
    assert victim.repairs() == ["cancelled request", "build of a cancelled request"]
    assert victim.rows("SELECT * FROM litebot_told") == []


def test_what_was_to_end_is_not_tried_again_after_a_stop(victim: Victim, go: Path) -> None:
    run_deaf_build(victim, go)
    assert victim.login().control("builds/1", "stop", reason="a typo").status == 200
    victim.stop()
    go.touch()
    victim.start()
    victim.await_quiet()
    assert victim.rows("SELECT results FROM buildrequests") == [(CANCELLED,)]
    assert victim.rows("SELECT count(*) FROM builds") == [(1,)]


@on_both
def test_a_request_is_cancelled_that_nobody_has_begun(victim: Victim) -> None:
    victim.write_config('builder("b", shell("true"))\nc["builders"][0].workernames[:] = []\n')
    victim.start_to_die("db.buildrequests.claimBuildRequests:1")
    victim.ask_for("b")
    with suppress(OSError):
        victim.login().control("buildrequests/1", "cancel", reason="a typo")
    victim.await_death()
    assert victim.rows("SELECT complete FROM buildrequests") == [(0,)]
    victim.start()
    victim.await_quiet()
    assert victim.rows("SELECT results FROM buildrequests") == [(CANCELLED,)]
    assert victim.repairs() == ["cancelled request"]


def test_what_ended_before_it_could_stop_keeps_its_result(victim: Victim, go: Path) -> None:
    run_deaf_build(victim, go)
    go.touch()
    victim.await_quiet()
    admin = victim.login()
    for path, action in (("builds/1", "stop"), ("buildrequests/1", "cancel")):
        assert admin.control(path, action, reason="late").status == 200
    victim.kill()
    victim.start()
    assert victim.rows("SELECT results FROM buildrequests") == [(SUCCESS,)]
    assert victim.repairs() == []


@on_both
def test_a_worker_stays_paused_and_is_used_again_when_told_so(victim: Victim) -> None:
    victim.write_config(WORKER)
    victim.start()
    assert victim.login().control("workers/1", "pause", reason="hot").status == 200
    victim.kill()
    victim.start()
    (local,) = victim.rest("workers")["workers"]
    assert local["paused"]
    brid = victim.ask_for("b")
    assert victim.login().control("workers/1", "unpause").status == 200
    assert victim.rows("SELECT * FROM buildrequest_claims") == []
    victim.kill()
    victim.start()
    victim.await_quiet()
    assert victim.rows("SELECT id, results FROM buildrequests") == [(brid, SUCCESS)]


@pytest.fixture
def remote(victim: Victim, go: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, for a running master with a long build."""
    victim.write_config(
        f"""
        c["workers"] = [worker.Worker("remote", "workerpw")]
        builder("b", shell("until [ -e {go} ]; do sleep 0.05; done"))
        c["builders"][0].workernames[:] = ["remote"]
        """
    )
    victim.start()
    with remote_worker(tmp_path / "remote", f"127.0.0.1:{victim.ports[1]}") as process:
        yield process


def test_a_worker_that_was_to_stop_is_told_again(
    victim: Victim, go: Path, remote: subprocess.Popen[bytes]
) -> None:
    victim.ask_for("b")
    wait_for(lambda: victim.rows("SELECT 1 FROM steps WHERE name = 'shell'"), "the step to run")
    assert victim.login().control("workers/1", "stop", reason="too old").status == 200
    victim.kill()
    go.touch()
    victim.start()
    wait_for(lambda: remote.poll() is not None, "the worker to end", 60)
    wait_for(lambda: not victim.rows("SELECT * FROM litebot_told"), "that to be noted")


@on_both
def test_a_scheduler_stays_as_it_was_switched(victim: Victim) -> None:
    victim.write_config('builder("b", shell("true"))')
    victim.start()
    assert victim.login().control("schedulers/1", "enable", enabled=False).status == 200
    victim.kill()
    victim.start()
    (scheduler,) = victim.rest("schedulers")["schedulers"]
    assert not scheduler["enabled"]
