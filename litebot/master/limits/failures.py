"""Wrong logins, and the growing time until the next one is looked at."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

# A wrong login is forgotten after this time, and the oldest ones where there are more keys.
FORGET_S = 900.0
MOST_KEYS = 10_000


class Failures:
    """Counts tries by a key, such as a name and the address that it is used from.

    After `free` tries each further one has to wait: a second, then two, then four, up to
    `longest_s`.  The key has both a name and an address, so that nobody is locked out by others who
    try his name elsewhere.
    """

    def __init__(self, reactor: Any, free: int, longest_s: float) -> None:
        self._reactor = reactor
        self._free = free
        self._longest_s = longest_s
        self._tries: OrderedDict[object, tuple[int, float]] = OrderedDict()

    def wait_s(self, key: object) -> float:
        """Return how many seconds have to pass before the next try, 0 if it may be made now."""
        count, last = self._found(key)
        if count < self._free:
            return 0.0
        pause: float = min(2.0 ** min(count - self._free, 30), self._longest_s)
        return max(0.0, last + pause - self._reactor.seconds())

    def add(self, key: object) -> None:
        """Count a try.  Of several at once each is counted before it has failed."""
        count, _ = self._found(key)
        self._tries[key] = (count + 1, self._reactor.seconds())
        self._tries.move_to_end(key)
        while len(self._tries) > MOST_KEYS:
            self._tries.popitem(last=False)

    def forget(self, key: object) -> None:
        """Forget the tries, because the last one was right."""
        self._tries.pop(key, None)

    def _found(self, key: object) -> tuple[int, float]:
        count, last = self._tries.get(key, (0, 0.0))
        return (count, last) if self._reactor.seconds() - last < FORGET_S else (0, 0.0)
