"""Sql on a connection of Buildbot's own engine: hot components on another database than SQLite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from litebot.store import dbapi
from litebot.store.sql import Row
from litebot.store.sql import insert_statement
from litebot.store.sql import update_statement

# What is written, through a connection, in the transaction that ends a build or a buildset.
AlsoEnds = Callable[[sa.engine.Connection], None]

# The column that numbers the rows, where it is not `id`.
KEYS = {"changes": "changeid"}

INTEGRITY_ERRORS = (dbapi.IntegrityError, sa.exc.IntegrityError)


class EngineSql:
    """store.sql.Sql in the transaction of an SQLAlchemy connection."""

    def __init__(self, conn: sa.engine.Connection) -> None:
        self._conn = conn

    def rows(self, sql: str, *parameters: Any) -> list[Row]:
        return [tuple(row) for row in self._execute(sql, parameters)]

    def row(self, sql: str, *parameters: Any) -> Row | None:
        row = self._execute(sql, parameters).first()
        return None if row is None else tuple(row)

    def write(self, sql: str, *parameters: Any) -> int:
        return self._execute(sql, parameters).rowcount

    def insert(self, table: str, **values: Any) -> int:
        sql = insert_statement(table, tuple(values))
        if self._conn.dialect.insert_returning:
            returning = f"{sql} RETURNING {KEYS.get(table, 'id')}"
            return int(self._execute(returning, tuple(values.values())).scalar_one())
        return self._execute(sql, tuple(values.values())).lastrowid

    def update(self, table: str, id: int, **values: Any) -> int:
        return self.write(update_statement(table, tuple(values)), *values.values(), id)

    def count(self, table: str, where: str, *parameters: Any) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table} WHERE {where}", *parameters)[0][0])

    def with_connection(self, callable: Callable[[sa.engine.Connection], Any]) -> Any:
        return callable(self._conn)

    def _execute(self, sql: str, parameters: tuple[Any, ...]) -> sa.engine.CursorResult[Any]:
        return self._conn.exec_driver_sql(sql.replace("%", "%%").replace("?", "%s"), parameters)


def run_on(conn: sa.engine.Connection, callable: Callable[..., Any], *args: Any) -> Any:
    """callable(sql, *args) in a transaction of its own."""
    with conn.begin():
        return callable(EngineSql(conn), *args)
