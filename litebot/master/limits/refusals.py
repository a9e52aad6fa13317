"""What was refused at the doors of a master: counted for `litebot status`, and logged in brief."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.python import log

LOG_EVERY_S = 10.0
LONGEST_LINE = 300


class Refusals:
    """Counts refusals by reason.  Each reason is logged at most once in LOG_EVERY_S.

    A reason is a constant of a few words, such as "too many connections": it is shown to users, and
    must not hold anything that a visitor has sent.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._logged_at: dict[str, float] = {}
        self._unlogged: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.latest: dict[str, str] = {}  # who or what was refused last, by the reason

    def note(self, reason: str, detail: str = "") -> bool:
        """Count a refusal; `detail` says who or what, and is escaped and cut.

        Returns whether it was logged.
        """
        self.counts[reason] += 1
        shown = printable(detail)
        self.latest[reason] = shown
        now = self._reactor.seconds()
        if now - self._logged_at.get(reason, -LOG_EVERY_S) < LOG_EVERY_S:
            self._unlogged[reason] += 1
            return False
        self._logged_at[reason] = now
        unlogged = self._unlogged.pop(reason, 0)
        more = f" (and {unlogged:,} more since the last line)" if unlogged else ""
        log.msg(f"litebot: refused: {reason}{': ' * bool(shown)}{shown}{more}")
        return True


def printable(text: str, longest: int = LONGEST_LINE) -> str:
    """Return a text for one line of a log: escaped, and cut to `longest` characters."""
    cut = text[:longest]
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return escaped[:longest] + ("..." if len(text) > longest or len(escaped) > longest else "")
