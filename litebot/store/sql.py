"""Plain SQL inside a transaction that somebody else begins and ends: what hot components use.

A statement through SQLAlchemy costs some twenty times what SQLite needs for it, so what runs many
times a build is written as text with `?` for its parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from typing import Protocol

import apsw
import sqlalchemy as sa

from litebot.store import dbapi

Row = tuple[Any, ...]

# The least and the greatest integer that a database takes.
SMALLEST, LARGEST = -(2**63), 2**63 - 1


class Sql(Protocol):
    """Statements on one connection.  Raises the errors of its driver."""

    # Whether rows come in the order in which they were added, where nobody asks for one.
    keeps_order: bool

    def rows(self, sql: str, *parameters: Any) -> list[Row]:
        """All rows of a query."""

    def row(self, sql: str, *parameters: Any) -> Row | None:
        """The first row of a query."""

    def write(self, sql: str, *parameters: Any) -> int:
        """Run an INSERT, UPDATE or DELETE; how many rows it concerned."""

    def insert(self, table: str, **values: Any) -> int:
        """Insert a row into a table that numbers its rows; its number."""

    def update(self, table: str, id: int, **values: Any) -> int:
        """Change the row of a table with a column `id`; 1, or 0 where there is none."""

    def count(self, table: str, where: str, *parameters: Any) -> int:
        """How many rows of a table ("builds", "builds b") meet a condition.

        The condition must be on columns that never change.
        """

    def with_connection(self, callable: Callable[[sa.engine.Connection], Any]) -> Any:
        """callable(connection), in the same transaction."""


@functools.cache
def insert_statement(table: str, columns: tuple[str, ...]) -> str:
    """INSERT INTO table (columns) VALUES (?, ...)"""
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"


@functools.cache
def update_statement(table: str, columns: tuple[str, ...]) -> str:
    """UPDATE table SET column = ?, ... WHERE id = ?"""
    changes = ", ".join(f"{column} = ?" for column in columns)
    return f"UPDATE {table} SET {changes} WHERE id = ?"


class ApswSql:
    """Sql on an apsw handle inside a transaction.

    `engine` is one of store.dialect on the same handle.  `on_fatal` is told of full disks, I/O
    errors and damaged pages.  Raises the errors of litebot.store.dbapi.
    """

    keeps_order = True

    def __init__(
        self,
        handle: apsw.Connection,
        engine: sa.Engine,
        on_fatal: Callable[[dbapi.Error], None] | None = None,
    ) -> None:
        self._handle = handle
        self._engine = engine
        self._on_fatal = on_fatal
        self._in_savepoint = False

    def run(self, callable: Callable[..., Any], *args: Any) -> Any:
        """callable(self, *args); what it has written is undone where it raises."""
        try:
            result = callable(self, *args)
        except BaseException:
            self._leave("ROLLBACK TO hot; RELEASE hot")
            raise
        self._leave("RELEASE hot")
        return result

    def rows(self, sql: str, *parameters: Any) -> list[Row]:
        try:
            return self._handle.execute(sql, parameters).fetchall()
        except apsw.Error as error:
            raise self._failed(error) from error

    def row(self, sql: str, *parameters: Any) -> Row | None:
        rows = self.rows(sql, *parameters)
        return rows[0] if rows else None

    def write(self, sql: str, *parameters: Any) -> int:
        try:
            self._enter()
            self._handle.execute(sql, parameters)
        except apsw.Error as error:
            raise self._failed(error) from error
        return self._handle.changes()

    def insert(self, table: str, **values: Any) -> int:
        self.write(insert_statement(table, tuple(values)), *values.values())
        return self._handle.last_insert_rowid()

    def update(self, table: str, id: int, **values: Any) -> int:
        return self.write(update_statement(table, tuple(values)), *values.values(), id)

    def count(self, table: str, where: str, *parameters: Any) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table} WHERE {where}", *parameters)[0][0])

    def with_connection(self, callable: Callable[[sa.engine.Connection], Any]) -> Any:
        self._enter()
        with self._engine.connect() as conn:
            result = callable(conn)
            conn.commit()
            return result

    def _enter(self) -> None:
        if not self._in_savepoint:
            self._handle.execute("SAVEPOINT hot")
            self._in_savepoint = True

    def _leave(self, sql: str) -> None:
        if not self._in_savepoint:
            return
        self._in_savepoint = False
        if not self._handle.in_transaction:
            return  # a full disk: SQLite has rolled everything back by itself
        try:
            self._handle.execute(sql)
        except apsw.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: apsw.Error) -> dbapi.Error:
        translated = dbapi.translate(error)
        if self._on_fatal is not None and isinstance(translated, dbapi.FATAL):
            self._on_fatal(translated)
        return translated


# (table, condition, parameters) -> the count, up to which rowid, and the table's deletions then.
Counts = dict[tuple[Any, ...], tuple[int, int, int]]
MOST_COUNTS = 1000


class CountingSql(ApswSql):
    """ApswSql on a snapshot, which remembers counts and counts on from there.

    SQLite has to walk an index to count its rows: 4 ms for a million.  Rows are added with higher
    rowids than any before, and a trigger counts in litebot_deletions those that are deleted.
    `counts` is what is remembered, which several connections to one file may share.
    """

    def __init__(self, handle: apsw.Connection, engine: sa.Engine, counts: Counts) -> None:
        super().__init__(handle, engine)
        self._counts = counts

    def count(self, table: str, where: str, *parameters: Any) -> int:
        name = table.partition(" ")[0]
        query = f"SELECT (SELECT max(rowid) FROM {name}), deleted FROM litebot_deletions"
        last, deletions = self.row(f"{query} WHERE name = ?", name) or (None, None)
        if last is None:
            return super().count(table, where, *parameters)
        key = (table, where, parameters)
        count, counted_to, deleted = self._counts.get(key, (0, 0, -1))
        if deleted != deletions or counted_to > last:  # another one's snapshot may be newer
            count = super().count(table, where, *parameters)
        elif counted_to < last:
            # The + keeps SQLite from an index that holds all the rows before.
            newer = f"rowid > ? AND +({where})"
            count += super().count(table, newer, counted_to, *parameters)
        if len(self._counts) >= MOST_COUNTS:
            self._counts.clear()
        self._counts[key] = (count, last, deletions)
        return count
