"""Compares two databases: each table by its row count and a hash over all columns of all rows."""

from __future__ import annotations

import hashlib
import json
import marshal
from collections.abc import Callable
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from litebot.errors import StoreError
from litebot.master.admin.move.copying import Progress
from litebot.master.admin.move.side import Side
from litebot.master.admin.move.tables import Moved
from litebot.master.admin.move.tables import Row

# Version 0 of marshal: its bytes depend on types and values alone, not on shared references.
CANONICAL = 0
LIST_HEAD = len(marshal.dumps([], CANONICAL))

COMPARING = "comparing rows"


class Difference(StoreError):
    """The two sides are not the same; if a row differs, `what` names table, key and column."""


def canonical(rows: list[Row]) -> memoryview:
    """Return rows as bytes, which depend only on types and values, not on how lists group them."""
    return memoryview(_listed(rows))[LIST_HEAD:]


def _listed(rows: list[Row]) -> bytes:
    return marshal.dumps(rows, CANONICAL)


def compare(
    source: Side, target: Side, table: Moved, progress: Callable[[int], None]
) -> tuple[int, str]:
    """Compare a table on both sides; return its row count and hash.  Raises Difference.

    `progress` is called with the number of rows compared since the last call.
    """
    hashed, count = hashlib.sha256(), 0
    for here, there in _side_by_side(source, target, table):
        mine = _listed(here)
        if mine != _listed(there):
            raise _difference(source, target, table, here, there)
        hashed.update(memoryview(mine)[LIST_HEAD:])  # the same on both sides
        count += len(here)
        progress(len(here))
    return count, hashed.hexdigest()


def compare_all(
    source: Side, target: Side, tables: list[Moved], progress: Progress
) -> tuple[int, str]:
    """Compare all tables on both sides; return their row count and hash.  Raises Difference."""
    total = sum(target.count(table) for table in tables)
    hashed = hashlib.sha256()
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        progress(COMPARING, done, total)

    for table in tables:
        rows, hash_ = compare(source, target, table, count)
        hashed.update(json.dumps([table.name, rows, hash_]).encode())
    return done, hashed.hexdigest()


def _side_by_side(
    source: Side, target: Side, table: Moved
) -> Iterator[tuple[list[Row], list[Row]]]:
    batches = (table.batches(side.rows(table)) for side in (source, target))
    yield from zip_longest(*batches, fillvalue=[])


def _difference(
    source: Side, target: Side, table: Moved, here: list[Row], there: list[Row]
) -> Difference:
    """Return the error for the first row that differs; all rows before these batches are equal."""
    mine, other = next(
        pair for pair in zip_longest(here, there) if canonical([pair[0]]) != canonical([pair[1]])
    )
    key, its = (None if row is None else table.key_of(row) for row in (mine, other))
    if key is not None and its is not None and key == its:
        names = [
            column.name
            for column, a, b in zip(table.columns, mine, other, strict=True)
            if canonical([(a,)]) != canonical([(b,)])
        ]
        columns = f"column{'s' if len(names) > 1 else ''} {', '.join(names)}"
        return Difference(
            f"{table.named(key)}: {columns} differ{'' if len(names) > 1 else 's'} between"
            f" {source.name} and {target.name}"
        )
    if its is None or (key is not None and _sortable(key) < _sortable(its)):
        assert key is not None
        return Difference(f"{table.named(key)} is in {source.name} and not in {target.name}")
    return Difference(f"{table.named(its)} is in {target.name} and not in {source.name}")


def _sortable(key: Row) -> list[Any]:
    """Return a key in a form that can be sorted: NULL comes first."""
    return [(value is not None, value) for value in key]
