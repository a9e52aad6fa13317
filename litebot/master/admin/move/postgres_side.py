"""A Postgres database as one side of a copy or move."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from typing import cast

import sqlalchemy as sa
from sqlalchemy.engine import URL

from litebot.errors import StoreError
from litebot.master.admin.move.side import Side
from litebot.master.admin.move.tables import Moved
from litebot.master.admin.move.tables import Row
from litebot.master.db import move_away
from litebot.master.db import postgres
from litebot.master.db.postgres.copying import copied

# A server may be configured to end sessions that take as long as this one.
SESSION = (
    "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    # Until sync() a power loss may undo the last transactions.  The rows that are left still show
    # where to continue.
    "SET synchronous_commit = off",
)

CONSTRAINTS = """
    SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
        format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname,
            pg_get_constraintdef(oid))
    FROM pg_constraint
    WHERE contype = 'f' AND connamespace = current_schema()::regnamespace
    ORDER BY conrelid::regclass::text, conname
"""
INDEXES = """
    SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relnamespace = current_schema()::regnamespace
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype <> 'f')
    ORDER BY indexrelid::regclass::text
"""

# Of another role's session, a user who is no superuser sees little more than that it exists: its
# backend_type is NULL, so it is taken for a client.  A session that streams the database to a
# replica is recognized by pg_stat_replication; it writes nothing.
SESSIONS = """
    SELECT pid, usename, application_name,
        CASE WHEN backend_type IS NULL THEN 'place hidden from this user'
            ELSE coalesce(host(client_addr), 'on this machine') END
    FROM pg_stat_activity
    WHERE datname = current_database() AND usesysid IS NOT NULL
        AND coalesce(backend_type, 'client backend') = 'client backend'
        AND pid NOT IN (SELECT pid FROM pg_stat_replication)
        AND pid <> pg_backend_pid()
    ORDER BY pid
