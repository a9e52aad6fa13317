"""A real master on a full disk, and on a file with a damaged page: one message, a clean stop."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import apsw
import pytest

from litebot.basedir import Basedir
from litebot.cli.build import show
from litebot.cli.client import stream
from litebot.errors import LitebotError
from litebot.store.connection import connect
from support.commands import LITEBOT
from support.commands import is_running
from support.commands import require
from support.commands import run
from support.commands import wait_for
from support.faulty_vfs import damage
from support.master import RETRY
from support.master import SUCCESS
from support.master import Master
from support.timing import require_less

DISK_BYTES = 16 * 1024 * 1024
LEFT_BYTES = 256 * 1024  # for the build to fill
STOP_S = 20  # the master waits 5 s for its workers; the rest is for a busy machine
SOON_S = 10
FULL_FOR_S = 2.0
ENDLESS, FEW = 10_000_000, 20

# Prints as many numbered lines as the file `lines` beside it says, hard to compress.
NOISE = """
import pathlib, random, sys, time
lines = int((pathlib.Path(__file__).parent / "lines").read_text())
noise = random.Random(1)
for number in range(lines):
    print(number, noise.randbytes(200).hex())
    if number % 50 == 0:
        sys.stdout.flush()
        time.sleep(0.005)  # the master shall get to write it down
"""


class Foreground:
    """`litebot start --foreground`, and what it says."""

    def __init__(self, master: Master, output: Path) -> None:
        self._output = output
        with output.open("wb") as file:
            command = [LITEBOT, "start", "--foreground", str(master.basedir)]
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        master.pids.append(self.process.pid)  # so that it is stopped whatever happens
        lock = master.basedir / "master.lock"
        wait_for(lambda: lock.exists() and '"url": "' in lock.read_text(), "the master to answer")

    @property
    def said(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    def message(self) -> list[str]:
        """Wait for its end; the one message of litebot in what it said: what, and the remedy."""
        assert self.process.wait(STOP_S) == 1
        assert "Traceback" not in self.said
        lines = self.said.splitlines()
        said = [n for n, line in enumerate(lines) if "litebot: " in line]
        (at,) = [n for n in said if "litebot: warning: " not in lines[n]]
        return [lines[at].partition("litebot: ")[2], lines[at + 1].strip()]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of DISK_BYTES."""
    require(shutil.which("mount"), "there is no `mount`")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder)
    require(mounted.returncode == 0, f"no file system can be mounted: {mounted.stderr.strip()}")
    yield folder
    run("umount", "--lazy", folder)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """The file that says how much the builder `noisy` prints."""
    path = tmp_path / "lines"
    path.write_text(f"{ENDLESS}")
    (tmp_path / "noise.py").write_text(NOISE)
    return path


@pytest.fixture
def cramped(small_disk: Path, lines: Path, watch: Callable[[Master], Master]) -> Master:
    """A master on the small disk with the builder `noisy`."""
    master = watch(Master(small_disk / "ci"))
    master.create()
    master.define_builder("noisy", f"{sys.executable} {lines.parent / 'noise.py'}")
    return master


def fill(disk: Path, *, leave_bytes: int) -> Path:
    """Take all space but so much; the file that holds it."""
    filler = disk / "filler"
    free = os.statvfs(disk)
    left = free.f_bavail * free.f_frsize - leave_bytes
    with filler.open("wb") as file:
        try:
            while left > 0:
                left -= file.write(bytes(min(left, 1024 * 1024)))
            file.flush()
        except OSError:
            pass  # what is left is less than a page
    return filler


def is_whole(path: Path) -> bool:
    db = apsw.Connection(str(path))
    answer = db.pragma("integrity_check")
    db.close()
    return bool(answer == "ok")


def test_a_build_fills_the_disk(
    cramped: Master, small_disk: Path, lines: Path, tmp_path: Path
) -> None:
    master = cramped
    foreground = Foreground(master, tmp_path / "output")
    assert master.force("noisy", "--no-wait").stdout == "1\n"
    wait_for(lambda: master.builds("noisy"), "the build to start")
    filler = fill(small_disk, leave_bytes=LEFT_BYTES)

    what, hint = foreground.message()
    assert what == (
        f"{master.state_file}: no space is left to write it (database or disk is full, code 13);"
        " the master stops, and nothing that it had acknowledged is lost"
    )
    assert hint == f"Try: free some space, then: litebot start {master.basedir}"

    filler.unlink()
    assert is_whole(master.state_file)
    lines.write_text(f"{FEW}")
    master.start()
    assert master.finished_build("noisy", 2)["results"] == SUCCESS
    first, _ = master.builds("noisy")
    assert first["results"] == RETRY
    (request,) = master.rest("buildrequests", buildrequestid=1)["buildrequests"]
    assert (request["complete"], request["results"]) == (True, SUCCESS)

    # The log of the interrupted build is whole as far as it goes.
    printed = [line.split()[0] for line in output_of(master, first["buildid"])]
    assert len(printed) > FEW
    assert printed == [str(number) for number in range(len(printed))]


