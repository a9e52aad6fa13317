"""A master to which the system gives few file descriptors: builds always have some."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from support.attacks import connections
from support.attacks import honest_visitor
from support.commands import LITEBOT
from support.commands import run
from support.commands import succeeded
from support.master import Master

pytestmark = pytest.mark.usefixtures("real_commands")

SOFT, HARD = 1024, 1500
MANY = 1100
LARGE_BODY = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"


@pytest.fixture(autouse=True)
def enough_descriptors() -> None:
    """This process needs as many as it opens connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * MANY)), hard))


def start(master: Master, limits: str) -> None:
    """Start a master from a shell with these limits, which are arguments of `ulimit`."""
    command = f'{limits} && exec "{LITEBOT}" start "{master.basedir}"'
    succeeded(run("bash", "-c", command))
    master.pids.append(json.loads((master.basedir / "master.lock").read_text())["pid"])


def soft_limit(master: Master) -> int:
    limits = Path(f"/proc/{master.pid}/limits").read_text(encoding="ascii")
    (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
    return int(line.split()[3])


def test_connections_leave_descriptors_for_builds(master: Master) -> None:
    master.define_builder("short", "ulimit -n")
    start(master, f"ulimit -n {SOFT} && ulimit -Hn {SOFT}")
    assert soft_limit(master) == SOFT
    for sent in (b"", LARGE_BODY + b"x" * 100_000):
        with honest_visitor(master), connections(master, MANY, sent):
            assert master.force("short").returncode == 0
    assert "EMFILE" not in master.log
    assert "Traceback" not in master.log


def test_the_soft_limit_is_raised_and_commands_have_the_old_one(master: Master) -> None:
    master.define_builder("limit", "ulimit -n")
    start(master, f"ulimit -Sn {SOFT} && ulimit -Hn {HARD}")
    assert soft_limit(master) == HARD
    said = master.force("limit").stdout
    assert str(SOFT) in said.split()
    assert str(HARD) not in said.split()
