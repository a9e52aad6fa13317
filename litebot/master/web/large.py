"""Large bodies of requests: read in a thread, one at a time, and only if they are not a trap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import TypeVar

from twisted.internet import defer
from twisted.internet import threads

T = TypeVar("T")

# A body up to this size is read on the reactor's thread, which takes a few milliseconds.
INLINE_BYTES = 1 << 16
# Each value of JSON takes about 100 bytes of memory, however short, and 0.1 us in which no other
# thread runs: Python's parser does not let them.
MOST_VALUES = 100_000
PIECE_BYTES = 1 << 20

_one_at_a_time = defer.DeferredSemaphore(1)


async def run(size: int, what: Callable[..., T], *args: Any) -> T:
    """Call `what`, which looks at `size` bytes: at once, or in a thread if they are many."""
    if size <= INLINE_BYTES:
        return what(*args)
    result: T = await _one_at_a_time.run(threads.deferToThread, what, *args)
    return result


def require_few_values(text: bytes) -> None:
    """Raise ValueError if JSON has so many values that it would take much memory and time."""
    found = 0
    for start in range(0, len(text), PIECE_BYTES):
        piece = text[start : start + PIECE_BYTES]
        found += sum(piece.count(each) for each in (b",", b":", b"[", b"{"))
        if found > MOST_VALUES:
            raise ValueError(f"the JSON has more than {MOST_VALUES:,} values and names")
