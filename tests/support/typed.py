"""Runs the commands that the documents show, as a reader would type them."""

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
    """Run a line in a folder and return what it prints; it must exit with 0."""
    env = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # set by `make test`, but not for a reader
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
    """Set free ports for a new master: another test may use the ports that it has chosen."""
    file = basedir / "litebot.toml"
    for key, port in zip(("web.port", "workers.port"), free_ports(2), strict=True):
        set_value(file, key, port)


def run_all(commands: Iterable[str], folder: Path, **replaced: str) -> list[str]:
    """Run lines one after the other; return what they print.  See `run`.

    Each name in `replaced` is replaced by its value in the lines.
    """
    said = []
    for command in commands:
        for name, value in replaced.items():
            command = command.replace(name, value)
        said.append(run(command, folder))
    return said


def succeeds(command: str, folder: Path) -> bool:
    """Return whether a line exits with 0."""
    try:
        run(command, folder)
    except AssertionError:
        return False
    return True


def page_of(folder: Path, basedir: str = "ci") -> str:
    """Return the URL of the web page of a running master."""
    found = re.search(r"^page +(\S+)$", run(f"litebot status {basedir}", folder), re.MULTILINE)
    assert found
    return found[1]


def stop(folder: Path, *basedirs: str) -> None:
    """Stop the masters that a test may have left running."""
    for basedir in basedirs or ("ci",):
        subprocess.run([BIN / "litebot", "stop", basedir], cwd=folder, capture_output=True)
