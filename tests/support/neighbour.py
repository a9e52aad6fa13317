"""Another user of the machine, who may do what file modes let them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from support.commands import Done
from support.commands import require
from support.commands import run

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def require_neighbour() -> None:
    """Skip the test where nobody may become another user."""
    require(os.geteuid() == 0, "only root can become another user")
    require(shutil.which("setpriv"), "setpriv of util-linux is not installed")


def as_neighbour(*command: str | Path, **kwargs: Any) -> Done:
    """Run a command as another user."""
    return run(*AS_NOBODY, *command, **kwargs)


def begin_as_neighbour(*command: str | Path, **kwargs: Any) -> subprocess.Popen[bytes]:
    """Start a command as another user."""
    return subprocess.Popen([*AS_NOBODY, *map(str, command)], **kwargs)