def output_of(master: Master, buildid: int) -> list[str]:
    """What the build's only step printed."""
    text = master.log_text(buildid, "shell")
    return [line[1:] for line in text.splitlines() if line.startswith("o")]


def test_what_is_refused_on_a_full_disk_has_not_happened(
    cramped: Master, small_disk: Path, lines: Path, tmp_path: Path
) -> None:
    master = cramped
    lines.write_text(f"{FEW}")
    pid_file = tmp_path / "pid"
    master.define_builder("silent", f"echo $$ > {pid_file}; exec sleep 1000")
    foreground = Foreground(master, tmp_path / "output")
    master.force("silent", "--no-wait")
    pid = int(wait_for(lambda: pid_file.exists() and pid_file.read_text(), "the step to start"))
    filler = fill(small_disk, leave_bytes=0)
    refused = master.force("noisy", "--no-wait")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"litebot: {master.state_file}: no space is left")
    assert foreground.message()[0].startswith(f"{master.state_file}: no space is left")
    wait_for(lambda: not is_running(pid), "the step's process to be gone")

    filler.unlink()
    master.start()
    asked = master.rest("buildrequests")["buildrequests"]
    assert [request["buildrequestid"] for request in asked] == [1]
    assert master.force("noisy").returncode == 0


def test_in_the_background_too(cramped: Master, small_disk: Path, lines: Path) -> None:
    master = cramped
    master.start()
    assert (master.basedir / "reserve").stat().st_blocks * 512 >= 64 * 1024
    assert master.force("noisy", "--no-wait").returncode == 0
    wait_for(lambda: master.builds("noisy"), "the build to start")
    filler = fill(small_disk, leave_bytes=LEFT_BYTES)
    wait_for(lambda: not is_running(master.pid), "the master to stop", STOP_S)
    # The log lies on the same disk, where it is given some room.
    assert not (master.basedir / "reserve").exists()
    assert f"litebot: {master.state_file}: no space is left to write it" in master.log
    assert "Try: free some space" in master.log
    assert "Traceback" not in master.log
    filler.unlink()
    assert is_whole(master.state_file)
    lines.write_text(f"{FEW}")
    master.start()
    assert master.finished_build("noisy", 2)["results"] == SUCCESS


def test_the_disk_fails_while_the_master_stops(
    cramped: Master, small_disk: Path, tmp_path: Path
) -> None:
    foreground = Foreground(cramped, tmp_path / "output")
    cramped.force("noisy", "--no-wait")
    wait_for(lambda: cramped.builds("noisy"), "the build to start")
    filler = fill(small_disk, leave_bytes=0)
    foreground.process.terminate()
    assert foreground.message()[0].startswith(f"{cramped.state_file}: no space is left")
    filler.unlink()
    assert is_whole(cramped.state_file)


def test_a_start_on_a_full_disk_says_so(cramped: Master, small_disk: Path, lines: Path) -> None:
    filler = fill(small_disk, leave_bytes=0)
    refused = cramped.run("start")
    assert refused.returncode == 1
    assert f"litebot: {cramped.basedir}: No space left on device" in refused.stderr
    filler.unlink()
    lines.write_text(f"{FEW}")
    cramped.start()
    assert cramped.force("noisy").returncode == 0


# changes that come meanwhile

HOOKED = """
from twisted.cred.checkers import AllowAnonymousAccess
c["www"] = {
    "change_hook_dialects": {"base": True}, "change_hook_auth": [AllowAnonymousAccess()]
}
c["schedulers"].append(schedulers.AnyBranchScheduler(name="any", builderNames=["quick"]))
"""
OPEN_BUILDSETS = "SELECT count(*) FROM buildsets WHERE complete = 0"
BUILT = """
    SELECT s.revision FROM sourcestamps s
    JOIN buildset_sourcestamps b ON b.sourcestampid = s.id ORDER BY b.id
"""


@pytest.fixture
def hooked(cramped: Master) -> Master:
    """The same with a hook, and a builder for each change that comes by it."""
    cramped.define_builder("quick", "true")
    cramped.configure(HOOKED)
    return cramped


def send(master: Master, revision: str, comments: str = "") -> int:
    """The HTTP status of a change sent to the hook; 0 where nobody answers."""
    form = {"author": "Ada", "comments": comments, "branch": "b", "revision": revision}
    kind = "application/x-www-form-urlencoded"
    with suppress(OSError, HTTPException):
        visitor = master.visitor()
        reply = visitor.request("POST", "/change_hook/base", urlencode(form), Content_Type=kind)
        return reply.status
    return 0


def column(master: Master, query: str) -> list[Any]:
    """The only column that its tables answer with."""
    db = connect(master.state_file)
    values = [value for (value,) in db.execute(query)]
    db.close()
    return values


