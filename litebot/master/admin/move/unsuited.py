"""Finds, by queries in SQLite, the values that Postgres refuses, before anything is copied.

SQLite stores a value of any type and size in any column, and does not check references.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

from litebot.errors import StoreError
from litebot.master.admin.move.sqlite_side import SqliteSide
from litebot.master.admin.move.tables import Column
from litebot.master.admin.move.tables import Moved
from litebot.master.admin.move.tables import Row

TYPES = {"bytea": "blob", "text": "text", "float8": "real"}
BITS = {"int2": 16, "int4": 32, "int8": 64}


class Fault(NamedTuple):
    """A condition in SQL on a column, what it means, and an SQL expression that repairs it."""

    column: Column
    condition: str
    meaning: str
    mended: str


def refuse_unsuited(
    source: SqliteSide, tables: list[Moved], basedir: str, *, references: bool = True
) -> None:
    """Raise StoreError for the first value that Postgres refuses.

    With `references` also for a reference to a row that does not exist.  The error names table, row
    and column, and a remedy.  `basedir` is quoted for a shell.
    """
    for table in tables:
        faults = [fault for column in table.columns for fault in _faults(column)]
        cases = " ".join(f"WHEN {f.condition} THEN {n}" for n, f in enumerate(faults))
        found = _first(source, table, f"CASE {cases} END", "found IS NOT NULL")
        if found is not None:
            *key, number = found
            raise _refusal(source, table, tuple(key), faults[number])
    for table in tables if references else ():
        for reference in table.table.foreign_keys:
            column = f'"{reference.parent.name}"'
            parent = f'"{reference.column.table.name}"'
            orphan = (
                f"{column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {parent} AS parent"
                f' WHERE parent."{reference.column.name}" = {table.quoted}.{column})'
            )
            found = _first(source, table, column, orphan)
            if found is not None:
                *key, value = found
                raise StoreError(
                    f"{source.name}: {table.named(tuple(key))}: column {reference.parent.name}"
                    f" refers to {reference.column.table.name} {value}, which is not there;"
                    " Postgres refuses such rows",
                    "copy the rest, and move that: litebot copy-db --ignore-fk-error-rows"
                    f" sqlite:///whole.sqlite {basedir}\nthen set [database] url ="
                    ' "sqlite:///whole.sqlite" and give this command again',
                )


def _faults(column: Column) -> list[Fault]:
    name, kind = column.quoted, column.kind
    if kind in BITS:
        top = 2 ** (BITS[kind] - 1)
        return [
            Fault(column, f"typeof({name}) NOT IN ('integer', 'null')", "is no integer", "..."),
            Fault(
                column,
                f"{name} NOT BETWEEN {-top} AND {top - 1}",
                f"is an integer of more than {BITS[kind]} bits",
                "...",
            ),
        ]
    expected = TYPES[kind]
    cast = {"text": f"CAST({name} AS TEXT)", "blob": f"CAST({name} AS BLOB)"}
    faults = [
        Fault(
            column,
            f"typeof({name}) NOT IN ('{expected}', 'null')",
            f"is no {expected}",
            cast.get(expected, "..."),
        )
    ]
    if kind == "text":
        # SQLite's replace() takes a NUL for an empty text, so it is removed from the JSON form.
        mended = f"json_extract(replace(json_quote({name}), '\\u0000', ''), '$')"
        holds_nul = f"instr({name}, char(0)) > 0"
        faults.append(Fault(column, holds_nul, "holds a NUL character", mended))
    if column.length is not None:
        faults.append(
            Fault(
                column,
                f"length({name}) > {column.length}",
                f"is longer than {column.length} characters",
                f"substr({name}, 1, {column.length})",
            )
        )
    return faults


def _first(source: SqliteSide, table: Moved, value: str, condition: str) -> Row | None:
    """Return the key and `value` of the first row that satisfies `condition`, or None.

    The condition may use the value by the name `found`.
    """
    keys = ", ".join(column.quoted for column in table.key)
    query = (
        f"SELECT {keys}, {value} AS found FROM {table.quoted}"
        f" WHERE ({condition}) AND {table.wanted} LIMIT 1"
    )
    with source.translated_errors():
        return next(iter(source.handle.execute(query)), None)


def _refusal(source: SqliteSide, table: Moved, key: Row, fault: Fault) -> StoreError:
    where = " AND ".join(
        f"{column.name} = {_literal(value)}" for column, value in zip(table.key, key, strict=True)
    )
    update = f"UPDATE {table.name} SET {fault.column.name} = {fault.mended} WHERE {where}"
    return StoreError(
        f"{source.name}: {table.named(key)}: column {fault.column.name} {fault.meaning}; Postgres"
        " can't take it",
        f"mend it, and give this command again: python -m apsw {shlex.quote(source.name)}"
        f" {shlex.quote(update)}",
    )


def _literal(value: object) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
