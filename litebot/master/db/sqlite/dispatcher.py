"""Visitors who come in a crowd while builds run are let in together.

What is done for a visitor between two steps of builds finds nothing of what it needs in the
processor's caches, and takes about twice as long as what is done right after the like.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet import defer

from litebot.master.db.pool import TURN_S
from litebot.master.db.read_pool import ReadSnapshot

# A crowd: so many visits within so many seconds.
CROWD_REQUESTS = 20
CROWD_S = 1.0
# How far apart two groups of a crowd are let in.
GROUP_EVERY_S = 0.05


class Dispatcher:
    """Lets visits in.

    `settle` is called before each group of a crowd.  It commits what has been done, and says
    whether that is all that has been asked for.
    """

    def __init__(self, reactor: Any, settle: Callable[[], bool]) -> None:
        self._reactor = reactor
        self._settle = settle
        self._came: deque[float] = deque(maxlen=CROWD_REQUESTS)
        self._waiting: deque[tuple[ReadSnapshot, defer.Deferred[None]]] = deque()
        self._opens: Any = None
        self._opened_at = -GROUP_EVERY_S

    def admit(self, snapshot: ReadSnapshot, *, builds_run: bool) -> defer.Deferred[None]:
        """Fires when a visit may begin: at once, or with others of a crowd while builds run."""
        now = time.monotonic()
        self._came.append(now)
        is_crowd = len(self._came) == CROWD_REQUESTS and now - self._came[0] < CROWD_S
        if self._opens is None and not (is_crowd and builds_run):
            return defer.succeed(None)
        d: defer.Deferred[None] = defer.Deferred()
        self._waiting.append((snapshot, d))
        if self._opens is None:
            wait_s = max(0.0, self._opened_at + GROUP_EVERY_S - now)
            self._opens = self._reactor.callLater(wait_s, self._open)
        return d

    def stop(self) -> None:
        """Let all in at once, so that they hear that there is nothing to see any more."""
        if self._opens is not None:
            self._opens.cancel()
            self._opens = None
        while self._waiting:
            self._waiting.popleft()[1].callback(None)

    def _open(self) -> None:
        self._opens = None
        self._opened_at = time.monotonic()
        is_settled = self._settle()
        while self._waiting and time.monotonic() < self._opened_at + TURN_S:
            snapshot, d = self._waiting.popleft()
            if is_settled:
                snapshot.note_waited()
            d.callback(None)
        if self._waiting and self._opens is None:
            self._opens = self._reactor.callLater(0.0, self._open)
