"""How the start of this process went: reported to `litebot start`, and kept for the exit code.

`litebot start` passes the new process the write end of a pipe, with its number in LITEBOT_READY_FD,
and reads one line of JSON: {"ready": {...}} or {"failed": {"what": ..., "hint": ...}}.
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
    """Report that the master has started and answers, with `facts` such as its pid and its URL."""
    _report({"ready": facts})


def failed(error: LitebotError) -> None:
    """Report that this process stops because of `error`, and keep its exit code."""
    global exit_status
    exit_status = error.exit_code
    _report({"failed": {"what": error.what, "hint": error.hint}})


def _report(message: dict[str, Any]) -> None:
    fd = os.environ.pop(READY_FD, None)
    if fd is not None:
        # The command that waited may have ended; writing then raises BrokenPipeError.
        with suppress(OSError), os.fdopen(int(fd), "w", encoding="utf-8") as pipe:
            pipe.write(json.dumps(message) + "\n")
