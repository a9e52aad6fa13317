"""The dispatcher: while builds run, visitors get a part of the reactor's time, and share it.

What visitors ask for is done in groups.  Work for a request that runs between two steps of builds
finds none of its data in the processor's caches: it takes about twice as long as work that runs
right after work of the same kind.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.python import log

from litebot.master.db.read_pool import ReadSnapshot

# How long one kind of work may take in one turn of the reactor.
TURN_S = 0.010
# Requests are grouped once CROWD_REQUESTS of them have come within CROWD_S.
CROWD_REQUESTS = 20
CROWD_S = 1.0
# The time between two groups.
GROUP_EVERY_S = 0.05
# Which part of the time visitors have while builds run, how much of it they may save, and how much
# of what one of them has taken beyond that is held against all.
SHARE = 0.1
SAVED_S = 0.2
OWED_S = 0.06
# What an address has taken counts half after that time.
HALF_LIFE_S = 1.0
NOTHING_S = 1e-4

Run = Callable[[], Any]


class Dispatcher:
    """Runs what visitors ask for; addresses that have taken little time lately come first.

    `builds_run` returns whether there is other work to do.  `commit_all` is called before each
    group.  It commits all work done so far, and returns whether that is all that was submitted.
    """

    def __init__(
        self, reactor: Any, builds_run: Callable[[], bool], commit_all: Callable[[], bool]
    ) -> None:
        self._reactor = reactor
        self._builds_run = builds_run
        self._commit_all = commit_all
        self._arrivals: deque[float] = deque(maxlen=CROWD_REQUESTS)
        self._waiting: dict[str, deque[tuple[Run, ReadSnapshot | None]]] = {}
        self._taken_s: defaultdict[str, float] = defaultdict(float)
        self._halved_at = 0.0
        self._saved_s = SAVED_S  # less than 0 if visitors have taken more than their share
        self._saved_at = time.monotonic()
        self._last_group_at = -GROUP_EVERY_S
        self._timer: Any = None

    def dispatch(self, run: Run, address: str, snapshot: ReadSnapshot | None = None) -> None:
        """Call `run`: at once, or with its group while builds run."""
        now = time.monotonic()
        self._arrivals.append(now)
        is_crowd = len(self._arrivals) == CROWD_REQUESTS and now - self._arrivals[0] < CROWD_S
        if self._timer is None and not ((is_crowd or self._saved_s < 0) and self._builds_run()):
            self._run(run, address)
            return
        self._waiting.setdefault(address, deque()).append((run, snapshot))
        if self._timer is None:
            self._begin_group_later(now)

    def stop(self) -> None:
        """Run all that waits; the stopped pool then refuses its reads."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            address, (run, _snapshot) = self._next()
            self._run(run, address)

    def _run(self, run: Run, address: str) -> None:
        began_at = time.monotonic()
        try:
            run()
        except Exception:
            log.err(None, f"while answering {address}")
        now = time.monotonic()
        self._taken_s[address] += now - began_at
        earned_s = SHARE * (now - self._saved_at)
        saved_s = min(self._saved_s + earned_s, SAVED_S) - (now - began_at)
        self._saved_s = max(saved_s, -OWED_S)
        self._saved_at = now

    def _begin_group_later(self, now: float) -> None:
        """Begin the next group when its time has come, and visitors have time left."""
        wait_s = self._last_group_at + GROUP_EVERY_S - now
        if self._saved_s < 0:
            wait_s = max(wait_s, self._saved_at - self._saved_s / SHARE - now)
        self._timer = self._reactor.callLater(max(0.0, wait_s), self._run_group)

    def _run_group(self) -> None:
        self._timer = None
        self._last_group_at = now = time.monotonic()
        if now - self._halved_at >= HALF_LIFE_S:
            self._halve(now)
        ends_at = now + (SHARE * GROUP_EVERY_S if self._builds_run() else TURN_S)
        is_all_committed = self._commit_all()
        while self._waiting and time.monotonic() < ends_at:
            address, (run, snapshot) = self._next()
            if is_all_committed and snapshot is not None:
                snapshot.mark_waited()
            self._run(run, address)
        if self._waiting and self._timer is None:
            if self._builds_run():
                self._begin_group_later(time.monotonic())
            else:
                self._timer = self._reactor.callLater(0.0, self._run_group)

    def _next(self) -> tuple[str, tuple[Run, ReadSnapshot | None]]:
        """Take who is next out of the queue."""
        address = min(self._waiting, key=self._taken_s.__getitem__)
        some = self._waiting[address]
        first = some.popleft()
        if not some:
            del self._waiting[address]
        return address, first

    def _halve(self, now: float) -> None:
        self._halved_at = now
        for address, taken_s in list(self._taken_s.items()):
            self._taken_s[address] = taken_s / 2
            if taken_s < NOTHING_S:
                del self._taken_s[address]
