"""Nobody else on the machine can read what a master writes, or write what it runs."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import Master
from support.neighbour import NOBODY
from support.neighbour import as_neighbour
from support.neighbour import require_neighbour

TWISTD = Path(sys.executable).with_name("twistd")
BUILDBOT = Path(sys.executable).with_name("buildbot")
# What users write, or what builds make: its modes are their decision.
OF_USERS = {"master.cfg", "buildbot.tac", "project", "public_html", "__pycache__"}
OF_BUILDS = {"workers", "gitpoller-work"}

PRINTS = """
c["www"] = {"logRotateLength": 300}
c["builders"].append(util.BuilderConfig(
    name="b",
    workernames=["local"],
    factory=util.BuildFactory([steps.ShellCommand(
        command="umask; echo made > made", env={"TOKEN": "planted-in-the-environment"}
    )]),
))
c["schedulers"].append(schedulers.ForceScheduler(name="force-b", builderNames=["b"]))
"""


@pytest.fixture
def open_master(created: Master, folder: Path) -> Iterator[Master]:
    """A new master in a basedir that others may read, whose logs are rotated soon."""
    master = created.copy(folder / "ci")
    master.basedir.chmod(0o755)
    master.configure(PRINTS)
    rotate_soon(master)
    yield master
    master.end()


def rotate_soon(master: Master) -> None:
    tac = master.basedir / "buildbot.tac"
    text = re.sub(r"^rotateLength = .*$", "rotateLength = 3000", tac.read_text(), flags=re.M)
    tac.write_text(text)


def as_older(master: Master) -> None:
    """Give the master the buildbot.tac of a basedir that was made before."""
    tac = master.basedir / "buildbot.tac"
    tac.write_text(re.sub(r"^ *defaultMode=.*\n", "", tac.read_text(), flags=re.M))


def open_files(basedir: Path) -> dict[str, str]:
    """The files of a basedir that others may read or write, with their modes."""
    return {
        str(path.relative_to(basedir)): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in basedir.rglob("*")
        if not {*path.relative_to(basedir).parts} & (OF_USERS | OF_BUILDS)
        and path.suffix != ".pyc"
        and path.lstat().st_mode & 0o077
    }


@contextmanager
def run_directly(master: Master, umask: int) -> Iterator[None]:
    """Run a master as a service manager does, with `twistd --nodaemon`."""
    with subprocess.Popen(
        [TWISTD, "--nodaemon", "--python=buildbot.tac"],
        cwd=master.basedir,
        umask=umask,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        master.pids.append(process.pid)
        try:
            wait_for((master.basedir / "control.sock").exists, "the master")
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def use(master: Master) -> str:
    """Build, and look at pages; return what the build's `umask` printed."""
    succeeded(master.force("b"))
    for _ in range(5):
        master.rest("builders")
    log = master.log_text(1, "shell")
    found = re.search(r"^o(0\d{3})$", log, re.MULTILINE)
    assert found, log
    return found[1]


@pytest.mark.parametrize("is_older", [False, True], ids=["new", "older"])
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_a_master_started_by_command(open_master: Master, umask: int, is_older: bool) -> None:
    if is_older:
        as_older(open_master)
    succeeded(open_master.run("start", umask=umask))
    open_master.pids.append(open_master.status()["pid"])
    assert use(open_master) == "0077"
    assert (open_master.basedir / "twistd.log.1").exists()
    assert (open_master.basedir / "http.log.1").exists()
    assert open_files(open_master.basedir) == {}


@pytest.mark.parametrize("is_older", [False, True], ids=["new", "older"])
def test_a_master_started_by_a_service_manager(open_master: Master, is_older: bool) -> None:
    if is_older:
        as_older(open_master)
    basedir = open_master.basedir
    with run_directly(open_master, umask=0o022):
        assert use(open_master) == "0022"
        assert open_files(basedir) == {}
    made = basedir / "workers/local/b/build/made"
    assert stat.S_IMODE(made.stat().st_mode) == 0o644
    assert (basedir / "twistd.log.1").exists()
    assert (basedir / "http.log.1").exists()
    assert open_files(basedir) == {}


def test_a_master_started_by_buildbot(open_master: Master) -> None:
    as_older(open_master)
    succeeded(run(BUILDBOT, "start", open_master.basedir, umask=0o000))
    pid = int((open_master.basedir / "twistd.pid").read_text())
    open_master.pids.append(pid)
    assert use(open_master) == "0077"
    found = open_files(open_master.basedir)
    # twistd writes its pid file itself; nobody may write it.
    assert set(found) <= {"twistd.pid"}
    assert not (open_master.basedir / "twistd.pid").stat().st_mode & 0o022


