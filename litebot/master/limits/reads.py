"""Takes turns for long answers of the REST API, so that they leave room for all else.

A long answer is read in pieces.  It holds a *place* until its visitor has taken all of it, because
it needs some memory for that long, and a *turn* only while a piece is read and made into JSON.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any
from typing import Protocol

from twisted.internet import defer

from litebot.master.limits.refusals import Refusals

# How many long answers may be under way at the same time, in all and to one address.  Each needs up
# to about a megabyte, and 8 bytes for each row of a list.
PLACES = 32
PLACES_PER_ADDRESS = 24
# How many requests may wait for a place, and how many for their first turn.
MAX_WAITING = 64
# While others wait for a place, a visitor who has let his answer wait for longer than this, in all,
# may lose it.
GRACE_S = 30.0
CHECK_EVERY_S = 1.0
RETRY_AFTER_S = 10
# While builds run, a turn that took some time is followed by a pause of so many times as long.
PAUSE_FACTOR = 8.0
MAX_PAUSE_S = 0.5


class TooManyReads(Exception):
    """More long answers are asked for than may wait; try again after RETRY_AFTER_S."""


class Waiting(defer.Deferred[None]):
    """Fires when what somebody waits for is free; fails with TooManyReads."""

    def __init__(self, address: str, *, may_refuse: bool) -> None:
        super().__init__(lambda _: None)
        self.address = address
        self.may_refuse = may_refuse


class Queue:
    """Up to `size()` holders at the same time; the others wait, and addresses take turns.

    At most `per_address` holders have the same address.  Of more than MAX_WAITING that wait, the
    last one from the address with the most is refused.
    """

    def __init__(self, size: Callable[[], int], per_address: int | None = None) -> None:
        self._size = size
        self._per_address = per_address
        self._holders: Counter[str] = Counter()
        self._waiting: dict[str, list[Waiting]] = {}  # the address that is next comes first

    @property
    def is_crowded(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def is_free(self, address: str) -> bool:
        """Whether somebody from this address would not have to wait."""
        holds_less = self._per_address is None or self._holders[address] < self._per_address
        return holds_less and self._holders.total() < self._size()

    async def enter(self, address: str, *, may_refuse: bool = True) -> None:
        """Wait until it is free.  Raises TooManyReads, and CancelledError if cancelled."""
        waiting = Waiting(address, may_refuse=may_refuse)
        self._waiting.setdefault(address, []).append(waiting)
        self._let_in()
        self._refuse_some()
        try:
            await waiting
        except BaseException:
            self._forget(waiting)
            raise

    def leave(self, address: str) -> None:
        """Let the next one in."""
        self._holders[address] -= 1
        if not self._holders[address]:
            del self._holders[address]
        self._let_in()

    def _let_in(self) -> None:
        while free := [address for address in self._waiting if self.is_free(address)]:
            address = free[0]
            first, *others = self._waiting.pop(address)
            if others:
                self._waiting[address] = others  # behind all other addresses
            self._holders[address] += 1
            first.callback(None)

    def _refuse_some(self) -> None:
        refusable = [w for some in self._waiting.values() for w in some if w.may_refuse]
        if len(refusable) <= MAX_WAITING:
            return
        [(address, _)] = Counter(waiting.address for waiting in refusable).most_common(1)
        last = [waiting for waiting in refusable if waiting.address == address][-1]
        self._forget(last)
        last.errback(TooManyReads())

    def _forget(self, waiting: Waiting) -> None:
        some = self._waiting.get(waiting.address, [])
        if waiting in some:
            some.remove(waiting)
        if not some:
            self._waiting.pop(waiting.address, None)


class Answer(Protocol):
    """A long answer, which holds a place."""

    address: str
    sent_bytes: int

    @property
    def waited_s(self) -> float:
        """How long it has waited for its visitor so far."""

    def cut_off(self) -> None:
        """End it and the connection."""


class Reads:
    """The turns and places of a master.

    `size` returns how many pieces may be read at the same time, and `is_busy` whether builds run.
    """

    def __init__(
        self,
        reactor: Any,
        size: Callable[[], int],
        is_busy: Callable[[], bool],
        refusals: Refusals,
    ) -> None:
        self._reactor = reactor
        self._is_busy = is_busy
        self._refusals = refusals
        self._turns = Queue(size)
        self._places = Queue(lambda: PLACES, PLACES_PER_ADDRESS)
        self._answers: set[Answer] = set()
        self._check: Any = None

    @asynccontextmanager
    async def turn(self, address: str, *, is_first: bool = False) -> AsyncIterator[None]:
        """Wait for a turn to read one piece; it ends with the context.

        Only the first one of an answer may fail with TooManyReads.
        """
        await self._enter(self._turns, address, may_refuse=is_first)
        began_at = time.monotonic()
        try:
            yield
        finally:
            pause_s = min(MAX_PAUSE_S, PAUSE_FACTOR * (time.monotonic() - began_at))
            if self._is_busy():
                self._reactor.callLater(pause_s, self._turns.leave, address)
            else:
                self._turns.leave(address)

    def has_place(self, address: str) -> bool:
        """Whether a long answer to this address would get a place at once."""
        return self._places.is_free(address)

    @asynccontextmanager
    async def place(self, answer: Answer) -> AsyncIterator[None]:
        """Wait for a place for a long answer; it ends with the context.

        Raises TooManyReads.  The answer is cut off if others wait for a place, and if it has waited
        longer for its visitor than GRACE_S, and longest for what it has sent.
        """
        self._check_later()
        await self._enter(self._places, answer.address, may_refuse=True)
        self._answers.add(answer)
        try:
            yield
        finally:
            self._answers.discard(answer)
            self._places.leave(answer.address)

    async def _enter(self, queue: Queue, address: str, *, may_refuse: bool) -> None:
        try:
            await queue.enter(address, may_refuse=may_refuse)
        except TooManyReads:
            self._refusals.note("too many long reads", address)
            raise

    def _check_later(self) -> None:
        if self._check is None:
            self._check = self._reactor.callLater(CHECK_EVERY_S, self._cut_off_slowest)

    def _cut_off_slowest(self) -> None:
        """Free a place if somebody waits for one."""
        self._check = None
        if not self._places.is_crowded:
            return
        count = Counter(answer.address for answer in self._answers)
        slow = [answer for answer in self._answers if answer.waited_s > GRACE_S]
        if slow:
            slowest = max(slow, key=lambda a: (count[a.address], a.waited_s / (1 + a.sent_bytes)))
            self._refusals.note("long reads taken too slowly", slowest.address)
            slowest.cut_off()
        self._check_later()
