"""Keeping the log short where visitors cause it: their lines are cut, and many are left out.

Buildbot and Twisted log much of what a visitor sends, and a log of a fixed size that anybody can
fill keeps nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from twisted import logger

# Set where what is run was asked for by a visitor, and by nobody whom the master knows.
for_visitor: ContextVar[bool] = ContextVar("for_visitor", default=False)

PER_WINDOW = 100
ERRORS_PER_WINDOW = 5
WINDOW_S = 60.0
LONGEST_LINE = 300
LONGEST_ERROR = 4000
# What Twisted's web server logs of connections comes from no request.
NAMESPACES = ("twisted.web.", "autobahn.")


class BriefObserver:
    """Passes events of the log on to another observer; those that visitors cause are cut.

    Of these it passes on at most PER_WINDOW in WINDOW_S, and of errors ERRORS_PER_WINDOW, and then
    says how many it has left out.
    """

    def __init__(self, observer: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer
        self._clock = clock
        self._began_at = clock()
        self._passed = {True: 0, False: 0}  # errors, and others
        self._left_out = 0

    def __call__(self, event: dict[str, Any]) -> None:
        namespace = event.get("log_namespace") or ""
        is_visitors = for_visitor.get() or namespace.startswith(NAMESPACES)
        # An event without a text, such as one of Buildbot's metrics, is not written.
        if not is_visitors or not event.get("log_format"):
            self._observer(event)
            return
        if self._clock() - self._began_at >= WINDOW_S:
            self._begin_window(event)
        is_error = bool(event.get("isError") or event.get("log_failure"))
        self._passed[is_error] += 1
        if self._passed[is_error] > (ERRORS_PER_WINDOW if is_error else PER_WINDOW):
            self._left_out += 1
        else:
            self._observer(_cut(event, is_error))

    def _begin_window(self, event: dict[str, Any]) -> None:
        self._began_at = self._clock()
        self._passed = {True: 0, False: 0}
        if self._left_out:
            said = f"litebot: {self._left_out:,} lines of the log about visitors were left out"
            self._observer(_with_text(event, said))
            self._left_out = 0


def _cut(event: dict[str, Any], is_error: bool) -> dict[str, Any]:
    """Return an event with a text of one short line, or of some lines for an error."""
    text = logger.eventAsText(event, includeTimestamp=False, includeSystem=False)
    if is_error:
        shown = text if len(text) <= LONGEST_ERROR else text[:LONGEST_ERROR] + "\n..."
        return _with_text(event, shown)
    line = text[: LONGEST_LINE + 1]
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    cut = len(shown) > LONGEST_LINE
    return _with_text(event, shown[:LONGEST_LINE] + ("..." if cut else ""))


def _with_text(event: dict[str, Any], text: str) -> dict[str, Any]:
    kept = ("log_time", "log_level", "log_system", "log_namespace", "time", "system", "isError")
    return {
        **{key: event[key] for key in kept if key in event},
        "log_format": "{log_text}",
        "log_text": text,
    }
