"""A collection of the data API whose rows are read in pieces: see litebot.master.db.pieces.

An endpoint that knows nothing of pieces returns all of its rows at the first read, as the short
collections do: builders, workers, the steps of a build.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from buildbot.data.exceptions import InvalidQueryParameter
from buildbot.data.resultspec import ResultSpec
from twisted.internet import defer
from twisted.internet import threads

from litebot.master.db.pieces import Pieces

FIRST_ROWS = 200
MAX_ROWS = 1000
# How many bytes of JSON the rows of a piece should have.
PIECE_BYTES = 128 * 1024

Turn = Callable[[], AbstractAsyncContextManager[None]]


class LongList:
    """The rows that a Query asks of an endpoint."""

    def __init__(self, endpoint: Any, kwargs: dict[str, Any], query: Any) -> None:
        self._endpoint = endpoint
        self._kwargs = kwargs
        self._query = query
        self._ids: array[int] = array("q")
        self._at = 0  # how many of these ids have been read
        self._size = FIRST_ROWS
        # What Python has to do to the rows, as the database could not.
        self._narrow = ResultSpec()
        self._order: list[str] = []
        self._wanted = slice(None)
        self._passed_over = 0
        self._found = 0
        self.is_missing = False

    @property
    def total(self) -> int:
        """The total that Buildbot tells; known when all rows are read."""
        return self._passed_over + self._found

    async def begin(self) -> Any:
        """Read the first rows.  If these are all, return a ListResult of them, otherwise None.

        It is also None, and `is_missing` true, if there is no such list.  Raises
        InvalidQueryParameter, and what the endpoint raises.
        """
        pieces = Pieces(FIRST_ROWS)
        query = self._query.again(pieces)
        found = await defer.maybeDeferred(self._endpoint.get, query, dict(self._kwargs))
        self.is_missing = found is None
        if pieces.ids is None:
            return query.apply(found)
        self._ids, self._at = pieces.ids, 0
        self._narrow = ResultSpec(filters=list(query.filters), fields=query.fields)
        self._order = list(query.order or ())
        first = query.offset or 0
        self._wanted = slice(first, None if query.limit is None else first + query.limit)
        whole = query.apply(found) if len(self._ids) <= FIRST_ROWS else None
        if not self._order and not self._narrow.filters:
            self._take_wanted()
        return whole

    def forget(self) -> None:
        """Forget the ids; begin() has to be called again."""
        self._ids = array("q")

    def _take_wanted(self) -> None:
        """Leave out the ids of rows that are not wanted."""
        all_ids, self._ids = self._ids, self._ids[self._wanted]
        self._passed_over = len(all_ids) - len(self._ids)
        self._wanted = slice(0, None)

    async def sort(self, turn: Turn) -> None:
        """Order the ids by what the database could not order them by.

        Raises InvalidQueryParameter if the values have no order.
        """
        if not self._order:
            return
        names = [name.lstrip("-") for name in self._order]
        keyed: list[tuple[Any, ...]] = []
        while self._at < len(self._ids):
            async with turn():
                ids, rows = await self._read()
            for key, row in zip(ids, rows, strict=True):
                for left in self._narrow.apply([row]).data:
                    keyed.append((*(left[name] for name in names), key))
        try:
            self._ids = await threads.deferToThread(_sorted_ids, keyed, self._order)
        except TypeError as error:
            raise InvalidQueryParameter(f"can't order by these values: {error}") from error
        self._at = 0
        self._take_wanted()

    async def next(self) -> list[Any] | None:
        """Return the next rows, which may be none for now, or None at the end."""
        if self._at >= len(self._ids):
            return None
        _ids, rows = await self._read()
        left = self._narrow.apply(rows).data
        before, self._found = self._found, self._found + len(left)
        begin, end, _step = self._wanted.indices(self._found)
        found: list[Any] = left[max(0, begin - before) : max(0, end - before)]
        return found

    async def _read(self) -> tuple[Sequence[int], list[Any]]:
        part = self._ids[self._at : self._at + self._size]
        self._at += len(part)
        pieces = Pieces(self._size, part)
        query = self._query.again(pieces)
        found = await defer.maybeDeferred(self._endpoint.get, query, dict(self._kwargs))
        return pieces.read, list(found)

    def fit(self, rows: int, size_bytes: int) -> None:
        """Choose how many rows to read next, so that they have about PIECE_BYTES.

        The last `rows` had `size_bytes`.
        """
        fitting = rows * PIECE_BYTES // size_bytes if rows else MAX_ROWS
        self._size = max(1, min(fitting, 2 * self._size, MAX_ROWS))


def _sorted_ids(keyed: list[tuple[Any, ...]], order: list[str]) -> array[int]:
    """Sort rows of the values to order by and an id, and return the ids.

    As in Buildbot None comes first, and equal rows keep their order.
    """

    def value_at(at: int, row: tuple[Any, ...]) -> tuple[bool, Any]:
        return row[at] is not None, 0 if row[at] is None else row[at]

    for at, name in reversed(list(enumerate(order))):
        keyed.sort(key=partial(value_at, at), reverse=name.startswith("-"))
    return array("q", (row[-1] for row in keyed))
