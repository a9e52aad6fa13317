"""Consumers are found as Buildbot's matchTuple finds them, in the order in which they came."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from buildbot.util.tuplematch import matchTuple

from litebot.master.delivery.consumers import Consumers


@dataclass(eq=False)
class Consumer:
    filter: tuple[str | None, ...]


PARTS = ("builds", "steps", "1", "2", "new", "finished")


def test_they_are_those_of_buildbot() -> None:
    rng = random.Random(1)
    consumers = Consumers()
    plain: list[Consumer] = []
    for _ in range(2000):
        if plain and rng.random() < 0.3:
            gone = plain.pop(rng.randrange(len(plain)))
            consumers.remove(gone)
        else:
            length = rng.randrange(5)
            plain.append(Consumer(tuple(rng.choice((None, *PARTS)) for _ in range(length))))
            consumers.append(plain[-1])
        key = tuple(rng.choice(PARTS) for _ in range(rng.randrange(5)))
        assert consumers.matching(key) == [each for each in plain if matchTuple(key, each.filter)]
    assert list(consumers) == plain


def test_one_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="consumes nothing"):
        Consumers().remove(Consumer(("builds",)))
