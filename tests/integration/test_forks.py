"""What tests fork is as the real command and the real master: see support/fork_server.py."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.commands import LITEBOT
from support.commands import Done
from support.commands import begin
from support.commands import is_running
from support.commands import litebot
from support.commands import real_litebot
from support.commands import wait_for
from support.forks import Forked
from support.forks import server
from support.master import Master

Runs = Callable[..., Done]

# It logs what a master finds, and what it was given.
CONFIG = """
import random, sys
from twisted.python import log

log.msg("given", sys.argv, sys.path[:2], os.getcwd(), dict(os.environ), sys.stdin.fileno())
log.msg("chosen", random.random())
"""


def of_process(pid: int) -> dict[str, Any]:
    """What distinguishes processes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    lines = dict(line.split(":", 1) for line in status.splitlines())
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    opened = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    return {
        "cwd": os.readlink(f"/proc/{pid}/cwd"),
        "leads its session": stat[3] == str(pid),
        "leads its group": stat[2] == str(pid),
        "parent": stat[1],
        "signals": [lines[name] for name in ("SigBlk", "SigIgn", "SigCgt")],
        "umask": lines["Umask"],
        "open": sorted(re.sub(r"\[\d+\]", "", path) for path in opened),
        "nice": stat[16],
        "threads": lines["Threads"],
    }


def given(master: Master) -> list[str]:
    """What a master with CONFIG was given at each start."""
    return [
        re.sub(r"(READY_FD': )'\d+'", r"\1", line) for line in re.findall("given .*", master.log)
    ]


def test_a_forked_master_is_as_a_real_one(master: Master) -> None:
    master.configure(CONFIG)
    found = []
    for runs in (real_litebot, litebot):
        done = runs("start", master.basedir, env={**os.environ, "GIVEN": "x"})
        assert done.returncode == 0
        pid = master.status()["pid"]
        master.pids.append(pid)
        said = re.sub(r"after [\d.]+ s, pid \d+", "", done.stdout)
        wait_for(lambda: "gitpoller: processing changes" in master.log, "all to have begun")
        found.append((said, of_process(pid)))
        master.stop()
    assert found[0] == found[1]
    real, forked = given(master)
    assert real == forked
    assert "'GIVEN': 'x'" in real
    assert len(set(re.findall(r"chosen .*", master.log))) == 2


@pytest.mark.parametrize(
    "command",
    [
        ("--help",),
        ("start",),
        ("start", "--no-such-option"),
        ("--debug", "stop", "/nowhere"),
        ("user", "list"),
        ("check",),
        ("no-such-command",),
    ],
)
def test_a_forked_command_is_as_a_real_one(command: tuple[str, ...], tmp_path: Path) -> None:
    real, forked = (runs(*command, cwd=tmp_path) for runs in (real_litebot, litebot))
    frames = r'(?s)  File ".*?(?=  File "[^"]*/litebot/)'  # those before the first of litebot's
    said = [re.sub(frames, "", done.stderr, count=1) for done in (real, forked)]
    assert (real.returncode, real.stdout, said[0]) == (forked.returncode, forked.stdout, said[1])


def test_it_dies_of_a_signal_and_is_reaped_at_once(master: Master) -> None:
    master.start()
    process = begin(LITEBOT, "build", "--no-such-limit", master.basedir, stderr=subprocess.DEVNULL)
    assert isinstance(process, Forked)
    assert process.wait(10) == 2
    master.define_builder("slow", "sleep 60")
    master.reconfig()
    process = begin(LITEBOT, "build", "slow", master.basedir, stderr=subprocess.DEVNULL)
    wait_for(lambda: master.builds("slow"), "the build to begin")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_killed_master_is_gone(master: Master) -> None:
    master.start()
    master.kill()
    assert not is_running(master.pid)
    assert "pid" not in master.status() or master.status()["pid"] is None


def test_what_only_a_new_process_obeys_is_not_forked() -> None:
    with begin(
        LITEBOT, "--help", env={**os.environ, "PYTHONVERBOSE": "1"}, stdout=-1, stderr=-1
    ) as process:
        assert not isinstance(process, Forked)
        assert b"import 'click'" in process.communicate()[1]


def test_its_standard_streams_are_those_that_it_is_given(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w") as file:
        done = litebot("--version", stdout=file, stderr=subprocess.STDOUT)
    assert done.returncode == 0
    assert (tmp_path / "said").read_text().startswith("litebot, version ")


def test_the_server_ends_with_the_tests() -> None:
    code = "from support.forks import server; print(server()._process.pid)"
    path = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=True,
    )
    pid = int(done.stdout)
    assert pid != server()._process.pid
    assert not is_running(pid)
