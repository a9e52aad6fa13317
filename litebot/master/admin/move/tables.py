"""What is copied: every table of Buildbot and of litebot, and how its rows are ordered."""

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

# Postgres's names for what a column holds; the first that fits.  There is no bool: Buildbot has
# small integers instead, and SQLite would answer 1 where Postgres answers true.
KINDS: tuple[tuple[type[Any], str], ...] = (
    (sa.BigInteger, "int8"),
    (sa.SmallInteger, "int2"),
    (sa.Integer, "int4"),
    (sa.Float, "float8"),
    (sa.LargeBinary, "bytea"),
    (sa.String, "text"),
)

# What is held in memory at once, a few times over: the rows of a batch, or their large values.
ROWS_A_BATCH = 5_000
BYTES_A_BATCH = 1024 * 1024


@dataclass(frozen=True)
class Column:
    """A column: `kind` is one of KINDS, `length` the most characters of a text or None."""

    name: str
    kind: str
    length: int | None
    nullable: bool

    @property
    def quoted(self) -> str:
        return f'"{self.name}"'


@dataclass(frozen=True)
class Moved:
    """A table: its rows are ordered by `order`, all its columns if need be.

    `key` names a row to people: its primary key, or columns of an index.  Rows for which `wanted`
    does not hold are left out, and so are values of a column that is in `kept_if`, with a condition
    that does not hold.
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
        """What to select of a row that is copied, in the order of `columns`."""
        return ", ".join(
            f"CASE WHEN {self.kept_if[column.name]} THEN {column.quoted} END AS {column.quoted}"
            if column.name in self.kept_if
            else column.quoted
            for column in self.columns
        )

    def key_of(self, row: Row) -> Row:
        """The values of `key` in a row."""
        return tuple(row[self.columns.index(column)] for column in self.key)

    def named(self, key: Row) -> str:
        """A row as people are told of it."""
        values = (f"{c.name}={v!r}" for c, v in zip(self.key, key, strict=True))
        return f"table {self.name}, row {', '.join(values)}"

    def batches(self, rows: Iterator[Row]) -> Iterator[list[Row]]:
        """Rows in lists of at most ROWS_A_BATCH rows and about BYTES_A_BATCH bytes."""
        large = [
            place
            for place, column in enumerate(self.columns)
            if column.kind in ("bytea", "text") and column.length is None
        ]
        while batch := list(_some(rows, large)):
            yield batch


def _some(rows: Iterator[Row], large: list[int]) -> Iterator[Row]:
    """The next rows, of which the values at the places `large` can be large."""
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
    """Every table there is to copy."""
    tables = [*Model.metadata.tables.values(), *ours.metadata.tables.values()]
    return [moved(table) for table in tables]


def moved(table: sa.Table) -> Moved:
    """What is to be known of a table.  Raises TypeError for a column of no kind."""
    columns = {column.name: _column(column) for column in table.columns}
    key = [columns[column.name] for column in table.primary_key.columns]
    order = key
    if not key:
        # No database promises an order of such rows but by all that they hold.  With the columns
        # of an index first, it only has to sort what little these leave open.
        first = [columns[name] for name in _index(table)]
        key = first or list(columns.values())
        order = [*first, *(column for column in columns.values() if column not in first)]
    return Moved(table.name, tuple(columns.values()), tuple(key), tuple(order), table)


def without_orphans(table: Moved) -> Moved:
    """The table without rows that refer to one that does not exist, or that is left out as well.

    Of a row that was written before the one that it refers to only the reference is left out.
    """
    late = {key.parent.name: key for key in table.table.foreign_keys if _is_late(key)}
    kept_if = {name: _refers_to_wanted(key) for name, key in late.items()}
    return replace(table, wanted=_wanted(table.table), kept_if=kept_if)


def _is_late(key: sa.ForeignKey) -> bool:
    """Whether a reference closes a circle and may be NULL."""
    return bool(key.use_alter and key.parent.nullable)


def _wanted(table: sa.Table) -> str:
    keys = [key for key in table.foreign_keys if not _is_late(key)]
    return " AND ".join(sorted(map(_refers_to_wanted, keys))) or "true"


def _refers_to_wanted(key: sa.ForeignKey) -> str:
    parent, column = key.column.table, f'"{key.parent.name}"'
    # Among the rows of one table references may go on for ever: there, one that exists will do.
    wanted = "true" if parent is key.parent.table else _wanted(parent)
    there = f'SELECT "{key.column.name}" FROM "{parent.name}" WHERE {wanted}'
    return f"({column} IS NULL OR {column} IN ({there}))"


def _index(table: sa.Table) -> list[str]:
    """The columns of the index by which the rows of a table without a key are best told apart."""
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
