"""What a command prints is kept whole, however long its lines are and wherever they are cut."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from litebot.master.builds.whole_lines import LONGEST_OVER_WEBSOCKET
from support.attacks import visits
from support.commands import succeeded
from support.master import Master
from support.master import on_both
from support.remote import remote_worker
from support.timing import require_less

NUMBERS = json.dumps(list(range(6000)), separators=(",", ":"))
LONG = "import json; print(json.dumps(list(range(6000)), separators=(',',':')))"
# Each piece is sent by itself.
SPLIT = r"""
import os, time
for piece in [b"a\r", b"\nb\xc3", b"\xa9\xff\n", b"c\x1b[", b"2Jd\n"]:
    os.write(1, piece)
    time.sleep(0.1)
"""
# Each with what its log shows.
PROGRAMS = {
    "long": (LONG, NUMBERS + "\n"),
    "after short ones": (f"print('a'); print('b' * 100); {LONG}", f"a\n{'b' * 100}\n{NUMBERS}\n"),
    "without an end": (LONG.replace("print(", "print(end='', *[").replace(")))", "))])"), NUMBERS),
    "random": ("import random; r = random.Random(1); print(r.randbytes(150_000).hex())", None),
    "progress": ("import sys; sys.stdout.write('1%\\r2%\\r\\n3%\\r')", "1%\n2%\n3%\n"),
    "split": (SPLIT, "a\nbé\ufffd\nc\nd\n"),
}


@pytest.fixture(scope="module")
def running(module_master: Master) -> Master:
    for name, (program, _) in PROGRAMS.items():
        command = [sys.executable, "-c", program]
        builder = name.replace(" ", "-")
        module_master.configure(
            f"""
            c["builders"].append(util.BuilderConfig(
                name={builder!r}, workernames=["local"], factory=util.BuildFactory([
                    steps.ShellCommand(name="shell", command={command!r}, logEnviron=False),
                    steps.SetPropertyFromCommand(
                        command={command!r}, property="said", strip=False, logEnviron=False),
                ])))
            c["schedulers"].append(
                schedulers.ForceScheduler(name="force-{builder}", builderNames=[{builder!r}]))
            """
        )
    module_master.start()
    return module_master


@on_both
@pytest.mark.parametrize("name", PROGRAMS)
def test_on_a_local_worker(running: Master, name: str) -> None:
    import random

    shown = PROGRAMS[name][1] or random.Random(1).randbytes(150_000).hex() + "\n"
    builder = name.replace(" ", "-")
    succeeded(running.force(builder))
    buildid = running.finished_build(builder)["buildid"]
    lines = running.log_text(buildid, "shell").splitlines()
    said = [line[1:] for line in lines if line.startswith("o")]
    assert said == shown.splitlines()
    props = running.rest(f"builds/{buildid}/properties")["properties"][0]
    assert props["said"][0].splitlines() == shown.splitlines()


MSGPACK = "msgpack_experimental_v7"
FAR_LONGER = 900_000


def lines_of_a_separate_worker(
    master: Master, folder: Path, length: int, *options: str
) -> list[str]:
    """Have a worker print NUMBERS, a line of this length, and a short one.

    Returns the lines of the log, each with the letter of its stream.
    """
    command = [sys.executable, "-c", f"{LONG}; print('x' * {length}); print('short')"]
    master.configure(
        f"""
        c["workers"] = [worker.Worker("remote", "workerpw")]
        c["builders"] = [util.BuilderConfig(
            name="b", workernames=["remote"], factory=util.BuildFactory([
                steps.ShellCommand(name="shell", command={command!r}, logEnviron=False)]))]
        c["schedulers"] = [schedulers.ForceScheduler(name="force-b", builderNames=["b"])]
        """
    )
    master.start()
    with remote_worker(folder / "remote", f"127.0.0.1:{master.ports[1]}", *options):
        succeeded(master.force("b"))
    return master.log_text(master.finished_build("b")["buildid"], "shell").splitlines()


def test_on_a_separate_worker_over_websocket(master: Master, tmp_path: Path) -> None:
    master.configure(f"c['protocols'] = {{{MSGPACK!r}: {{'port': {master.ports[1]}}}}}")
    longest = LONGEST_OVER_WEBSOCKET - 1
    lines = lines_of_a_separate_worker(master, tmp_path, longest, f"--protocol={MSGPACK}")
    said = [line[1:] for line in lines if line.startswith("o")]
    assert said == [NUMBERS, "x" * longest, "short"]


def test_what_a_worker_over_pb_cuts_is_said(master: Master, tmp_path: Path) -> None:
    lines = lines_of_a_separate_worker(master, tmp_path, FAR_LONGER)
    kept = sum(len(line) - 1 for line in lines if line.startswith("o"))
    lost = len(NUMBERS) + FAR_LONGER + len("short") - kept
    (note,) = [line for line in lines if line.startswith("hlitebot: the worker has cut lines")]
    (least,) = re.findall(r"lost at least (\d+)", note)
    assert lost > 100_000  # else nothing has to be said
    assert 0.9 * lost < int(least) <= lost


LONGEST = 64 * 1024 * 1024 - 1


def test_a_line_of_64_mb_keeps_nobody_waiting(master: Master) -> None:
    """It takes the reactor half a second at once, where it took five."""
    command = [sys.executable, "-c", f"print('x' * {LONGEST}); print('short')"]
    (master.basedir / "secrets" / "token").write_text("a-token-that-is-masked")
    master.configure(
        f"""
        c["builders"].append(util.BuilderConfig(
            name="b", workernames=["local"], factory=util.BuildFactory([
                steps.ShellCommand(
                    name="shell", command={command!r}, env={{"T": util.Secret("token")}})])))
        c["schedulers"].append(schedulers.ForceScheduler(name="force-b", builderNames=["b"]))
        """
    )
    master.start()
    with visits(master) as waits:
        printed = succeeded(master.force("b")).stdout.splitlines()
    require_less(max(waits), 3)
    assert ("x" * LONGEST) in printed
    assert "short" in printed
