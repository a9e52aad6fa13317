"""The log of the process, twistd.log: without secrets, and for its owner alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted import logger
from twisted.python import components
from twisted.python import log
from twisted.python.logfile import BaseLogFile
from zope.interface import implementer

from litebot.files import PRIVATE
from litebot.master.secrets.masker import mask_urls
from litebot.master.secrets.masker import masker

# What a masked event keeps; all else may hold the secret.
KEPT = ("log_time", "log_level", "log_namespace", "log_system", "time", "system", "isError")


@implementer(logger.ILogObserver)
class MaskingObserver:
    """Passes each event on to another observer, without secrets and passwords in URLs."""

    def __init__(self, observer: Callable[[dict[str, Any]], None]) -> None:
        self._observer = observer

    def __call__(self, event: dict[str, Any]) -> None:
        text = event.get("log_text")  # of a legacy event, with its traceback
        if text is None:
            text = logger.eventAsText(event, includeTimestamp=False, includeSystem=False)
        masked = mask_urls(masker.mask(text))
        if masked != text:
            event = {name: event[name] for name in KEPT if name in event} | {
                "log_format": "{log_text}",
                "log_text": masked,
                "message": (masked,),
            }
        self._observer(event)


def close_log_file(application: components.Componentized) -> str | None:
    """Let only its owner read the log file that buildbot.tac has opened, and those after it.

    Returns a note if others could read what is in it.  Does nothing for a log that is no file of
    Twisted's.
    """
    emit = application.getComponent(log.ILogObserver)
    write = getattr(getattr(emit, "__self__", None), "write", None)
    file = getattr(write, "__self__", None)
    if not isinstance(file, BaseLogFile):
        return None
    file.defaultMode = PRIVATE
    with suppress(OSError):
        status = os.stat(file.path)
        if status.st_mode & 0o077:
            os.chmod(file.path, PRIVATE)
            if status.st_size:
                mode = status.st_mode & 0o7777
                return f"{file.path} had mode {mode:04o}, now 0600: others could read it"
    return None
