"""Read-only connections to Postgres, in threads: see litebot.master.db.read_pool."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import IsolationLevel
from sqlalchemy.pool import NullPool

from litebot.master.db.postgres import DIALECT_URL
from litebot.master.db.postgres.connection import SharedConnection
from litebot.master.db.postgres.server import Server
from litebot.master.db.postgres.server import away_error
from litebot.master.db.postgres.server import cut_off
from litebot.master.db.postgres.server import one_line
from litebot.master.db.postgres.server import reconnect_delays
from litebot.master.db.postgres.sql import PostgresSql
from litebot.master.db.read_pool import Reader
from litebot.master.db.read_pool import ReadPool

# How long a read waits for a server that is away.
READ_WAITS_S = 5.0


class PostgresReader:
    """A `Reader` of a server; it connects at its first use, and again after each loss."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._conn: SharedConnection | None = None
        self._sql: PostgresSql | None = None
        self.engine = sa.create_engine(
            DIALECT_URL, creator=self._raw_connection, poolclass=NullPool, use_native_hstore=False
        )

    def _raw_connection(self) -> SharedConnection:
        assert self._conn is not None
        return self._conn

    def run_sql(self, callable: Callable[..., Any], *args: Any) -> Any:
        assert self._sql is not None
        return self._sql.run(callable, *args)

    @property
    def is_lost(self) -> bool:
        """Whether it has no usable connection."""
        return self._conn is None or self._conn.closed or self._conn.broken

    def begin(self) -> None:
        if not self.is_lost:
            return
        self._conn = conn = self._server.connect(SharedConnection)
        conn.autocommit = False
        conn.read_only = True
        conn.isolation_level = IsolationLevel.REPEATABLE_READ  # so all its queries see one snapshot
        self._sql = PostgresSql(conn, self.engine.connect)

    def end(self) -> None:
        if self._conn is not None:
            with suppress(psycopg.Error):
                self._conn.rollback()

    def interrupt(self) -> None:
        if self._conn is not None:
            cut_off(self._conn)

    def close(self) -> None:
        if self._conn is not None:
            self._conn.finish()
        self.engine.dispose()


class PostgresReadPool(ReadPool):
    """The ReadPool of a Postgres server.

    Work that writes fails with psycopg's ReadOnlySqlTransaction (`orig` of SQLAlchemy's error).
    Work fails with ServerAway if the server does not answer within READ_WAITS_S.
    """

    def __init__(self, server: Server, reactor: Any) -> None:
        super().__init__(reactor)
        self._server = server

    def _open(self) -> Reader:
        return PostgresReader(self._server)

    def _run_in_pool(self, how: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        until = time.monotonic() + READ_WAITS_S
        return super()._run_in_pool(partial(self._retry_until, until, how), *args, **kwargs)

    def _run(self, reader: Reader, how: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return how(*args, **kwargs)

    def _retry_until(self, until: float, how: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run it, and run it again on a new connection each time the connection is lost."""
        reader = self._local.reader
        for wait_s in reconnect_delays():
            try:
                reader.begin()
                return how(*args, **kwargs)
            except (psycopg.Error, sa.exc.DBAPIError) as error:
                if not reader.is_lost or self._local.reading.is_aborted:
                    raise
                if self._stopping or time.monotonic() + wait_s > until:
                    cause = getattr(error, "orig", None) or error
                    raise away_error(self._server, one_line(cause)) from error
            time.sleep(wait_s)
        raise AssertionError("unreachable")
