"""A worker's endpoint that goes round a list of masters."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet import error
from twisted.internet.task import Clock

from litebot.contrib.masters import SHORT_CONNECTION_S
from litebot.contrib.masters import Masters
from litebot.contrib.masters import address
from litebot.contrib.masters import masters


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("ci.example.org", ("ci.example.org", 9989)),
        ("ci.example.org:77", ("ci.example.org", 77)),
        ("[::1]", ("::1", 9989)),
        ("[::1]:77", ("::1", 77)),
    ],
)
def test_an_address_is_a_host_and_perhaps_a_port(place: str, expected: tuple[str, int]) -> None:
    assert address(place, 9989) == expected


@pytest.mark.parametrize("place", ["", ":77", "ci:port", "::1"])
def test_what_is_no_address_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match="HOST"):
        address(place, 9989)


def test_a_description_without_masters_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the host"):
        masters(Clock())
    with pytest.raises(ValueError, match="tls=maybe"):
        masters(Clock(), "ci", tls="maybe")


class Place:
    """An endpoint that answers as long as `is_there`."""

    def __init__(self) -> None:
        self.is_there = True

    def connectionLost(self, _reason: object) -> None:
        """As a protocol's."""

    def connect(self, _factory: Any) -> defer.Deferred[Any]:
        return defer.succeed(self) if self.is_there else defer.fail(error.ConnectionRefusedError())


class Worker:
    """Connects again and again."""

    def __init__(self, count: int) -> None:
        self.places = [Place() for _ in range(count)]
        self.clock = Clock()
        self._endpoint = Masters(self.clock, self.places, ["a", "b", "c"])

    def connect(self, then_s: float = SHORT_CONNECTION_S) -> int:
        """Which place it gets to, where it stays for so long."""
        result: list[Any] = []
        self._endpoint.connect(None).addBoth(result.append)
        self.clock.advance(then_s)
        if not isinstance(result[0], Place):
            result[0].raiseException()
        return self.places.index(result[0])


def test_it_stays_where_it_was_and_else_goes_on() -> None:
    worker = Worker(3)
    assert worker.connect() == 0
    assert worker.connect() == 0
    worker.places[0].is_there = False
    assert worker.connect() == 1
    worker.places[0].is_there = True
    assert worker.connect() == 1
    worker.places[1].is_there = worker.places[2].is_there = False
    assert worker.connect() == 0


def test_who_ends_it_at_once_does_not_want_it() -> None:
    worker = Worker(3)
    assert [worker.connect(then_s=1.0) for _ in range(4)] == [0, 1, 2, 0]


def test_nobody_there_is_an_error_and_then_it_begins_where_it_was() -> None:
    worker = Worker(2)
    worker.places[0].is_there = False
    assert worker.connect() == 1
    worker.places[1].is_there = False
    with pytest.raises(error.ConnectionRefusedError):
        worker.connect()
    worker.places[1].is_there = True
    assert worker.connect() == 1