def test_a_neighbour_reads_nothing(open_master: Master) -> None:
    require_neighbour()
    open_master.start()
    use(open_master)
    planted = "planted-in-the-environment"
    assert planted in "".join(
        path.read_text(errors="replace") for path in open_master.basedir.glob("twistd.log*")
    )
    assert as_neighbour("ls", open_master.basedir).returncode == 0
    found = as_neighbour("grep", "-rl", planted, open_master.basedir).stdout.split()
    assert [Path(name).name for name in found] == ["master.cfg"]
    socket = open_master.basedir / "control.sock"
    asked = as_neighbour("curl", "-sS", "-m5", "--unix-socket", socket, "http://x/refusals")
    assert asked.returncode != 0


def test_files_that_are_open_are_closed_with_a_note_each(open_master: Master) -> None:
    open_master.start()
    use(open_master)
    open_master.stop()
    basedir = open_master.basedir
    (basedir / "public_html").mkdir()
    (basedir / "public_html" / "index.html").touch()
    names = ("twistd.log", "twistd.log.1", "http.log", "http.log.1", "litebot.toml")
    for name in (*names, "state.sqlite-tally", "secrets/webhook-secret", "master.cfg"):
        (basedir / name).chmod(0o644)
    (basedir / "secrets").chmod(0o755)
    before = [(basedir / name).stat().st_mode for name in ("master.cfg", "public_html")]
    said = open_master.start().stderr
    for name in ("twistd.log", "http.log", "litebot.toml", "state.sqlite-tally"):
        assert len(re.findall(rf"^note: {basedir}/{name}\b.* had mode 0644, now 0600", said, re.M))
    assert f"{basedir}/secrets and 1 more of it had mode 0755, now 0700" in said
    assert open_files(basedir) == {}
    assert before == [(basedir / name).stat().st_mode for name in ("master.cfg", "public_html")]
    open_master.stop()
    assert "had mode" not in open_master.start().stderr


def test_create_master_lets_nobody_else_write(folder: Path) -> None:
    succeeded(litebot("create-master", folder / "deep" / "ci", umask=0))
    for path in (folder / "deep").rglob("*"):
        assert not path.lstat().st_mode & 0o022 or path.is_symlink(), path
    assert not (folder / "deep").stat().st_mode & 0o022
    assert open_files(folder / "deep" / "ci") == {}


def test_a_basedir_that_everybody_may_write_is_closed(open_master: Master) -> None:
    for path in (open_master.basedir, open_master.basedir / "master.cfg"):
        path.chmod(path.stat().st_mode | 0o002)
    said = open_master.start().stderr
    assert f"note: {open_master.basedir} had mode 0757, now 0755" in said
    assert f"note: {open_master.basedir}/master.cfg had mode 0646, now 0644" in said


def test_a_file_that_was_planted_is_refused(open_master: Master) -> None:
    require_neighbour()
    open_master.basedir.chmod(0o777)
    succeeded(as_neighbour("touch", open_master.basedir / "twisted.py"))
    done = open_master.run("start")
    assert done.returncode == 1
    assert f"{open_master.basedir}/twisted.py belongs to nobody" in done.stderr


@pytest.mark.parametrize("name", ["twistd.log", "twistd.pid", "http.log", "reserve", "master.lock"])
def test_a_link_of_another_user_is_not_followed(open_master: Master, name: str) -> None:
    require_neighbour()
    target = open_master.basedir.with_name("target")
    target.write_text("kept")
    path = open_master.basedir / name
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    os.lchown(path, NOBODY, NOBODY)
    done = open_master.run("start")
    assert done.returncode == 1
    assert f"{path} belongs to nobody" in done.stderr
    assert target.read_text() == "kept"


def test_a_link_of_ones_own_is_followed(open_master: Master) -> None:
    target = open_master.basedir.with_name("kept-elsewhere.log")
    (open_master.basedir / "twistd.log").symlink_to(target)
    open_master.start()
    assert "BuildMaster is running" in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_root_runs_no_master_where_everybody_may_replace_it(open_master: Master) -> None:
    require_neighbour()
    parent = open_master.basedir.parent
    parent.chmod(0o777)
    done = open_master.run("start")
    assert done.returncode == 1
    assert f"{parent} can be written by everybody on this machine" in done.stderr
    assert f"Try: chmod o-w {parent}" in done.stderr
    parent.chmod(0o1777)
    open_master.start()
