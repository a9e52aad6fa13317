"""Whoever brings something is answered when it is on disk, and nobody else waits for the disk.

The disk is the real one, made slow: in the master's process each fdatasync of the log notes its
number, and waits while a file in the basedir says that only smaller numbers may go on.  Where
another file says so it fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from support.commands import is_running
from support.commands import litebot
from support.commands import wait_for
from support.master import Master
from support.ports import free_ports
from support.timing import require_less
from support.visitor import Reply

SLOW_DISK = """
from pathlib import Path
import time

from litebot.master.db.sqlite import wal_sync

class SlowDisk:
    number = 0

    def __getattr__(self, name):
        return getattr(os, name)

    def limit(self, up_to):
        try:
            return int(up_to.read_text() or "0")
        except FileNotFoundError:
            return self.number  # none

    def fdatasync(self, fd):
        self.number += 1
        number, begun, up_to = self.number, Path(basedir, "begun"), Path(basedir, "up-to")
        begun.write_text(str(number))
        while number > self.limit(up_to):
            time.sleep(0.005)
        if Path(basedir, "broken").exists():
            raise OSError(5, "Input/output error")
        os.fdatasync(fd)
        Path(basedir, "ended").write_text(str(number))

wal_sync.os = SlowDisk()
"""

QUIET_S = 0.3  # how long an answer that must not come is waited for
AT_ONCE_S = 2.0  # for a request that waits for nothing, on a busy machine


class Disk:
    """The slow disk of a master."""

    def __init__(self, basedir: Path) -> None:
        self._basedir = basedir

    def hold(self) -> None:
        """Let no sync end that has not ended yet."""
        self.let_go_on(self._number("ended"))

    def let_go_on(self, number: int) -> None:
        """Let the syncs up to this number end."""
        new = self._basedir / "up-to.new"
        new.write_text(str(number))
        new.rename(self._basedir / "up-to")

    def heal(self) -> None:
        (self._basedir / "up-to").unlink(missing_ok=True)

    @property
    def is_syncing(self) -> bool:
        return self.begun > self._number("ended")

    @property
    def begun(self) -> int:
        """The number of the last sync that has begun."""
        return self._number("begun")

    def _number(self, name: str) -> int:
        try:
            return int((self._basedir / name).read_text() or "0")
        except FileNotFoundError:
            return 0


class Asking(threading.Thread):
    """Somebody who waits for an answer; `answer` is None until it is there."""

    def __init__(self, ask: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self.answer: int | None = None
        self.start()

    def run(self) -> None:
        self.answer = self._ask()

    def wait(self) -> int:
        self.join(30)
        assert self.answer is not None, "no answer came"
        return self.answer


@pytest.fixture(scope="module")
def port() -> int:
    """Where changes are sent to."""
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def running(module_master: Master, port: int) -> Iterator[Master]:
    module_master.configure(SLOW_DISK)
    module_master.configure(
        f"""
        c["change_source"] = [
            changes.PBChangeSource(
                port="tcp:{port}:interface=127.0.0.1", user="hook", passwd="changepw"
            )
        ]
        c["schedulers"] = c["schedulers"][1:]  # changes start nothing here
        c["schedulers"].append(schedulers.Triggerable(name="spare", builderNames=["hello"]))
        c["www"] = {{"change_hook_dialects": {{"base": True}}}}
        """
    )
    module_master.start()
    yield module_master
    module_master.stop()


@pytest.fixture
def disk(running: Master) -> Iterator[Disk]:
    disk = Disk(running.basedir)
    wait_for(lambda: not disk.is_syncing, "the start to be on disk")
    yield disk
    disk.heal()


def force(running: Master) -> int:
    """The HTTP status of a click on "force"."""
    reply = running.login().control("forceschedulers/force", "force", builderNames=["hello"])
    return reply.status


def disable(running: Master) -> int:
    """The HTTP status of switching a scheduler off."""
    (spare,) = running.rest("schedulers", name="spare")["schedulers"]
    path = f"schedulers/{spare['schedulerid']}"
    return running.login().control(path, "enable", enabled=False).status


def build(running: Master) -> int:
    """The exit code of `litebot build`."""
    return running.force("hello", "--no-wait").returncode


def hook(running: Master) -> int:
    """The HTTP status of a hook's POST."""
    change = urlencode({"author": "Ada", "comments": "by hook", "branch": "main", "files": "[]"})
    kind = "application/x-www-form-urlencoded"
    return running.visitor().request("POST", "/change_hook/base", change, Content_Type=kind).status


