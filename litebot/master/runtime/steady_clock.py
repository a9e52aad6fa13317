"""Intervals that do not change when the machine's clock is set.

Twisted's reactor schedules by the time of day: set back by an hour, it calls nothing for an hour.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

# No operating system waits for some hundred years.
LONGEST_WAIT_S = 3600.0


class SteadyCall:
    """A call that a SteadyClock is to make, as Twisted's IDelayedCall has it."""

    def __init__(self, due: float, function: Callable[[], Any]) -> None:
        self.due = due
        self._function: Callable[[], Any] | None = function

    def active(self) -> bool:
        """Return whether it was neither made nor cancelled."""
        return self._function is not None

    def cancel(self) -> None:
        """Do not make the call."""
        self._function = None

    def make(self) -> None:
        """Make the call unless it was cancelled; called on the reactor's thread."""
        function, self._function = self._function, None
        if function is not None:
            function()


class SteadyClock:
    """A clock as Buildbot's Poller and Twisted's LoopingCall take one, by CLOCK_MONOTONIC.

    A thread waits, which is started with the first call; the calls are made on the reactor's.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._calls: list[tuple[float, int, SteadyCall]] = []
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_open = True

    def seconds(self) -> float:
        """Return seconds since some moment before the start of the process."""
        return time.monotonic()

    def callLater(self, delay: float, function: Any, *args: Any, **kwargs: Any) -> SteadyCall:
        """Call a function after `delay` seconds."""
        call = SteadyCall(self.seconds() + delay, lambda: function(*args, **kwargs))
        with self._changed:
            heapq.heappush(self._calls, (call.due, next(self._count), call))
            if self._thread is None and self._is_open:
                self._thread = threading.Thread(target=self._run, name="steady", daemon=True)
                self._thread.start()
            self._changed.notify()
        return call

    def close(self) -> None:
        """Make no more calls, and end the thread."""
        with self._changed:
            self._is_open = False
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while self._is_open:
                while self._calls and self._calls[0][0] <= self.seconds():
                    self._reactor.callFromThread(heapq.heappop(self._calls)[2].make)
                wait_s = self._calls[0][0] - self.seconds() if self._calls else LONGEST_WAIT_S
                self._changed.wait(min(wait_s, LONGEST_WAIT_S))
