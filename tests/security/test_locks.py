"""Nobody else on the machine can hold up commands, and who does is named."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from litebot.basedir import Basedir
from litebot.basedir import OwnerLock
from litebot.errors import LitebotError
from litebot.errors import MasterRunning
from litebot.files import LOCK_FILE
from litebot.files import locked
from litebot.files import replace_file
from support.commands import LITEBOT
from support.commands import begin
from support.commands import litebot
from support.commands import succeeded
from support.commands import wait_for
from support.master import Master
from support.neighbour import NOBODY
from support.neighbour import begin_as_neighbour
from support.neighbour import require_neighbour
from support.timing import require_less


@pytest.fixture
def open_master(created: Master, folder: Path) -> Iterator[Master]:
    """A new master in a basedir that others may read."""
    (folder / "parent").mkdir(mode=0o755)
    master = created.copy(folder / "parent" / "ci")
    master.basedir.chmod(0o755)
    yield master
    master.end()


@pytest.fixture
def held_by_neighbour(open_master: Master) -> Iterator[Master]:
    """A master whose basedir, and the folder that it is in, another user has locked."""
    require_neighbour()
    folders = [open_master.basedir, open_master.basedir.parent]
    holders = [begin_as_neighbour("flock", "-F", folder, "sleep", "300") for folder in folders]
    inodes = {str(folder.stat().st_ino) for folder in folders}
    wait_for(lambda: inodes <= {line.split()[5].split(":")[-1] for line in _locks()}, "both locks")
    yield open_master
    for holder in holders:
        holder.kill()
        holder.wait()


def _locks() -> list[str]:
    return Path("/proc/locks").read_text(encoding="ascii").splitlines()


def test_a_neighbours_lock_holds_up_no_command(held_by_neighbour: Master) -> None:
    master = held_by_neighbour
    began_at = time.monotonic()
    succeeded(master.run("user", "add", "--generate", "ada"))
    succeeded(master.run("user", "remove", "ada"))
    succeeded(master.run("upgrade-master"))
    succeeded(litebot("create-master", "--force", master.basedir))
    succeeded(litebot("create-master", master.basedir.with_name("second")))
    master.start()
    succeeded(master.run("reconfig"))
    master.stop()
    require_less(time.monotonic() - began_at, 50)
    for found in master.basedir.parent.rglob("*.lock"):
        assert found.name == "master.lock" or ".git" in found.parts


def test_the_holder_of_a_lock_is_named(tmp_path: Path) -> None:
    with subprocess.Popen(["flock", "-F", tmp_path / LOCK_FILE, "sleep", "60"]) as holder:
        wait_for((tmp_path / LOCK_FILE).exists, "the lock file")
        time.sleep(0.2)
        with pytest.raises(LitebotError) as refusal, locked(tmp_path, timeout_s=0.2):
            pass
        holder.kill()
    assert re.search(
        rf"is locked by the process with pid {holder.pid} \(sleep 60\)", str(refusal.value)
    )


def test_a_lock_that_is_released_is_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen(["flock", tmp_path / LOCK_FILE, "sleep", "0.7"]):
        wait_for((tmp_path / LOCK_FILE).exists, "the lock file")
        with locked(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def _count(folder: Path, times: int) -> None:
    for _ in range(times):
        with locked(folder):
            number = int((folder / "number").read_text())
            replace_file(folder / "number", str(number + 1), new_mode=0o600)


def test_a_lock_file_that_is_removed_each_time_excludes_all_others(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_count, args=(tmp_path, 40)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "number").read_text() == "160"


def test_a_lock_file_of_a_killed_command_confuses_nobody(tmp_path: Path) -> None:
    basedir = tmp_path / "ci"
    basedir.mkdir()
    (basedir / LOCK_FILE).write_text("4194304")
    (tmp_path / ".ci.lock").write_text("4194304")
    succeeded(litebot("create-master", basedir))
    succeeded(litebot("user", "add", "--generate", "ada", basedir))
    assert not (basedir / LOCK_FILE).exists()


def test_a_lock_file_of_another_user_is_refused(tmp_path: Path) -> None:
    require_neighbour()
    (tmp_path / LOCK_FILE).touch()
    os.chown(tmp_path / LOCK_FILE, NOBODY, NOBODY)
    with pytest.raises(LitebotError, match=f"made by another user .uid {NOBODY}."):
        with locked(tmp_path):
            pass


def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "target")
    with pytest.raises(LitebotError, match="can't be locked"), locked(tmp_path):
        pass
    assert (tmp_path / "target").read_text() == "kept"


def test_masters_that_are_made_at_once_get_ports_of_their_own(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "ci", tmp_path / "b" / "ci", *(tmp_path / str(n) for n in range(3))]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [begin(LITEBOT, "create-master", folder, **pipes) for folder in folders]
    for process in running:
        assert process.wait() == 0
    ports = [port for folder in folders for port in Master(folder).ports]
    assert len(ports) == 10
    assert len(set(ports)) == 10


def test_a_master_that_was_made_before_keeps_its_ports(tmp_path: Path) -> None:
    ports = []
    for name in ("one", "two"):
        succeeded(litebot("create-master", tmp_path / name))
        ports += Master(tmp_path / name).ports
    assert len(set(ports)) == 4


@contextmanager
def held(lock_file: Path, pid: int, seconds: float) -> Iterator[None]:
    """Have a process hold the owner's lock for a while, whose file says that `pid` does."""
    code = f"""
import fcntl, sys, time
f = open(sys.argv[1], "w")
fcntl.flock(f, fcntl.LOCK_EX)
f.write('{{"pid": {pid}, "started_at": 0.0}}'); f.flush()
print("held", flush=True)
time.sleep({seconds})
"""
    command = [sys.executable, "-c", code, str(lock_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


def dead_pid() -> int:
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


def test_the_lock_of_a_dead_owner_is_waited_for(master: Master) -> None:
    files = Basedir(master.basedir)
    with held(files.lock_file, dead_pid(), 1.2):
        assert files.owner() is None
    with held(files.lock_file, dead_pid(), 1.2):
        OwnerLock(files).release()
    with held(files.lock_file, dead_pid(), 1.2):
        master.start()


def test_the_lock_of_a_living_owner_is_not_waited_for(tmp_path: Path) -> None:
    files = Basedir(tmp_path)
    with held(files.lock_file, os.getpid(), 30):
        began_at = time.monotonic()
        with pytest.raises(MasterRunning):
            OwnerLock(files)
        with pytest.raises(MasterRunning):
            files.refuse_owner()
        require_less(time.monotonic() - began_at, 2)


def test_a_state_file_without_tables_is_told_in_a_sentence(master: Master) -> None:
    master.state_file.unlink()
    master.state_file.with_name("state.sqlite-tally").unlink(missing_ok=True)
    master.state_file.touch(mode=0o600)
    for command in ("status", "check", "report list", "start"):
        done = master.run(*command.split())
        assert done.returncode == 1, command
        assert f"{master.state_file} holds no tables" in done.stderr
        assert f"Try: move it away, then: litebot create-master --force {master.basedir}" in (
            done.stderr
        )


def test_a_state_file_that_lacks_a_table_is_told_in_a_sentence(master: Master) -> None:
    master.execute("PRAGMA foreign_keys = OFF")
    master.execute("DROP TABLE logchunks")
    for command in ("status", "check"):
        done = master.run(command)
        assert done.returncode == 1
        assert f"{master.state_file} lacks the table logchunks of Buildbot" in done.stderr


def test_a_finished_log_whose_chunks_are_all_gone_is_found(master: Master) -> None:
    master.define_builder("b", "echo something")
    master.start()
    succeeded(master.force("b"))
    master.stop()
    master.execute("DELETE FROM logchunks")
    found = master.run("check", "--json")
    assert found.returncode == 3
    (finding,) = json.loads(found.stdout)
    assert re.fullmatch(r"log 'stdio' of build id 1 shows \d+ lines and has 0", finding["message"])
    master.execute("UPDATE logs SET type = 'd'")  # a janitor has deleted them
    assert succeeded(master.run("check")).stdout == "nothing is wrong\n"
