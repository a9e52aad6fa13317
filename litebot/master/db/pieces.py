"""Reading a long list in pieces: first the ids of all rows, then the rows of some ids at a time.

So a list needs 8 bytes of memory for each row, whatever it is ordered by, and no transaction lasts
as long as a visitor takes.  The ids are of one moment.  A row is read later, and left out
if it is gone by then, or no longer meets the filters.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class Pieces:
    """What one read of a long list returns; the attribute `pieces` of a ResultSpec.

    A read whose `part` is None finds `ids`, in their order, and returns the first `size` rows.  One
    that has a `part`, some of these ids, returns their rows in the order of `part`.  `read` is then
    the id of each row that was returned.

    `ids` stays None if what was read can't be read in pieces; then all rows were returned.
    """

    size: int
    part: Sequence[int] | None = None
    ids: array[int] | None = None
    read: Sequence[int] = ()

    def next_part(self) -> Sequence[int]:
        """Return the ids whose rows this read has to return."""
        if self.part is not None:
            return self.part
        assert self.ids is not None
        return self.ids[: self.size]

    def in_order(self, by_id: dict[int, Any]) -> list[Any]:
        """Return the rows of this read in their order, and remember their ids."""
        self.read = [key for key in self.next_part() if key in by_id]
        return [by_id[key] for key in self.read]


def pieces_of(spec: Any) -> Pieces | None:
    """Return the Pieces of a ResultSpec, or None if it asks for all rows at once."""
    pieces: Pieces | None = getattr(spec, "pieces", None)
    return pieces
