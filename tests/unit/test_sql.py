"""Plain SQL inside a transaction: what a piece of work has written counts as a whole or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from litebot.master.db.sqlite import turn_queue
from litebot.master.db.sqlite.state_file import create_file
from litebot.master.db.sqlite.turn_queue import TurnQueue
from litebot.store import dbapi
from litebot.store.connection import DURABILITY
from litebot.store.connection import MASTER
from litebot.store.connection import connect
from litebot.store.dialect import engine_on
from litebot.store.sql import ApswSql
from litebot.store.sql import Sql
from support.faulty_vfs import faulty_disk
from support.stand_in import Asked
from support.stand_in import Log
from support.stand_in import Reactor
from support.worlds import Commits

pytestmark = pytest.mark.usefixtures("logged")


class Mistake(Exception):
    """A programming error in a component."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.sqlite"
    create_file(path)
    handle = connect(path)
    handle.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x UNIQUE, y)")
    handle.close()
    return path


@pytest.fixture
def handle(path: Path) -> Iterator[apsw.Connection]:
    """Inside a transaction."""
    handle = connect(path, MASTER + DURABILITY["process"])
    handle.execute("BEGIN IMMEDIATE")
    yield handle
    handle.close()


@pytest.fixture
def sql(handle: apsw.Connection) -> ApswSql:
    return ApswSql(handle, engine_on(handle))


def test_rows(sql: ApswSql) -> None:
    first = sql.insert("t", x="a", y=1)
    second = sql.insert("t", x="b", y=None)
    assert (first, second) == (1, 2)
    assert sql.rows("SELECT x, y FROM t WHERE id >= ? ORDER BY id", 1) == [("a", 1), ("b", None)]
    assert sql.row("SELECT x FROM t WHERE id = ?", 2) == ("b",)
    assert sql.row("SELECT x FROM t WHERE id = ?", 3) is None
    assert sql.write("UPDATE t SET y = ?", b"\0") == 2
    assert sql.update("t", 1, x="c", y=7) == 1
    assert sql.update("t", 9, x="c") == 0
    assert sql.rows("SELECT * FROM t") == [(1, "c", 7), (2, "b", b"\0")]


def test_values_are_never_sql(sql: ApswSql) -> None:
    nasty = "'); DROP TABLE t; --"
    rowid = sql.insert("t", x=nasty, y="?")
    assert sql.row("SELECT x, y FROM t WHERE id = ?", rowid) == (nasty, "?")


def test_what_raises_is_undone_alone(sql: ApswSql, handle: apsw.Connection) -> None:
    def keep(sql: Sql, value: str) -> str:
        sql.insert("t", x=value)
        return value

    def fail(sql: Sql) -> None:
        sql.insert("t", x="undone")
        sql.update("t", 1, x="undone too")
        raise Mistake

    assert sql.run(keep, "a") == "a"
    with pytest.raises(Mistake):
        sql.run(fail)
    sql.run(keep, "b")
    handle.execute("COMMIT")
    assert list(handle.execute("SELECT x FROM t")) == [("a",), ("b",)]


def test_a_constraint_can_be_caught(sql: ApswSql) -> None:
    def twice(sql: Sql) -> str:
        sql.insert("t", x="a")
        try:
            sql.insert("t", x="a")
        except dbapi.IntegrityError:
            return "there already"
        return "not reached"

    assert sql.run(twice) == "there already"
    assert sql.rows("SELECT x FROM t") == [("a",)]


def test_a_read_opens_no_savepoint(sql: ApswSql, handle: apsw.Connection) -> None:
    traced: list[str] = []
    handle.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: traced.append(event["sql"]))
    sql.run(lambda sql: sql.rows("SELECT 1"))
    assert traced == ["SELECT 1"]


def test_a_mistake_in_a_statement(sql: ApswSql) -> None:
    with pytest.raises(dbapi.OperationalError, match="no such table"):
        sql.rows("SELECT * FROM nowhere")
    with pytest.raises(dbapi.Error):
        sql.write("INSERT INTO t (x) VALUES (?)")


def test_a_full_disk_is_reported(path: Path) -> None:
    fatal: list[dbapi.Error] = []
    with faulty_disk() as disk:
        handle = connect(path, MASTER + DURABILITY["process"])
        handle.execute("PRAGMA cache_size = 1")
        handle.execute("BEGIN IMMEDIATE")
        sql = ApswSql(handle, engine_on(handle), fatal.append)
        disk.refuse("write", "", apsw.SQLITE_FULL)
        with pytest.raises(dbapi.FullDiskError):
            sql.run(lambda sql: [sql.insert("t", x=f"{n}" * 50_000) for n in range(50)])
        disk.heal()
        handle.close()
    assert [type(error) for error in fatal] == [dbapi.FullDiskError]


# on the turn queue


@pytest.fixture
def queue(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    reactor = Reactor()
    monkeypatch.setattr(turn_queue, "time", reactor)  # a turn is over after a time
    handle = connect(path, MASTER + DURABILITY["process"], busy_timeout_ms=0)
    queue = TurnQueue(handle, reactor, path)
    queue.start()
    yield queue
    stopping = Asked(queue.stop())
    reactor.run_now(lambda: stopping.called)


def test_pieces_of_a_turn_are_one_commit(queue: Any, path: Path, logged: Log) -> None:
    commits = Commits(queue._handle)

    def fail(sql: Sql) -> None:
        sql.insert("t", x="undone")
        raise Mistake

    asked = [
        Asked(queue.do_sql(lambda sql: sql.insert("t", x="a"))),
        Asked(queue.do_sql(fail)),
        Asked(queue.do(lambda conn: conn.exec_driver_sql("SELECT x FROM t").scalars().all())),
        Asked(queue.do_sql(lambda sql: sql.insert("t", x="b"))),
        Asked(queue.do_sql(lambda sql: sql.rows("SELECT x FROM t ORDER BY id"))),
    ]
    assert not any(a.called for a in asked)
    queue.reactor.turn()
    assert [a.result for a in asked] == [1, None, ["a"], 2, [("a",), ("b",)]]
    assert isinstance(asked[1].error, Mistake)
    assert logged.take() == [Mistake]
    assert commits.count == 1
    other = connect(path)
    assert list(other.execute("SELECT x FROM t ORDER BY id")) == [("a",), ("b",)]
    other.close()
