"""Plain SQL inside a transaction that the caller begins and ends, for the components in plain SQL.

A statement through SQLAlchemy costs about twenty times what SQLite itself needs for it.  So what
runs many times in a build is written as text, with `?` for each parameter.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable
from typing import Any
from typing import Protocol

import apsw
import sqlalchemy as sa

from litebot.store import dbapi

Row = tuple[Any, ...]

# The smallest and the largest integer that the databases can store.
SMALLEST, LARGEST = -(2**63), 2**63 - 1


class Sql(Protocol):
    """Runs statements on one connection.  Raises the errors of its driver."""

    # Whether a query without ORDER BY returns rows in the order in which they were inserted.
    keeps_order: bool

    def rows(self, sql: str, *parameters: Any) -> list[Row]:
        """Return all rows of a query."""

    def row(self, sql: str, *parameters: Any) -> Row | None:
        """Return the first row of a query, or None."""

    def ids(self, sql: str, *parameters: Any) -> array[int]:
        """Return the first column of a query, which has integers, in 8 bytes a row."""

    def write(self, sql: str, *parameters: Any) -> int:
        """Run an INSERT, UPDATE or DELETE and return how many rows it affected."""

    def insert(self, table: str, **values: Any) -> int:
        """Insert a row into a table that numbers its rows, and return its number."""

    def update(self, table: str, id: int, **values: Any) -> int:
        """Change the row with this `id` and return 1, or return 0 if there is none."""

    def count(self, table: str, where: str, *parameters: Any) -> int:
        """Return how many rows of a table ("builds", "builds b") meet a condition.

        The condition may only use columns that never change.
        """

    def with_connection(self, callable: Callable[[sa.engine.Connection], Any]) -> Any:
        """Return callable(connection), called in the same transaction."""


@functools.cache
def insert_statement(table: str, columns: tuple[str, ...]) -> str:
    """Return INSERT INTO table (columns) VALUES (?, ...)."""
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"


@functools.cache
def update_statement(table: str, columns: tuple[str, ...]) -> str:
    """Return UPDATE table SET column = ?, ... WHERE id = ?."""
    changes = ", ".join(f"{column} = ?" for column in columns)
    return f"UPDATE {table} SET {changes} WHERE id = ?"


class ApswSql:
    """Sql on an apsw handle inside a transaction.

    `engine` is an engine of store.dialect on the same handle.  `on_fatal` is called with the errors
    of full disks, failed I/O and damaged pages.  Raises the errors of litebot.store.dbapi.
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
        """Return callable(self, *args).  If it raises, what it wrote is undone."""
        try:
            result = callable(self, *args)
        except BaseException:
            self._end_savepoint("ROLLBACK TO plain_sql; RELEASE plain_sql")
            raise
        self._end_savepoint("RELEASE plain_sql")
        return result

    def rows(self, sql: str, *parameters: Any) -> list[Row]:
        try:
            return self._handle.execute(sql, parameters).fetchall()
        except apsw.Error as error:
            raise self._error_for(error) from error

    def row(self, sql: str, *parameters: Any) -> Row | None:
        rows = self.rows(sql, *parameters)
        return rows[0] if rows else None

    def ids(self, sql: str, *parameters: Any) -> array[int]:
        try:
            return array("q", (row[0] for row in self._handle.execute(sql, parameters)))
        except apsw.Error as error:
            raise self._error_for(error) from error

    def write(self, sql: str, *parameters: Any) -> int:
        try:
            self._begin_savepoint()
            self._handle.execute(sql, parameters)
        except apsw.Error as error:
            raise self._error_for(error) from error
        return self._handle.changes()

    def insert(self, table: str, **values: Any) -> int:
        self.write(insert_statement(table, tuple(values)), *values.values())
        return self._handle.last_insert_rowid()

    def update(self, table: str, id: int, **values: Any) -> int:
        return self.write(update_statement(table, tuple(values)), *values.values(), id)

    def count(self, table: str, where: str, *parameters: Any) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table} WHERE {where}", *parameters)[0][0])

    def with_connection(self, callable: Callable[[sa.engine.Connection], Any]) -> Any:
        self._begin_savepoint()
        with self._engine.connect() as conn:
            result = callable(conn)
            conn.commit()
            return result

    def _begin_savepoint(self) -> None:
        if not self._in_savepoint:
            self._handle.execute("SAVEPOINT plain_sql")
            self._in_savepoint = True

    def _end_savepoint(self, sql: str) -> None:
        if not self._in_savepoint:
            return
        self._in_savepoint = False
        if not self._handle.in_transaction:
            return  # the disk is full, and SQLite has rolled everything back by itself
        try:
            self._handle.execute(sql)
        except apsw.Error as error:
            raise self._error_for(error) from error

    def _error_for(self, error: apsw.Error) -> dbapi.Error:
        translated = dbapi.translate(error)
        if self._on_fatal is not None and isinstance(translated, dbapi.FATAL):
            self._on_fatal(translated)
        return translated


# Maps (table, condition, parameters) to the count, the highest rowid that it includes, and how many
# rows had been deleted from the table by then.
Counts = dict[tuple[Any, ...], tuple[int, int, int]]
MAX_COUNTS = 1000


class CountingSql(ApswSql):
    """ApswSql on a snapshot.  It remembers counts, and later counts only the rows added since.

    To count rows SQLite has to walk an index, which takes 4 ms for a million.  Added rows have
    higher rowids than all before them, and a trigger counts the deleted ones in litebot_deletions.
    `counts` holds the remembered counts; several connections to one file may share it.
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
        if deleted != deletions or counted_to > last:  # the count may come from a newer snapshot
            count = super().count(table, where, *parameters)
        elif counted_to < last:
            # The + stops SQLite from using an index, in which it would walk all the older rows.
            newer = f"rowid > ? AND +({where})"
            count += super().count(table, newer, counted_to, *parameters)
        if len(self._counts) >= MAX_COUNTS:
            self._counts.clear()
        self._counts[key] = (count, last, deletions)
        return count
