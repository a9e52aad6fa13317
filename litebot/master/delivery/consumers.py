"""The consumers of a message queue, found by the events that they want.

Buildbot compares each event with each consumer.  A build has some fifteen events, and visitors may
have thousands of subscriptions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

Key = tuple[str, ...]
# The positions of a filter that are not None, and what is there.
Shape = tuple[int, ...]
Wanted = tuple[str, ...]


class Consumers:
    """Takes the place of SimpleMQ's list of `qrefs`; keeps their order."""

    def __init__(self) -> None:
        self._counter = itertools.count()
        self._numbers: dict[Any, int] = {}
        self._by_length: dict[int, dict[Shape, dict[Wanted, list[Any]]]] = {}

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._numbers))

    def append(self, qref: Any) -> None:
        """Add a consumer behind all others."""
        shape, wanted = _split(qref.filter)
        shapes = self._by_length.setdefault(len(qref.filter), {})
        shapes.setdefault(shape, {}).setdefault(wanted, []).append(qref)
        self._numbers[qref] = next(self._counter)

    def remove(self, qref: Any) -> None:
        """Remove a consumer.  Raises ValueError if it is not there."""
        if self._numbers.pop(qref, None) is None:
            raise ValueError(f"{qref!r} consumes nothing")
        shape, wanted = _split(qref.filter)
        shapes = self._by_length[len(qref.filter)]
        shapes[shape][wanted].remove(qref)
        if not shapes[shape][wanted]:
            del shapes[shape][wanted]
            if not shapes[shape]:
                del shapes[shape]

    def matching(self, key: Key) -> list[Any]:
        """Return the consumers of an event, in their order."""
        found: list[Any] = []
        for shape, by_wanted in self._by_length.get(len(key), {}).items():
            found += by_wanted.get(tuple([key[at] for at in shape]), ())
        found.sort(key=self._numbers.__getitem__)
        return found


def _split(pattern: Sequence[str | None]) -> tuple[Shape, Wanted]:
    pairs = [(at, part) for at, part in enumerate(pattern) if part is not None]
    return tuple(at for at, _ in pairs), tuple(part for _, part in pairs)
