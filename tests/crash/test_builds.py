"""Kills while builds start, run and end: no build is lost, repeated in vain or stuck."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.commands import is_running
from support.commands import succeeded
from support.commands import wait_for
from support.killed import Victim
from support.master import CANCELLED
from support.master import EXCEPTION
from support.master import RETRY
from support.master import SUCCESS
from support.master import on_both

OPEN = "SELECT 1 FROM builds WHERE complete_at IS NULL"
HELD = (
    "SELECT 1 FROM buildrequests r JOIN buildrequest_claims c ON c.brid = r.id WHERE r.complete = 0"
)


def results(victim: Victim, table: str) -> list[int | None]:
    return [row[0] for row in victim.rows(f"SELECT results FROM {table} ORDER BY id")]


@on_both
def test_the_result_of_a_build_that_had_ended_counts(victim: Victim) -> None:
    victim.write_config('builder("b", shell("true"))')
    victim.start_to_die("db.builds.finishBuild:1")
    victim.ask_for("b")
    victim.await_death()
    assert victim.rows("SELECT complete FROM buildrequests") == [(0,)]
    victim.start()
    victim.await_quiet()
    assert results(victim, "builds") == results(victim, "buildrequests") == [SUCCESS]
    assert victim.repairs() == ["finished build"]
    page = f"http://127.0.0.1:{victim.ports[0]}/#/builders/1/builds/1"
    assert f"its result counts  {page}\n" in victim.run("status").stdout


@on_both
@pytest.mark.parametrize("left", ["by litebot", "by Buildbot"])
def test_a_buildset_is_completed_and_its_dependents_see_it(victim: Victim, left: str) -> None:
    victim.write_config(
        """
        builder("b", shell("true"))
        builder("after", shell("true"))
        first = schedulers.SingleBranchScheduler(
            "first", change_filter=util.ChangeFilter(branch="main"), builderNames=["b"]
        )
        c["schedulers"] += [
            first,
            schedulers.Dependent("second", upstream=first, builderNames=["after"]),
        ]
        """
    )
    victim.start_to_die("db.buildrequests.complete:1")
    assert victim.change(branch="main", revision="1") == 200
    victim.await_death()
    # The transaction that completes the last request also completes the buildset; in stock Buildbot
    # it does not.
    assert victim.rows("SELECT complete FROM buildsets") == [(1,)]
    if left == "by Buildbot":
        victim.execute("UPDATE buildsets SET complete = 0, results = -1, complete_at = NULL")
    victim.start()
    wait_for(lambda: len(results(victim, "buildsets")) == 2, "the dependent scheduler to act")
    victim.await_quiet()
    assert results(victim, "buildsets") == results(victim, "builds") == [SUCCESS, SUCCESS]
    assert victim.repairs() == (["open buildset"] if left == "by Buildbot" else [])


@on_both
def test_lines_that_are_stored_are_shown(victim: Victim) -> None:
    victim.write_config('builder("b", shell("seq 500; sleep 60"))')
    victim.start_to_die("db.logs._write_all:1")
    victim.ask_for("b")
    victim.await_death()
    stored = "SELECT sum(last_line - first_line + 1) FROM logchunks WHERE logid = logs.id"
    ((shown, lines),) = victim.rows(f"SELECT num_lines, ({stored}) FROM logs WHERE name = 'stdio'")
    assert shown == lines >= 500


@on_both
def test_kills_during_start_leave_no_zombies(victim: Victim, tmp_path: Path) -> None:
    go = tmp_path / "go"
    victim.write_config(f'builder("b", shell("until [ -e {go} ]; do sleep 0.05; done"))')
    victim.start()
    victim.ask_for("b")
    wait_for(lambda: victim.rows(OPEN), "the build to run")
    victim.kill()
    for point in ("db.masters.setMasterState:1", *(f"db.pool.do:{n}" for n in range(1, 6))):
        assert victim.start_to_die(point).returncode != 0
    go.touch()
    victim.start()
    victim.await_quiet()
    assert results(victim, "builds") == [RETRY, SUCCESS]
    assert victim.rows(OPEN) == victim.rows(HELD) == []


@on_both
def test_a_claimed_request_whose_build_had_not_started_is_built(victim: Victim) -> None:
    victim.write_config('builder("b", shell("true"))')
    victim.start_to_die("db.buildrequests.claimBuildRequests:1")
    victim.ask_for("b")
    victim.await_death()
    assert victim.rows(HELD)
    assert victim.start_to_die("db.masters.setMasterState:1").returncode != 0
    victim.start()
    victim.await_quiet()
    assert results(victim, "builds") == [SUCCESS]


@on_both
def test_a_build_that_kills_its_master_is_given_up(victim: Victim) -> None:
    # The worker runs in the master's process, so the parent of a step's shell is the master.
    victim.write_config('builder("b", shell("echo attempt; kill -9 $PPID"))')
    victim.start_to_die("db.pool.do:1000000")
    victim.ask_for("b")
    victim.await_death()
    for _ in range(2):
        victim.start_to_die("db.pool.do:1000000")
        victim.await_death()
    victim.start()
    victim.await_quiet()
    assert results(victim, "builds") == [RETRY, RETRY, EXCEPTION]
    assert results(victim, "buildrequests") == results(victim, "buildsets") == [EXCEPTION]
    assert victim.repairs() == ["build given up"]
    properties = [victim.rest(f"builds/{n}/properties")["properties"][0] for n in (1, 2, 3)]
    assert [p.get("attempt") for p in properties] == [None, [2, "litebot"], [3, "litebot"]]
    reason = victim.log_text(3, "given_up", "reason")
    assert "died while this build ran" in reason
    assert "[recovery] max_attempts in litebot.toml" in reason


TRIGGERING = """
go = {go!r}
builder("child", shell(f"until [ -e {{go}} ]; do sleep 0.05; done"))
builder("parent", steps.Trigger(schedulerNames=["t"], waitForFinish={wait}))
c["schedulers"].append(schedulers.Triggerable("t", builderNames=["child"]))
"""


OF_CHILD = (
    "SELECT r.results FROM buildrequests r JOIN buildsets s ON s.id = r.buildsetid"
    " WHERE s.parent_buildid IS NOT NULL ORDER BY r.id"
)


@on_both
def test_a_running_child_of_a_dead_parent_is_cancelled(victim: Victim, tmp_path: Path) -> None:
    go = tmp_path / "go"
    victim.write_config(TRIGGERING.format(go=str(go), wait=True))
    victim.start()
    victim.ask_for("parent")
    wait_for(lambda: len(victim.rows(OPEN)) == 2, "the child to run")
    victim.kill()
    go.touch()
    victim.start()
    victim.await_quiet()
    assert victim.rows(OF_CHILD) == [(CANCELLED,), (SUCCESS,)]
    assert victim.repairs() == ["orphan", "interrupted build", "build of a cancelled request"]


@on_both
def test_a_child_that_had_ended_when_its_parent_died_has_its_result(
    victim: Victim, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    go.touch()
    victim.write_config(TRIGGERING.format(go=str(go), wait=True))
    victim.start_to_die("db.builds.finishBuild:1")
    victim.ask_for("parent")
    victim.await_death()
    assert victim.rows(OF_CHILD) == [(-1,)]
    victim.start()
    victim.await_quiet()
    assert victim.rows(OF_CHILD) == [(SUCCESS,), (SUCCESS,)]
    assert victim.repairs() == ["finished build", "interrupted build"]


@on_both
@pytest.mark.parametrize("wait", [True, False])
def test_a_child_that_its_dead_parent_had_just_triggered_is_cancelled(
    victim: Victim, tmp_path: Path, wait: bool
) -> None:
    go = tmp_path / "go"
    go.touch()
    victim.write_config(TRIGGERING.format(go=str(go), wait=wait))
    victim.start_to_die("db.buildsets.addBuildset:2")
    victim.ask_for("parent")
    victim.await_death()
    victim.start()
    victim.await_quiet()
    assert victim.rows(OF_CHILD) == [(CANCELLED,), (SUCCESS,)]


@on_both
def test_what_a_stop_interrupts_is_retried(victim: Victim, tmp_path: Path) -> None:
    go = tmp_path / "go"
    victim.write_config(
        TRIGGERING.format(go=str(go), wait=True)
        + '\nbuilder("deaf", shell(f"trap \'\' TERM INT; until [ -e {go} ]; do sleep 0.1; done"))'
    )
    victim.start()
    victim.ask_for("parent")
    victim.ask_for("deaf")
    wait_for(lambda: len(victim.rows(OPEN)) == 3, "all three builds to run")
    succeeded(victim.run("stop", "--timeout", "10"))
    assert victim.rows(OPEN) == []
    go.touch()
    victim.start()
    victim.await_quiet()
    requests = victim.rows("SELECT results FROM buildrequests ORDER BY id")
    assert sorted(requests) == [(SUCCESS,), (SUCCESS,), (SUCCESS,), (CANCELLED,)]


@on_both
def test_what_is_to_run_always_runs_at_a_stop(victim: Victim, tmp_path: Path) -> None:
    go, cleaned = tmp_path / "go", tmp_path / "cleaned"
    victim.write_config(
        f"""
        wait = shell("until [ -e {go} ]; do sleep 0.05; done")

        def always(line):
            return steps.ShellCommand(command=line, alwaysRun=True)

        def clean(name):
            return always("sleep 1.5"), always(f"echo {{name}} >> {cleaned}")

        builder("child", wait, *clean("child"))
        trigger = steps.Trigger(schedulerNames=["t"], waitForFinish=True)
        builder("parent", trigger, *clean("parent"))
        builder("lasting", wait, always("[ -e {go} ] || sleep 60"))
        c["schedulers"].append(schedulers.Triggerable("t", builderNames=["child"]))
        """
    )
    victim.start()
    parent, lasting = victim.ask_for("parent"), victim.ask_for("lasting")
    wait_for(lambda: len(victim.rows(OPEN)) == 3, "all three builds to run")
    succeeded(victim.run("stop", "--timeout", "10"))
    assert sorted(cleaned.read_text().split()) == ["child", "parent"]
    assert sorted(victim.rows("SELECT results FROM builds")) == [(RETRY,), (RETRY,), (CANCELLED,)]
    go.touch()
    victim.start()
    victim.await_quiet()
    asked = f"SELECT results FROM buildrequests WHERE id IN ({parent}, {lasting})"
    assert victim.rows(asked) == [(SUCCESS,), (SUCCESS,)]


def test_a_stop_while_a_trigger_step_is_about_to_run_is_quick(
    victim: Victim, tmp_path: Path
) -> None:
    go, reached = tmp_path / "go", tmp_path / "reached"
    go.touch()
    victim.write_config(
        f"""
        from twisted.internet import reactor, task

        @util.renderer
        def late(_properties):
            open({str(reached)!r}, "w").close()
            return task.deferLater(reactor, 1.0, lambda: "t")

        builder("child", shell("until [ -e {go} ]; do sleep 0.05; done"))
        builder("parent", steps.Trigger(schedulerNames=[late], waitForFinish=True))
        c["schedulers"].append(schedulers.Triggerable("t", builderNames=["child"]))
        """
    )
    victim.start()
    assert victim.ask_for("parent") == 1
    wait_for(reached.exists, "the step to be about to run")
    succeeded(victim.run("stop", "--timeout", "10"))
    victim.start()
    victim.await_quiet()
    assert victim.rows("SELECT results FROM buildrequests WHERE id = 1") == [(SUCCESS,)]


@on_both
def test_a_stop_does_not_wait_for_a_latent_worker(victim: Victim, tmp_path: Path) -> None:
    go = tmp_path / "go"
    victim.write_config(
        f"""
        from buildbot.worker.latent import AbstractLatentWorker
        from twisted.internet import defer, reactor, task

        class Slow(AbstractLatentWorker):
            def start_instance(self, build):
                return defer.succeed(True)

            def stop_instance(self, fast=False):
                return task.deferLater(reactor, 300)

        c["workers"].append(Slow("slow", None))
        wait = shell("until [ -e {go} ]; do sleep 0.05; done")
        builder("latent", wait, workernames=["local" if os.path.exists({str(go)!r}) else "slow"])
        builder("b", wait)
        """
    )
    victim.start()
    victim.ask_for("latent")
    victim.ask_for("b")
    wait_for(lambda: len(victim.rows(OPEN)) == 2, "both builds to run")
    succeeded(victim.run("stop", "--timeout", "10"))
    assert "the latent worker slow has not stopped" in victim.log
    assert results(victim, "builds") == [RETRY, RETRY]
    assert victim.rows(HELD) == []
    go.touch()
    victim.start()
    victim.await_quiet()
    assert results(victim, "buildrequests") == [SUCCESS, SUCCESS]
    assert victim.repairs() == []


def test_a_stop_gives_builds_their_grace(victim: Victim, tmp_path: Path) -> None:
    go = tmp_path / "go"
    victim.write_config(f'builder("b", shell("until [ -e {go} ]; do sleep 0.05; done"))')
    settings = victim.basedir / "litebot.toml"
    settings.write_text(re.sub(r"(?m)^grace = 0$", "grace = 30", settings.read_text()))
    victim.start()
    victim.ask_for("b")
    wait_for(lambda: victim.rows(OPEN), "the build to run")
    succeeded(victim.run("stop", "--no-wait"))
    go.touch()
    wait_for(lambda: not is_running(victim.pid), "the master to stop", 20)
    assert results(victim, "builds") == results(victim, "buildrequests") == [SUCCESS]