"""
OTHERS_END_WITHIN_S = 5.0


class PostgresSide(Side):
    """A database on a server."""

    def __init__(self, url: str | URL, basedir: Path) -> None:
        """Connect.  Raises StoreError, with the server's message, if that fails."""
        self.name = postgres.shown(url)
        self._url = url
        self.engine = postgres.engine_for(url, basedir)
        with self.translated_errors():
            self._connection = self.engine.raw_connection()
            # Typed as Any: only master.db.postgres knows the names of psycopg's classes.
            self._db = cast("Any", self._connection.driver_connection)
            self._db.autocommit = True
            for statement in SESSION:
                self._db.execute(statement)
            postgres.refuse_encoding(self._value("SHOW server_encoding"), self.name)

    def _value(self, query: str) -> Any:
        return self._db.execute(query).fetchone()[0]

    def translated_errors(self) -> AbstractContextManager[None]:
        return postgres.translated_errors(self._url)

    def identity(self) -> str:
        with self.translated_errors():
            return "postgresql " + self._value(
                "SELECT pg_postmaster_start_time() || ' ' || oid FROM pg_database"
                " WHERE datname = current_database()"
            )

    def refuse_users(self) -> None:
        give_up_at = time.monotonic() + OTHERS_END_WITHIN_S
        # A session that was just ended may still be listed.
        while others := self._others():
            if time.monotonic() > give_up_at:
                pid, user, program, place = others[0]
                raise StoreError(
                    f"{self.name} is open in another program: server process {pid} of user {user}"
                    f" ({program or 'no name'}, {place}); it may write to what is moved, as another"
                    " master would",
                    "end it, and give this command again",
                )
            time.sleep(0.1)

    def _others(self) -> list[Row]:
        with self.translated_errors():
            self._end_snapshot()  # a transaction keeps seeing the same sessions
            found: list[Row] = self._db.execute(SESSIONS).fetchall()
        return found

    def tables(self) -> set[str]:
        with self.translated_errors():
            found = self._db.execute(
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f')"
                " AND relnamespace = current_schema()::regnamespace"
            )
            return {name for (name,) in found}

    def mark(self, tables: list[Moved]) -> str:
        # xmin is the number of the transaction that inserted or changed the row.
        with self.translated_errors():
            parts = [
                self._db.execute(
                    f"SELECT count(*), coalesce(max(xmin::text::bigint), 0) FROM {table.quoted}"
                ).fetchone()
                for table in tables
            ]
        return json.dumps(parts)

    def take_snapshot(self) -> None:
        with self.translated_errors():
            self._end_snapshot()
            self._db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def _end_snapshot(self) -> None:
        if self._db.info.transaction_status:  # not idle
            self._db.execute("COMMIT")

    def count(self, table: Moved) -> int:
        query = f"SELECT count(*) FROM {table.quoted} WHERE {table.wanted}"
        with self.translated_errors():
            return int(self._value(query))

    def rows(self, table: Moved, skip: int = 0) -> Iterator[Row]:
        order = ", ".join(
            # SQLite's order: text by its bytes, and NULL first.
            column.quoted
            + (' COLLATE "C"' if column.kind == "text" else "")
            + (" NULLS FIRST" if column.nullable else "")
            for column in table.order
        )
        query = (
            f"SELECT {table.values} FROM {table.quoted} WHERE {table.wanted} ORDER BY {order}"
            f" OFFSET {skip}"
        )
        with self.translated_errors(), self._db.cursor() as cursor:
            yield from copied(cursor, query, [column.kind for column in table.columns])

    def write(self, table: Moved, batches: Iterable[list[Row]]) -> None:
        statement = f"COPY {table.quoted} ({table.column_list}) FROM STDIN (FORMAT BINARY)"
        with self.translated_errors(), self._db.cursor() as cursor:
            with cursor.copy(statement) as copy:
                copy.set_types([column.kind for column in table.columns])
                write_row = copy.write_row
                for batch in batches:
                    for row in batch:
                        write_row(row)

    def definitions(self) -> list[tuple[str, str]]:
        # References must be dropped before the indexes that they need, and created after them, in
        # the reverse order.
        with self.translated_errors():
            return [
                (drop, make)
                for query in (CONSTRAINTS, INDEXES)
                for drop, make in self._db.execute(query).fetchall()
            ]

    def wipe(self, tables: list[Moved]) -> None:
        names = [table.quoted for table in tables]
        with self.translated_errors(), self._db.transaction():
            for name in (*names, "alembic_version", "litebot_move"):
                self._db.execute(f"DROP TABLE IF EXISTS {name} CASCADE")

    def settle(self, conn: sa.engine.Connection, tables: list[Moved]) -> None:
        for table in tables:
            column = table.table.autoincrement_column
            if column is not None:
                top = sa.select(sa.func.max(column)).scalar_subquery()
                sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
                # In a table without rows the next number is 1.
                conn.execute(
                    sa.select(sa.func.setval(sequence, sa.func.coalesce(top, 1), top.is_not(None)))
                )

    def analyze(self) -> None:
        with self.translated_errors():
            self._db.execute("ANALYZE")

    def sync(self) -> None:
        with self.translated_errors():
            self._db.execute("SET synchronous_commit = on")
            # Once any commit is on disk, so are all commits before it.
            self._db.execute("COMMENT ON TABLE litebot_move IS 'moved'")

    def announce(self, url: str, master: str) -> None:
        with self.translated_errors(), self.engine.begin() as conn:
            move_away.leave(conn, url, master, done=False)

    def take_back(self) -> None:
        with self.translated_errors(), self.engine.begin() as conn:
            move_away.take_back(conn)

    def put_aside(self, url: str, master: str) -> str:
        with self.translated_errors(), self.engine.begin() as conn:
            move_away.leave(conn, url, master, done=True)
        return self.name

    def close(self) -> None:
        self._connection.close()
        self.engine.dispose()
