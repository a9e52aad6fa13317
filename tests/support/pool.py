"""The database pool on a real Postgres, in a reactor that a test drives."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from bench.postgres import USER
from litebot.errors import StoreFailed
from litebot.master.db import tables
from litebot.master.db.postgres.pool import PostgresPool
from litebot.master.db.postgres.server import Server
from litebot.store.sql import Sql
from support.postgres import Postgres
from support.proxy import Proxy
from support.stand_in import Asked
from support.stand_in import Asks
from support.stand_in import Reactor

Connection = sa.engine.Connection


class RealTime(Reactor):
    """A reactor whose clock shows real time."""

    def callLater(self, delay_s: float, f: Callable[..., object], *args: Any, **kw: Any) -> Any:
        self.now = time.monotonic()
        return super().callLater(delay_s, f, *args, **kw)

    def run_until(self, done: Callable[[], bool], patience_s: float = 40.0) -> None:
        give_up_at = time.monotonic() + patience_s
        while not done():
            due = [timer.at for timer in self.timers]
            wait_s = min([give_up_at, *due]) - time.monotonic()
            try:
                self._calls.put(self._calls.get(timeout=max(0.0, wait_s)))
            except queue.Empty:
                assert time.monotonic() < give_up_at, "nothing has come"
            self.now = time.monotonic()
            self.turn()


class Store(Asks):
    """A pool on a database of its own, with a table t(id, x unique), behind a proxy."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.name = postgres.new_database()
        table = "t (id serial PRIMARY KEY, x text UNIQUE, number xid8 DEFAULT pg_current_xact_id())"
        postgres.execute(self.name, f"CREATE TABLE {table}")
        postgres.execute(self.name, str(CreateTable(tables.writers)))
        self.proxy = Proxy(postgres.socket)
        self.reactor = RealTime()
        self.failures: list[StoreFailed] = []
        self.pool: PostgresPool = self._pool(self.proxy.url(USER, self.name))

    def _pool(self, url: str, basedir: Path = Path("/")) -> PostgresPool:
        return PostgresPool(Server(url, basedir), self.reactor, self.failures.append, None)

    def use(self, url: str, basedir: Path = Path("/")) -> None:
        """Stop the pool, and open another on this URL."""
        self.wait(Asked(self.pool.stop()))
        self.pool = self._pool(url, basedir)
        self.open()

    def open(self) -> None:
        self.wait(Asked(self.pool.open()))

    def close(self) -> None:
        self.wait(Asked(self.pool.stop()))
        self.proxy.close()

    def do_sql(self, work: Callable[..., Any], *args: Any) -> Asked:
        return Asked(self.pool.do_sql(work, *args))

    def end_writer(self) -> None:
        """Let the server end the connection that writes."""
        identity = self.pool._writer._identity
        assert identity is not None
        self.postgres.rows(self.name, f"SELECT pg_terminate_backend({identity.pid}, 5000)")

    def content(self) -> list[str]:
        """Return the rows of the table that other connections see."""
        return [x for (x,) in self.postgres.rows(self.name, "SELECT x FROM t ORDER BY id")]


def add(conn: Connection, x: str) -> None:
    """Add a row and commit, as Buildbot's work does."""
    conn.execute(sa.text("INSERT INTO t (x) VALUES (:x)"), {"x": x})
    conn.commit()


def add_sql(sql: Sql, x: str) -> int:
    return sql.insert("t", x=x)


def contents(conn: Connection) -> list[str]:
    return list(conn.execute(sa.text("SELECT x FROM t ORDER BY id")).scalars())
