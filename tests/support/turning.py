"""The turn queue in a reactor whose turns a test controls.

That reactor has a clock of its own; files, threads and SQLite are real.  This is a plugin of
pytest, for its fixtures.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from litebot.errors import StoreFailed
from litebot.master.db import dispatcher
from litebot.master.db import pool
from litebot.master.db.sqlite import turn_queue
from litebot.master.db.sqlite.state_file import create_file
from litebot.master.db.sqlite.turn_queue import TurnQueue
from litebot.store import dbapi
from litebot.store.connection import DURABILITY
from litebot.store.connection import MASTER
from litebot.store.connection import connect
from support.faulty_vfs import FaultyDisk
from support.faulty_vfs import faulty_disk
from support.stand_in import Asked
from support.stand_in import Asks
from support.stand_in import Reactor

BIG = "x" * 20_000_000  # more than the page cache holds, so it is written before the commit
FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

Connection = sa.engine.Connection


class Store(Asks):
    """A turn queue on a file, or in memory."""

    def __init__(self, reactor: Reactor, path: Path | None) -> None:
        self.reactor = reactor
        self.path = path
        self.failures: list[StoreFailed] = []
        pragmas = MASTER + DURABILITY["commit"] if path else ()
        self.handle = connect(path or ":memory:", pragmas, busy_timeout_ms=0)
        self.pool = self.queue = TurnQueue(self.handle, reactor, path, self.failures.append)
        self.queue.start()
        self.commits = 0
        self.handle.set_commit_hook(self._count)

    def _count(self) -> bool:
        self.commits += 1
        return False

    def content(self) -> list[Any]:
        """Return the rows that another process would find in the file now."""
        assert self.path is not None
        handle = connect(self.path)
        values = [x for (x,) in handle.execute("SELECT x FROM t ORDER BY id")]
        handle.close()
        return values

    def stop(self) -> None:
        stopping = Asked(self.queue.stop())
        self.wait(stopping)


@pytest.fixture
def reactor(monkeypatch: pytest.MonkeyPatch) -> Reactor:
    reactor = Reactor()
    monkeypatch.setattr(turn_queue, "time", reactor)
    monkeypatch.setattr(dispatcher, "time", reactor)
    monkeypatch.setattr(pool, "time", reactor)
    return reactor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state file with an empty table t."""
    path = tmp_path / "state.sqlite"
    create_file(path)
    handle = connect(path)
    handle.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x UNIQUE)")
    handle.close()
    return path


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    """A faulty disk; must come before `store` in a test's arguments, whose files are on it."""
    with faulty_disk() as disk:
        yield disk


@pytest.fixture
def store(reactor: Reactor, path: Path) -> Iterator[Store]:
    store = Store(reactor, path)
    yield store
    store.stop()


# work for the queue: functions of a connection, as in Buildbot's components


def insert(conn: Connection, *values: object) -> str:
    for value in values:
        conn.exec_driver_sql("INSERT INTO t (x) VALUES (?)", (value,))
    return f"inserted {values[0]}"


def keep(conn: Connection, *values: object) -> str:
    insert(conn, *values)
    conn.commit()
    return f"kept {values[0]}"


def read(conn: Connection) -> list[Any]:
    return list(conn.exec_driver_sql("SELECT x FROM t ORDER BY id").scalars())


def thread_of(conn: Connection) -> int:
    read(conn)
    return threading.get_ident()


class Mistake(Exception):
    """A programming error in a component."""


# what tests expect of the queue


def expect_failure(store: Store, asked: list[Asked], message: str, code: int) -> None:
    """Check that all this work has failed, with one call of on_failure, and that new work fails."""
    store.reactor.settle()
    assert [type(a.error) for a in asked] == [StoreFailed] * len(asked)
    assert len({id(a.error) for a in asked}) == len(asked)  # tracebacks do not pile up on one
    assert len(store.failures) == 1
    assert store.failures[0].what.startswith(f"{store.path}: ")
    assert message in store.failures[0].what
    assert f"code {code}" in store.failures[0].what
    assert store.failures[0].hint
    late = [store.do(keep, "late"), store.browse(read)]
    for ask in (store.queue.do_with_engine, store.queue.do_with_transaction):
        late.append(Asked(ask(keep, "late")))
    assert {type(a.error) for a in late} == {StoreFailed}
    assert {str(a.error) for a in late} == {store.failures[0].what}
    store.queue.fail(dbapi.DiskIOError("once more"))
    assert len(store.failures) == 1
