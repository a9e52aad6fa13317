"""store.sql.Sql on a connection of psycopg's, without SQLAlchemy in between."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import psycopg
import sqlalchemy as sa

from litebot.master.db.postgres.connection import Shared
from litebot.store.sql import Row
from litebot.store.sql import insert_statement
from litebot.store.sql import update_statement

# The column that numbers the rows, where it is not `id`.
KEYS = {"changes": "changeid"}


@cache
def as_psycopg_has_it(sql: str) -> str:
    """A statement with `?` for its parameters, with %s for them."""
    return sql.replace("%", "%%").replace("?", "%s")


@cache
def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f"{insert_statement(table, columns)} RETURNING {KEYS.get(table, 'id')}"


class PostgresSql:
    """Sql on a connection that `connect` makes one of SQLAlchemy's of.

    Raises SQLAlchemy's errors, as its own connections do.
    """

    keeps_order = False

    def __init__(self, conn: Shared, connect: Callable[[], sa.engine.Connection]) -> None:
        self._conn = conn
        self._connect = connect
        self._cursor = conn.cursor()

    def run(self, callable: Callable[..., Any], *args: Any) -> Any:
        """callable(self, *args); what it has written is undone where it raises."""
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
        statement: Any = as_psycopg_has_it(sql)
        try:
            return self._cursor.execute(statement, parameters)
        except psycopg.Error as error:
            raise sa.exc.DBAPIError.instance(sql, parameters, error, psycopg.Error) from error
