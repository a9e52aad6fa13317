"""store.sql.Sql on a psycopg connection, without SQLAlchemy in between."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cache
from typing import Any

import psycopg
import sqlalchemy as sa

from litebot.master.db.postgres.connection import SharedConnection
from litebot.store.sql import Row
from litebot.store.sql import insert_statement
from litebot.store.sql import update_statement

# The columns that number the rows of a table, where that is not `id`.
KEY_COLUMNS = {"changes": "changeid"}
# How many ids are fetched at a time.
FETCH_IDS = 5000


@cache
def with_psycopg_placeholders(sql: str) -> str:
    """Replace the placeholders `?` of a statement with psycopg's %s."""
    return sql.replace("%", "%%").replace("?", "%s")


@cache
def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f"{insert_statement(table, columns)} RETURNING {KEY_COLUMNS.get(table, 'id')}"


class PostgresSql:
    """Sql on `conn`; `connect` returns a SQLAlchemy connection on the same one.

    Raises SQLAlchemy's errors, as SQLAlchemy's connections do.
    """

    keeps_order = False

    def __init__(self, conn: SharedConnection, connect: Callable[[], sa.engine.Connection]) -> None:
        self._conn = conn
        self._connect = connect
        self._cursor = conn.cursor()

    def run(self, callable: Callable[..., Any], *args: Any) -> Any:
        """Return callable(self, *args).  If it raises, what it wrote is undone."""
        try:
            result = callable(self, *args)
        except BaseException:
            if not self._conn.closed:
                self._conn.rollback()
            raise
        self._conn.commit()
        return result

    def rows(self, sql: str, *parameters: Any) -> list[Row]:
        return self._execute(sql, parameters).fetchall()

    def row(self, sql: str, *parameters: Any) -> Row | None:
        row: Row | None = self._execute(sql, parameters).fetchone()
        return row

    def ids(self, sql: str, *parameters: Any) -> array[int]:
        # A cursor of the server: one of the client would hold all rows at once.
        statement: Any = with_psycopg_placeholders(sql)
        try:
            with self._conn.cursor("ids") as cursor:
                cursor.itersize = FETCH_IDS
                cursor.execute(statement, parameters)
                return array("q", (row[0] for row in cursor))
        except psycopg.Error as error:
            raise sa.exc.DBAPIError.instance(sql, parameters, error, psycopg.Error) from error

    def write(self, sql: str, *parameters: Any) -> int:
        return self._execute(sql, parameters).rowcount

    def insert(self, table: str, **values: Any) -> int:
        return int(self.rows(_insert(table, tuple(values)), *values.values())[0][0])

    def update(self, table: str, id: int, **values: Any) -> int:
        return self.write(update_statement(table, tuple(values)), *values.values(), id)

    def count(self, table: str, where: str, *parameters: Any) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table} WHERE {where}", *parameters)[0][0])

    def with_connection(self, callable: Callable[[sa.engine.Connection], Any]) -> Any:
        return callable(self._connect())

    def _execute(self, sql: str, parameters: tuple[Any, ...]) -> psycopg.Cursor[Any]:
        statement: Any = with_psycopg_placeholders(sql)
        try:
            return self._cursor.execute(statement, parameters)
        except psycopg.Error as error:
            raise sa.exc.DBAPIError.instance(sql, parameters, error, psycopg.Error) from error
