"""Stops, starts and creates in awkward moments and places."""

from __future__ import annotations

import fcntl
import json
import subprocess
from pathlib import Path

import pytest

from support.commands import LITEBOT
from support.commands import is_running
from support.commands import litebot
from support.commands import succeeded
from support.commands import wait_for
from support.master import CANCELLED
from support.master import RETRY
from support.master import SUCCESS
from support.master import Master

pytestmark = pytest.mark.usefixtures("real_commands")


def start_slow(master: Master, seconds: Path) -> None:
    """Start a master and a build that sleeps for as long as a file says, at first for long."""
    seconds.write_text("60")
    master.define_builder("slow", f"sleep $(cat {seconds})")
    master.start()
    master.force("slow", "--no-wait")
    wait_for(lambda: master.builds("slow"), "the build to start")


def test_a_clean_stop_gives_running_builds_back(master: Master, tmp_path: Path) -> None:
    seconds = tmp_path / "seconds"
    start_slow(master, seconds)
    master.stop()
    seconds.write_text("0")
    master.start()
    assert master.finished_build("slow", 2)["results"] == SUCCESS
    assert master.finished_build("slow", 1)["results"] == RETRY


def test_what_a_moved_master_left_claimed_is_found(master: Master, tmp_path: Path) -> None:
    seconds = tmp_path / "seconds"
    start_slow(master, seconds)
    master.kill()
    seconds.write_text("0")
    master.basedir = master.basedir.rename(tmp_path / "elsewhere")
    master.start()
    assert master.finished_build("slow", 2)["results"] == SUCCESS
    (repair,) = master.status()["last_start"]["repairs"]
    assert "build 1 of 'slow'" in repair["message"]


def test_an_empty_folder_that_one_stands_in_stays_that_folder(tmp_path: Path) -> None:
    folder = tmp_path / "ci"
    folder.mkdir()
    inode = folder.stat().st_ino
    assert litebot("create-master", cwd=folder).returncode == 0
    assert folder.stat().st_ino == inode
    assert {"buildbot.tac", "state.sqlite", "users"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob(".*new*"))


def test_of_two_creates_at_once_one_is_refused_and_one_is_whole(tmp_path: Path) -> None:
    command = [str(LITEBOT), "create-master", "ci"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [process.communicate()[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert "is not empty" in "".join(said)
    names = {path.name for path in (tmp_path / "ci").iterdir()}
    assert {"buildbot.tac", "litebot.toml", "master.cfg", "state.sqlite", "users"} <= names


def test_a_holder_of_the_lock_without_a_pid_is_sent_no_signal(master: Master) -> None:
    with (master.basedir / "master.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = master.run("stop")
    assert refused.returncode == 1
    assert "has not written its pid" in refused.stderr


def test_a_config_that_exits_is_refused_with_its_line(master: Master) -> None:
    config = master.basedir / "master.cfg"
    config.write_text("import sys\n\nsys.exit('not today')\n")
    for command in ("start", "check-config"):
        refused = master.run(command)
        assert refused.returncode != 0
        assert f"{config}:3: it calls sys.exit: not today" in refused.stderr


def test_a_page_of_ones_own_port_has_links_that_lead_there(master: Master) -> None:
    toml = master.basedir / "litebot.toml"
    old = next(line for line in toml.read_text().splitlines() if line.startswith("port = "))
    port = int(old.split("=")[1])
    toml.write_text(toml.read_text().replace(old, "port = 1", 1))
    config = master.basedir / "master.cfg"
    config.write_text(config.read_text() + f'\nc["www"] = {{"port": {port}}}\n')
    said = master.run("start")
    assert said.returncode == 0, said.stderr
    assert f":{port}/" in said.stdout
    master.pids.append(json.loads((master.basedir / "master.lock").read_text())["pid"])


def test_of_two_starts_at_once_the_loser_leaves_the_winner_alone(master: Master) -> None:
    command = [str(LITEBOT), "start", str(master.basedir)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
    ]
    said = [process.communicate()[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert "is open in " in "".join(said)
    pid = master.status()["pid"]
    master.pids.append(pid)
    assert (master.basedir / "twistd.pid").read_text() == str(pid)


def test_a_stop_lasts_until_the_process_is_gone(master: Master) -> None:
    master.configure(
        """
        import time
        from twisted.internet import reactor
        reactor.addSystemEventTrigger("after", "shutdown", time.sleep, 0.5)
        """
    )
    master.start()
    master.stop()
    assert not is_running(master.pid)
    assert not (master.basedir / "twistd.pid").exists()


def test_a_request_that_is_cancelled_while_its_build_begins(master: Master) -> None:
    master.define_builder("b", "exec sleep 1000")
    master.configure(
        """
        from buildbot.process.build import Build
        from twisted.internet import defer, reactor, task


        class Slow(Build):
            @defer.inlineCallbacks
            def startBuild(self, workerforbuilder):
                while not os.path.exists(os.path.join(basedir, "go")):
                    yield task.deferLater(reactor, 0.05)
                yield super().startBuild(workerforbuilder)


        c["builders"][-1].factory.buildClass = Slow
        """
    )
    master.start()
    brid = int(succeeded(master.force("b", "--no-wait")).stdout)
    claimed = "SELECT 1 FROM buildrequest_claims"
    wait_for(lambda: master.rows(claimed), "the request to be claimed")
    visitor = master.login()
    assert visitor.control(f"buildrequests/{brid}", "cancel", reason="no").status == 200
    (master.basedir / "go").touch()
    assert master.finished_build("b")["results"] == CANCELLED
    assert master.rest(f"buildrequests/{brid}")["buildrequests"][0]["results"] == CANCELLED
    assert master.status()["running_builds"] == []
