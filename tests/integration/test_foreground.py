"""litebot start --foreground, as for systemd and containers."""

from __future__ import annotations

import signal
import subprocess

import pytest

from support.commands import LITEBOT
from support.commands import run
from support.master import Master

pytestmark = pytest.mark.usefixtures("real_commands")


@pytest.mark.parametrize(
    ("by", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGINT, -signal.SIGINT)]
)
def test_foreground_logs_to_stdout_and_stops_cleanly(
    master: Master, by: signal.Signals, exit_code: int
) -> None:
    command = [LITEBOT, "start", "--foreground", str(master.basedir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        master.pids.append(process.pid)
        assert process.stdout is not None
        assert any("BuildMaster is running" in line for line in process.stdout)
        assert master.force("hello").returncode == 0
        assert master.status()["pid"] == process.pid
        process.send_signal(by)
        assert "BuildMaster is stopped" in process.stdout.read()
        assert process.wait(timeout=30) == exit_code
    assert master.status()["last_start"]["stopped_at"] is not None
    assert not master.log


def test_foreground_needs_a_stdout(master: Master) -> None:
    done = run("sh", "-c", f"{LITEBOT} start --foreground {master.basedir} >&-")
    assert done.returncode == 1
    assert "stdout is closed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_foreground_whose_reader_is_gone_builds_on(master: Master) -> None:
    command = [LITEBOT, "start", "--foreground", str(master.basedir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        master.pids.append(process.pid)
        assert process.stdout is not None
        assert any("BuildMaster is running" in line for line in process.stdout)
        process.stdout.close()
        assert master.force("hello").returncode == 0
        master.stop()


def test_foreground_says_why_it_can_not_start_and_fails(master: Master) -> None:
    master.configure("nonsense")
    done = master.run("start", "--foreground")
    assert done.returncode == 1
    assert "NameError: name 'nonsense' is not defined" in done.stdout + done.stderr
    assert not master.status()["running"]