def send(port: int) -> int:
    """The exit code of `litebot sendchange`."""
    options = ("--master", f"127.0.0.1:{port}", "--auth", "hook:changepw", "--who", "Ada")
    return litebot("sendchange", *options, "--branch", "main", "a.c").returncode


@pytest.mark.parametrize("way", ["force", "disable", "command", "hook", "sendchange"])
def test_an_answer_waits_for_a_sync_that_began_after_it(
    running: Master, disk: Disk, port: int, way: str
) -> None:
    """One that runs already began too early, and may lack what was written since."""
    ask, table, expected = {
        "force": (lambda: force(running), "buildrequests", 200),
        "disable": (lambda: disable(running), "schedulers", 200),
        "command": (lambda: build(running), "buildrequests", 0),
        "hook": (lambda: hook(running), "changes", 200),
        "sendchange": (lambda: send(port), "changes", 0),
    }[way]
    filters = {"enabled": "false"} if way == "disable" else {}

    def count() -> int:
        return len(running.rest(table, **filters)[table])

    disk.hold()
    first = Asking(lambda: force(running))
    wait_for(lambda: disk.is_syncing, "a sync to begin")
    wait_for(lambda: running.rest("buildrequests", complete="false")["buildrequests"], "a commit")
    number, before = disk.begun, count()
    second = Asking(ask)
    wait_for(lambda: count() > before, "what was brought to be there for all to see")
    time.sleep(QUIET_S)
    assert (first.answer, second.answer, disk.begun) == (None, None, number)
    disk.let_go_on(number)
    wait_for(lambda: disk.begun == number + 1, "the next sync to begin")
    time.sleep(QUIET_S)
    assert second.answer is None
    began = time.monotonic()
    assert running.rest("builders")  # the master goes on meanwhile
    require_less(time.monotonic() - began, AT_ONCE_S)
    disk.heal()
    assert first.wait() == 200
    assert second.wait() == expected


def test_reading_waits_for_no_disk(running: Master, disk: Disk) -> None:
    disk.hold()
    asking = Asking(lambda: force(running))
    wait_for(lambda: disk.is_syncing, "a sync to begin")
    for path in ("builds", "buildrequests", "changes"):
        began = time.monotonic()
        running.rest(path)
        require_less(time.monotonic() - began, AT_ONCE_S)
    assert running.visitor().request("GET", "/").status == 200
    assert asking.answer is None
    disk.heal()
    assert asking.wait() == 200


def test_a_build_waits_for_no_disk(running: Master, disk: Disk) -> None:
    """It may run ahead of the disk: after a power loss it is run again."""
    disk.hold()
    before = len(running.builds("hello"))
    asking = Asking(lambda: force(running))
    finished = running.finished_build("hello", before + 1)
    assert finished["complete"]
    assert asking.answer is None
    disk.heal()
    assert asking.wait() == 200


def test_who_waits_for_a_disk_that_fails_is_told(master: Master) -> None:
    master.configure(SLOW_DISK)
    master.start()
    disk, visitor, replies = Disk(master.basedir), master.login(), list[Reply]()

    def force() -> int:
        path = "forceschedulers/force"
        replies.append(visitor.control(path, "force", builderNames=["hello"]))
        return replies[0].status

    disk.hold()
    (master.basedir / "broken").touch()
    asking = Asking(force)
    wait_for(lambda: master.rest("buildrequests")["buildrequests"], "the request to be there")
    disk.heal()
    assert asking.wait() == 503
    assert replies[0].body == b"the disk of the master has failed; the master stops\n"
    wait_for(lambda: not is_running(master.pid), "the master to stop")
    (master.basedir / "broken").unlink()
    master.start()
    assert master.rest("builders")["builders"]
