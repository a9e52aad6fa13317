"""How the start of this process went: told to whoever waits, and kept for the exit code.

`litebot start` hands the new process the write end of a pipe in LITEBOT_READY_FD and reads one
line of JSON: {"ready": {...}} or {"failed": {"what": ..., "hint": ...}}.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

from litebot.errors import LitebotError

READY_FD = "LITEBOT_READY_FD"

exit_status = 0


def ready(**facts: Any) -> None:
    """The master answers."""
    _tell({"ready": facts})


def failed(error: LitebotError) -> None:
    """The process is going to stop because of `error`, with its exit code."""
    global exit_status
    exit_status = error.exit_code
    _tell({"failed": {"what": error.what, "hint": error.hint}})


def _tell(message: dict[str, Any]) -> None:
    fd = os.environ.pop(READY_FD, None)
    if fd is not None:
        # Whoever waited may be gone: BrokenPipeError then, and nobody to tell.
        with suppress(OSError), os.fdopen(int(fd), "w", encoding="utf-8") as pipe:
            pipe.write(json.dumps(message) + "\n")