def test_changes_that_were_acknowledged_until_the_disk_was_full_are_built(
    hooked: Master, small_disk: Path, tmp_path: Path
) -> None:
    foreground = Foreground(hooked, tmp_path / "output")
    filler = fill(small_disk, leave_bytes=LEFT_BYTES)
    answers = {}
    for number in range(1000):
        answers[f"{number}"] = send(
            hooked, f"{number}", random.Random(number).randbytes(2000).hex()
        )
        if answers[f"{number}"] != 200:
            break
    assert foreground.message()[0].startswith(f"{hooked.state_file}: no space is left")
    acknowledged = [revision for revision, status in answers.items() if status == 200]
    assert acknowledged
    assert set(answers.values()) <= {200, 503, 0}

    filler.unlink()
    assert is_whole(hooked.state_file)
    assert set(acknowledged) <= set(column(hooked, "SELECT revision FROM changes"))
    hooked.start()
    wait_for(lambda: column(hooked, OPEN_BUILDSETS) == [0], "all to be built", 60)
    stored = column(hooked, "SELECT revision FROM changes ORDER BY changeid")
    assert sorted(column(hooked, BUILT)) == sorted(stored)  # each once
    assert send(hooked, "after") == 200


@pytest.mark.parametrize("asked", [False, True], ids=["idle", "just refused something"])
def test_a_master_on_a_full_disk_stops_soon(
    hooked: Master, small_disk: Path, tmp_path: Path, *, asked: bool
) -> None:
    foreground = Foreground(hooked, tmp_path / "output")
    assert send(hooked, "before") == 200
    filler = fill(small_disk, leave_bytes=0)
    if asked:
        assert send(hooked, "refused", "c" * 100_000) == 503
    else:
        time.sleep(FULL_FOR_S)  # nothing that could be waited for happens
    foreground.process.terminate()
    began = time.monotonic()
    code = foreground.process.wait(STOP_S)
    require_less(time.monotonic() - began, SOON_S)
    if asked or code != 0:  # an idle one may need no more space than it has
        assert foreground.message()[0].startswith(f"{hooked.state_file}: no space is left")
    filler.unlink()
    assert is_whole(hooked.state_file)
    hooked.start()
    wait_for(lambda: column(hooked, OPEN_BUILDSETS) == [0], "all to be built")
    assert column(hooked, BUILT) == ["before"]


# a damaged page

LOAD_BUILDS = """
    INSERT INTO builders (id, name, name_hash) VALUES (17, 'old', 'x');
    INSERT INTO masters VALUES (17, 'old', 'x', 0, 0);
    INSERT INTO workers (id, name, info) VALUES (17, 'old', '{}');
    INSERT INTO buildsets (id, submitted_at, complete) VALUES (17, 0, 1);
    INSERT INTO buildrequests (id, buildsetid, builderid, complete, submitted_at)
        VALUES (17, 17, 17, 1, 0);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000)
    INSERT INTO builds SELECT i, i, 17, 17, 17, 17, i, i, 0, 'finished', 0 FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000)
    INSERT INTO steps SELECT i, 0, 'shell', i, i, i, i, 'finished', 0, '[]', 0 FROM n;
"""


@pytest.fixture
def with_history(master: Master) -> Master:
    db = apsw.Connection(str(master.state_file))
    db.execute(textwrap.dedent(LOAD_BUILDS))
    db.close()
    return master


def test_a_damaged_page_that_a_start_reads(with_history: Master) -> None:
    assert damage(with_history.state_file, "builds") == 1
    refused = with_history.run("start")
    assert refused.returncode == 1
    what, hint = refused.stderr.splitlines()
    assert what == (
        f"litebot: {with_history.state_file}: a page of it is damaged (database disk image is"
        " malformed, code 11); the master stops"
    )
    assert hint == "  Try: restore a backup of it; the old file may tell more"


@pytest.mark.parametrize("reader", ["a visitor", "a follower", "the master"])
def test_a_damaged_page_that_is_read_later(
    with_history: Master, tmp_path: Path, reader: str
) -> None:
    master = with_history
    assert damage(master.state_file, "steps") == 1
    foreground = Foreground(master, tmp_path / "output")
    if reader == "a visitor":
        assert len(master.rest("builds/1/steps")["steps"]) == 1
        assert master.visitor().request("GET", "/api/v2/builds/1500/steps").status == 500
    elif reader == "a follower":
        events = list(stream(Basedir(master.basedir), "/follow?buildrequestid=17"))
        assert events[0]["event"] == "build"
        assert events[-1]["event"] == "error"
        with pytest.raises(LitebotError, match="a page of it is damaged"):
            show(iter(events[-1:]))
    else:
        master.force("hello", "--no-wait")
    what, hint = foreground.message()
    assert what.startswith(f"{master.state_file}: a page of it is damaged (")
    assert hint == "Try: restore a backup of it; the old file may tell more"
