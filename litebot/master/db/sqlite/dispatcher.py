"""The dispatcher: starts many requests in groups while builds run.

Work for a request that runs between two steps of builds finds none of its data in the processor's
caches.  It takes about twice as long as work that runs right after work of the same kind.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet import defer

from litebot.master.db.pool import TURN_S
from litebot.master.db.read_pool import ReadSnapshot

# Requests are grouped once CROWD_REQUESTS of them have come within CROWD_S.
CROWD_REQUESTS = 20
CROWD_S = 1.0
# The time between two groups.
GROUP_EVERY_S = 0.05


class Dispatcher:
    """Decides when each request may begin.

    `commit_all` is called before each group.  It commits all work done so far, and returns whether
    that is all the work that was submitted.
    """

    def __init__(self, reactor: Any, commit_all: Callable[[], bool]) -> None:
        self._reactor = reactor
        self._commit_all = commit_all
        self._arrivals: deque[float] = deque(maxlen=CROWD_REQUESTS)
        self._waiting: deque[tuple[ReadSnapshot, defer.Deferred[None]]] = deque()
        self._timer: Any = None
        self._last_group_at = -GROUP_EVERY_S

    def admit(self, snapshot: ReadSnapshot, *, builds_run: bool) -> defer.Deferred[None]:
        """Fires when a request may begin: at once, or with its group while builds run."""
        now = time.monotonic()
        self._arrivals.append(now)
        is_crowd = len(self._arrivals) == CROWD_REQUESTS and now - self._arrivals[0] < CROWD_S
        if self._timer is None and not (is_crowd and builds_run):
            return defer.succeed(None)
        d: defer.Deferred[None] = defer.Deferred()
        self._waiting.append((snapshot, d))
        if self._timer is None:
            wait_s = max(0.0, self._last_group_at + GROUP_EVERY_S - now)
            self._timer = self._reactor.callLater(wait_s, self._admit_group)
        return d

    def stop(self) -> None:
        """Admit all waiting requests; the stopped pool then refuses their reads."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            self._waiting.popleft()[1].callback(None)

    def _admit_group(self) -> None:
        self._timer = None
        self._last_group_at = time.monotonic()
        is_all_committed = self._commit_all()
        while self._waiting and time.monotonic() < self._last_group_at + TURN_S:
            snapshot, d = self._waiting.popleft()
            if is_all_committed:
                snapshot.mark_waited()
            d.callback(None)
        if self._waiting and self._timer is None:
            self._timer = self._reactor.callLater(0.0, self._admit_group)
