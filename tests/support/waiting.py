"""A step that waits until the test lets it go on."""

from __future__ import annotations

import sys

from support.commands import wait_for
from support.master import Master

# The script of the step: it makes the file `waiting`, and waits for the file `go`, in the basedir.
WAITS = """
import pathlib, time
here = pathlib.Path(__file__).parent
print("waiting", flush=True)
(here / "waiting").touch()
while not (here / "go").exists():
    time.sleep(0.02)
print("went on", flush=True)
"""


def waiting_step(master: Master) -> str:
    """Write the script, and return its command for define_builder.  See WAITS."""
    script = master.basedir / "waits.py"
    script.write_text(WAITS, encoding="utf-8")
    return f"{sys.executable} {script}"


def wait_for_waiting_step(master: Master) -> None:
    wait_for((master.basedir / "waiting").exists, "the step to wait")
