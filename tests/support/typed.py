"""Typing what the documents show, as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from litebot.settings import set_value
from support.ports import free_ports

MAKES_A_MASTER = re.compile(r"^litebot (?:create|upgrade)-master\b.*? (\S+)$")
BIN = Path(sys.executable).parent


def run(command: str, folder: Path, path: Path = BIN) -> str:
    """What a line prints when it is typed in a folder; it must exit with 0."""
    env = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # `make test` runs this; a reader has none
        env.pop(name, None)
    env.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    if made := MAKES_A_MASTER.search(command):
        _give_ports(folder / made[1])
    return done.stdout


def _give_ports(basedir: Path) -> None:
    """Give a new master ports of its own: others may be given those that it has chosen, too."""
    file = basedir / "litebot.toml"
    for key, port in zip(("web.port", "workers.port"), free_ports(2), strict=True):
        set_value(file, key, port)


def run_all(commands: Iterable[str], folder: Path, **replaced: str) -> list[str]:
    """Type lines one after the other; see `run`.  What is in `replaced` stands for other words."""
    said = []
    for command in commands:
        for name, value in replaced.items():
            command = command.replace(name, value)
        said.append(run(command, folder))
    return said


def succeeds(command: str, folder: Path) -> bool:
    """Whether a line exits with 0."""
    try:
        run(command, folder)
    except AssertionError:
        return False
    return True


def page_of(folder: Path, basedir: str = "ci") -> str:
    """The address of the page of a master that runs."""
    found = re.search(r"^page +(\S+)$", run(f"litebot status {basedir}", folder), re.MULTILINE)
    assert found
    return found[1]


def stop(folder: Path, *basedirs: str) -> None:
    """Stop what a test may have left running."""
    for basedir in basedirs or ("ci",):
        subprocess.run([BIN / "litebot", "stop", basedir], cwd=folder, capture_output=True)
