"""The tables to copy, all those of Buildbot and of litebot, and the order of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from itertools import islice
from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.master.db import tables as ours

Row = tuple[Any, ...]

# Postgres's names for the types of columns; the first that fits is used.  There is no bool:
# Buildbot uses small integers instead, and SQLite would return 1 where Postgres returns true.
KINDS: tuple[tuple[type[Any], str], ...] = (
    (sa.BigInteger, "int8"),
    (sa.SmallInteger, "int2"),
    (sa.Integer, "int4"),
    (sa.Float, "float8"),
    (sa.LargeBinary, "bytea"),
    (sa.String, "text"),
)

# The limits of a batch: its rows, and the size of their large values.  A batch is in memory as a
# whole, a few times over.
ROWS_A_BATCH = 5_000
BYTES_A_BATCH = 1024 * 1024


@dataclass(frozen=True)
class Column:
    """A column: `kind` is a name in KINDS, `length` the maximum characters of a text, or None."""

    name: str
    kind: str
    length: int | None
    nullable: bool

    @property
    def quoted(self) -> str:
        return f'"{self.name}"'


@dataclass(frozen=True)
class Moved:
    """A table to copy: its rows are ordered by `order`, if need be by all columns.

    `key` identifies a row in messages: the primary key, the columns of an index, or all columns.
    Rows that do not satisfy `wanted`, a condition in SQL, are left out.  `kept_if` maps columns to
    such conditions: where one is not satisfied, the column is copied as NULL.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[Column, ...]
    order: tuple[Column, ...]
    table: sa.Table
    wanted: str = "true"
    kept_if: Mapping[str, str] = field(default_factory=dict)

    @property
    def quoted(self) -> str:
        return f'"{self.name}"'

    @property
    def column_list(self) -> str:
        return ", ".join(column.quoted for column in self.columns)

    @property
    def values(self) -> str:
        """The SQL expressions for the values of a row to copy, in the order of `columns`."""
        return ", ".join(
            f"CASE WHEN {self.kept_if[column.name]} THEN {column.quoted} END AS {column.quoted}"
            if column.name in self.kept_if
            else column.quoted
            for column in self.columns
        )

    def key_of(self, row: Row) -> Row:
        """Return the values of `key` in a row."""
        return tuple(row[self.columns.index(column)] for column in self.key)

    def named(self, key: Row) -> str:
        """Return what messages call the row with this key."""
        values = (f"{c.name}={v!r}" for c, v in zip(self.key, key, strict=True))
        return f"table {self.name}, row {', '.join(values)}"

    def batches(self, rows: Iterator[Row]) -> Iterator[list[Row]]:
        """Yield rows in lists of at most ROWS_A_BATCH rows and about BYTES_A_BATCH bytes."""
        large = [
            place
            for place, column in enumerate(self.columns)
            if column.kind in ("bytea", "text") and column.length is None
        ]
        while batch := list(_some(rows, large)):
            yield batch


def _some(rows: Iterator[Row], large: list[int]) -> Iterator[Row]:
    """Yield the rows of the next batch; their values at the places `large` can be large."""
    some = islice(rows, ROWS_A_BATCH)
    if not large:
        yield from some
        return
    size = 0
    for row in some:
        yield row
        for place in large:
            if value := row[place]:
                size += len(value)
        if size >= BYTES_A_BATCH:
            return


def all_tables() -> list[Moved]:
    """Return every table that is to be copied."""
    tables = [*Model.metadata.tables.values(), *ours.metadata.tables.values()]
    return [moved(table) for table in tables]


def moved(table: sa.Table) -> Moved:
    """Return how to copy a table.  Raises TypeError for a column whose type is not in KINDS."""
    columns = {column.name: _column(column) for column in table.columns}
    key = [columns[column.name] for column in table.primary_key.columns]
    order = key
    if not key:
        # Without a key, only all columns together give a defined order.  With the columns of an
        # index first, the database only has to sort the few rows that are equal in these.
        first = [columns[name] for name in _index(table)]
        key = first or list(columns.values())
        order = [*first, *(column for column in columns.values() if column not in first)]
    return Moved(table.name, tuple(columns.values()), tuple(key), tuple(order), table)


def without_orphans(table: Moved) -> Moved:
    """Return the table without rows that refer to one that does not exist or is itself left out.

    If the reference is to a row that is written later, only the reference is left out.
    """
    late = {key.parent.name: key for key in table.table.foreign_keys if _is_late(key)}
    kept_if = {name: _refers_to_wanted(key) for name, key in late.items()}
    return replace(table, wanted=_wanted(table.table), kept_if=kept_if)


def _is_late(key: sa.ForeignKey) -> bool:
    """Return whether a reference closes a cycle of references and may be NULL."""
    return bool(key.use_alter and key.parent.nullable)


def _wanted(table: sa.Table) -> str:
    keys = [key for key in table.foreign_keys if not _is_late(key)]
    return " AND ".join(sorted(map(_refers_to_wanted, keys))) or "true"


def _refers_to_wanted(key: sa.ForeignKey) -> str:
    parent, column = key.column.table, f'"{key.parent.name}"'
    # References among the rows of one table would nest the condition without end, so there the row
    # only has to exist.
    wanted = "true" if parent is key.parent.table else _wanted(parent)
    there = f'SELECT "{key.column.name}" FROM "{parent.name}" WHERE {wanted}'
    return f"({column} IS NULL OR {column} IN ({there}))"


def _index(table: sa.Table) -> list[str]:
    """Return the columns of the index that best distinguishes rows of a table without a key.

    Returns [] if no index without nullable columns exists.
    """
    usable = [
        (not index.unique, -len(index.columns), str(index.name), [c.name for c in index.columns])
        for index in table.indexes
        if not any(column.nullable for column in index.columns)
    ]
    return min(usable)[-1] if usable else []


def _column(column: sa.Column[Any]) -> Column:
    type_ = column.type.impl if isinstance(column.type, sa.TypeDecorator) else column.type
    for known, kind in KINDS:
        if isinstance(type_, known):
            length = getattr(type_, "length", None) if kind == "text" else None
            return Column(column.name, kind, length, bool(column.nullable))
    raise TypeError(f"column {column.table.name}.{column.name} is of no known kind: {type_!r}")
