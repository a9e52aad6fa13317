"""Files and processes of other users, which litebot leaves alone, and those that they can read."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import Done
from support.commands import is_running
from support.commands import require
from support.commands import run
from support.master import Master
from support.refusals import processes_in
from support.refusals import refused
from support.refusals import refuses_to_start

pytestmark = pytest.mark.usefixtures("real_commands")


NOBODY = 65534


# With it root may do to a file what the file's mode says, like everybody else.
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")


UID = os.geteuid()


@pytest.fixture
def lock_out() -> Callable[[Path], None]:
    """Takes a file or folder away from the user who runs the tests."""
    if UID == 0:
        require(shutil.which("setpriv"), "setpriv of util-linux is not installed")

    def take(path: Path) -> None:
        if UID == 0:
            os.chown(path, NOBODY, NOBODY)
        else:
            path.chmod(0o555 if path.is_dir() else 0o000)

    return take


def unprivileged(master: Master, command: str, *arguments: str) -> Done:
    """As Master.run, by a user for whom permissions count."""
    wrapper = UNPRIVILEGED if UID == 0 else ()
    executable = Path(sys.executable).with_name("litebot")
    return run(*wrapper, executable, command, *arguments, master.basedir)


def test_another_users_state_file(master: Master, lock_out: Callable[[Path], None]) -> None:
    lock_out(master.state_file)
    refused(
        unprivileged(master, "start"),
        f"{master.state_file} can't be read and written by this user (uid {UID})",
        f"Try: chown {UID} {master.state_file}",
    )
    assert processes_in(master.basedir) == []


def test_another_users_basedir(master: Master, lock_out: Callable[[Path], None]) -> None:
    lock_out(master.basedir)
    refused(
        unprivileged(master, "start"),
        f"{master.basedir} can't be written by this user (uid {UID})",
        f"Try: chown -R {UID} {master.basedir}",
    )
    assert processes_in(master.basedir) == []
    master.basedir.chmod(0o755)


@pytest.mark.parametrize("command", ["start", "upgrade-master", "create-master --force"])
def test_root_leaves_another_users_basedir_alone(master: Master, command: str) -> None:
    require(UID == 0, "only root can give a folder to another user")
    os.chown(master.basedir, NOBODY, NOBODY)
    before = master.contents()
    refused(
        master.run(*command.split()),
        f"{master.basedir} belongs to nobody; root would leave files in it that this user can't"
        " write, and builds would run as root",
        f"Try: as that user, or for root: chown -R root {master.basedir}",
    )
    assert master.contents() == before


def test_status_needs_to_read_only(master: Master, lock_out: Callable[[Path], None]) -> None:
    for start, code in ((lambda: None, 3), (master.start, 0)):
        start()
        before = sorted(path.name for path in master.basedir.iterdir())
        lock_out(master.basedir)
        done = unprivileged(master, "status")
        os.chown(master.basedir, UID, os.getegid())
        master.basedir.chmod(0o755)
        assert (done.returncode, done.stderr) == (code, "")
        assert sorted(path.name for path in master.basedir.iterdir()) == before


def test_another_users_running_master(master: Master, lock_out: Callable[[Path], None]) -> None:
    master.start()
    for name in ("master.lock", "control.sock", "users", "state.sqlite"):
        lock_out(master.basedir / name)
    for command in (["start"], ["stop"], ["build", "hello"], ["reconfig"], ["user", "list"]):
        refused(unprivileged(master, *command), str(master.basedir))
    assert is_running(master.pid)
    for name in ("master.lock", "control.sock", "users", "state.sqlite"):
        if UID != 0:
            (master.basedir / name).chmod(0o600)


@pytest.fixture
def anothers_pid() -> Iterator[int]:
    """The pid of a process of another user."""
    if UID != 0:
        yield 1
        return
    require(shutil.which("setpriv"), "setpriv of util-linux is not installed")
    with subprocess.Popen(["setpriv", f"--reuid={NOBODY}", "sleep", "60"]) as process:
        yield process.pid
        process.kill()


def test_another_users_master_is_not_stopped(master: Master, anothers_pid: int) -> None:
    with open(master.basedir / "master.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(json.dumps({"pid": anothers_pid, "started_at": 0.0}))
        lock.flush()
        wrapper = ("setpriv", "--bounding-set=-kill") if UID == 0 else ()
        command = Path(sys.executable).with_name("litebot")
        refused(
            run(*wrapper, command, "stop", master.basedir),
            f"the master of {master.basedir} with pid {anothers_pid} belongs to another user",
            f"Try: sudo litebot stop {master.basedir}",
        )
    assert is_running(anothers_pid)


def test_a_file_of_password_hashes_that_others_can_read(master: Master) -> None:
    users = master.basedir / "users"
    users.chmod(0o644)
    refuses_to_start(
        master, f"{users} has mode 0644; it holds password hashes", f"Try: chmod 600 {users}"
    )
