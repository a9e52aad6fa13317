"""Turns and places of long answers: who waits, who comes next, and who is refused."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet import task

from litebot.master.limits import reads
from litebot.master.limits.reads import Queue
from litebot.master.limits.reads import Reads
from litebot.master.limits.reads import TooManyReads
from litebot.master.limits.refusals import Refusals


class Entered:
    """Enters a queue, and remembers what came of it."""

    def __init__(self, queue: Queue, address: str, **kwargs: Any) -> None:
        self.result: Any = "waits"
        self.d = defer.ensureDeferred(queue.enter(address, **kwargs))
        self.d.addCallbacks(self._set, lambda failure: self._set(failure.type))

    def _set(self, result: Any) -> None:
        self.result = result

    @property
    def waits(self) -> bool:
        return self.result == "waits"


def test_addresses_take_turns() -> None:
    queue = Queue(lambda: 1)
    first, *crowd = [Entered(queue, "crowd") for _ in range(4)]
    other = Entered(queue, "other")
    assert [each.waits for each in (first, *crowd, other)] == [False, True, True, True, True]
    queue.leave("crowd")
    assert [each.waits for each in (*crowd, other)] == [False, True, True, True]
    queue.leave("crowd")
    assert [each.waits for each in (*crowd, other)] == [False, True, True, False]
    queue.leave("other")
    assert [each.waits for each in crowd] == [False, False, True]


def test_one_address_does_not_hold_all() -> None:
    queue = Queue(lambda: 3, per_address=2)
    crowd = [Entered(queue, "crowd") for _ in range(3)]
    assert [each.waits for each in crowd] == [False, False, True]
    assert not queue.is_free("crowd")
    assert queue.is_free("other")
    assert not Entered(queue, "other").waits
    queue.leave("other")
    assert crowd[2].waits
    queue.leave("crowd")
    assert not crowd[2].waits


def test_who_leaves_the_queue_is_forgotten() -> None:
    queue = Queue(lambda: 1)
    Entered(queue, "a")
    gone, next_one = Entered(queue, "b"), Entered(queue, "c")
    gone.d.cancel()
    assert gone.result is defer.CancelledError
    queue.leave("a")
    assert not next_one.waits
    queue.leave("c")
    assert not queue.is_crowded


def test_the_largest_crowd_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "MAX_WAITING", 3)
    queue = Queue(lambda: 1)
    Entered(queue, "crowd")
    crowd = [Entered(queue, "crowd") for _ in range(3)]
    goes_on = Entered(queue, "crowd", may_refuse=False)
    other = Entered(queue, "other")
    assert [each.waits for each in (*crowd, goes_on, other)] == [True, True, False, True, True]
    assert crowd[2].result is TooManyReads


class SlowAnswer:
    """An answer whose visitor has let it wait."""

    def __init__(self, address: str, waited_s: float, sent_bytes: int) -> None:
        self.address = address
        self.waited_s = waited_s
        self.sent_bytes = sent_bytes
        self.holds: Any = None
        self.is_cut_off = False

    async def hold(self, places: Reads, end: defer.Deferred[None]) -> None:
        async with places.place(self):
            self.holds = True
            await end

    def cut_off(self) -> None:
        self.is_cut_off = True


def test_the_slowest_loses_its_place_to_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "PLACES", 3)
    clock = task.Clock()
    refusals = Refusals(clock)
    places = Reads(clock, lambda: 1, lambda: False, refusals)
    answers = [SlowAnswer("a", 40, 10**9), SlowAnswer("a", 40, 10**3), SlowAnswer("b", 20, 0)]
    end: defer.Deferred[None] = defer.Deferred()
    held = [defer.ensureDeferred(answer.hold(places, end)) for answer in answers]
    clock.advance(10)
    assert not any(answer.is_cut_off for answer in answers)
    newcomer = SlowAnswer("c", 0, 0)
    held.append(defer.ensureDeferred(newcomer.hold(places, end)))
    assert newcomer.holds is None
    clock.advance(2 * reads.CHECK_EVERY_S)
    assert [answer.is_cut_off for answer in answers] == [False, True, False]
    assert refusals.counts == {"long reads taken too slowly": 1}
    held[1].cancel()
    assert newcomer.holds


def test_turns_pause_while_builds_run() -> None:
    clock = task.Clock()
    busy = [True]
    turns = Reads(clock, lambda: 1, lambda: busy[0], Refusals(clock))

    async def take() -> None:
        async with turns.turn("a"):
            pass

    defer.ensureDeferred(take())
    second = defer.ensureDeferred(take())
    assert not second.called
    clock.advance(reads.MAX_PAUSE_S)
    assert second.called
