"""What a command prints is kept whole, however long its lines are and wherever they are cut."""

from __future__ import annotations

import json
import sys

import pytest

from support.commands import succeeded
from support.master import Master
from support.master import on_both

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
