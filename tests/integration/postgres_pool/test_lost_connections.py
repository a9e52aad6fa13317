"""Connections to a real Postgres that are lost: what was asked for is done once."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from buildbot.data.resultspec import Filter

from bench.postgres import USER
from litebot.errors import StoreFailed
from litebot.master.data.connector import Query
from litebot.master.db import tables
from litebot.master.db.postgres import watch
from litebot.store.sql import Sql
from support.commands import wait_for
from support.pool import Connection
from support.pool import Store
from support.pool import add
from support.pool import add_sql
from support.stand_in import Log
from support.timing import require_less


def test_work_waits_for_a_server_that_is_cut_off(store: Store, logged: Log) -> None:
    store.wait(store.do(add, "before"))
    store.proxy.cut()
    asked = [store.do(add, "a"), store.do_sql(add_sql, "b")]
    store.reactor.run_until(lambda: store.pool.outage is not None)
    assert not any(each.called for each in asked)
    later = store.do(add, "c")
    store.proxy.mend()
    store.wait(later)
    assert store.content() == ["before", "a", "b", "c"]
    assert store.pool.outage is None
    said = [line for line in logged.messages if "is away" in line or "is back" in line]
    assert len(said) == 2


def test_an_answer_to_a_commit_that_is_lost_is_not_asked_for_twice(store: Store) -> None:
    runs: list[str] = []

    def work(sql: Sql) -> int:
        runs.append("x")
        return sql.insert("t", x=f"run {len(runs)}")

    store.proxy.lose_next_answer_to_commit()
    assert store.wait(store.do_sql(work)) == 1
    assert store.proxy.lost_answer.is_set()
    assert store.content() == ["run 1"]
    assert len(runs) == 1


def own_number(conn: Connection) -> int:
    """The server's number of a transaction."""
    number = conn.execute(sa.text("SELECT pg_current_xact_id()::text::int")).scalar_one()
    assert isinstance(number, int)
    return number


def test_what_a_crash_took_is_run_again_though_its_number_is_anothers(store: Store) -> None:
    numbers: list[int] = []

    def work(conn: Connection) -> None:
        add(conn, "a")
        numbers.append(own_number(conn))
        if len(numbers) == 1:
            store.postgres.crash()
            store.proxy.cut()
            store.postgres.restart("immediate")
            take(numbers[0])
            store.proxy.mend()

    def take(number: int) -> None:
        """Have somebody else commit the transaction of this number."""
        with store.postgres.connect(store.name) as conn:
            while True:
                query = "INSERT INTO t (x) VALUES ('other') ON CONFLICT DO NOTHING"
                with conn.transaction():
                    conn.execute(query)
                    row = conn.execute("SELECT pg_current_xact_id()::text::int").fetchone()
                assert row is not None
                assert row[0] <= number, "the lost transaction was on disk"
                if row[0] == number:
                    return

    store.wait(store.do(add, "before"))
    store.wait(store.do(work))
    assert store.content() == ["before", "other", "a"]
    assert numbers[1] > numbers[0]


def test_what_was_not_committed_is_run_again(store: Store) -> None:
    runs: list[int] = []

    def work(conn: Connection) -> None:
        runs.append(1)
        conn.execute(sa.text("INSERT INTO t (x) VALUES (:x)"), {"x": f"run {len(runs)}"})
        if len(runs) == 1:
            store.proxy.cut()
            store.proxy.mend()
        conn.execute(sa.text("INSERT INTO t (x) VALUES (:x)"), {"x": f"run {len(runs)}, again"})
        conn.commit()

    asked = [store.do(add, "a"), store.do(work), store.do(add, "b")]
    store.wait(asked[-1])
    assert store.content() == ["a", "run 2", "run 2, again", "b"]
    assert all(each.error is None for each in asked)


def test_a_query_asks_the_same_when_it_is_run_again(store: Store) -> None:
    table = sa.table("t", sa.column("id"), sa.column("x"))
    query = Query([Filter("x", "ne", ["b"])], order=("-id",), limit=2, offset=1)
    query.fieldMapping = {"id": "t.id", "x": "t.x"}
    runs: list[list[str]] = []

    def work(conn: Connection) -> Any:
        found = query.thd_execute(conn, sa.select(table.c.id, table.c.x), lambda row: row.x)
        runs.append(list(found))
        if len(runs) == 1:
            store.pool._writer.cut_off()
        add(conn, "f")
        return found

    for x in "abcde":
        store.do(add, x)
    found = store.wait(store.do(work))
    assert runs == [["d", "c"]] * 2
    assert (list(query.apply(found)), found.total) == (["d", "c"], 4)


def test_a_connection_that_is_lost_while_a_piece_is_undone(store: Store, logged: Log) -> None:
    runs: list[int] = []

    def work(conn: Connection) -> None:
        runs.append(1)
        with suppress(sa.exc.IntegrityError):
            conn.execute(sa.text("INSERT INTO t (x) VALUES ('taken')"))
        if len(runs) == 1:
            store.end_writer()

    store.wait(store.do(add, "taken"))
    asked = [store.do(add, "a"), store.do(work), store.do(add, "b")]
    store.wait(asked[-1])
    assert all(each.error is None for each in asked)
    assert store.content() == ["taken", "a", "b"]
    assert len(runs) == 2
    assert store.failures == []


def test_a_connection_that_is_lost_again_at_once(store: Store, logged: Log) -> None:
    calls: list[int] = []

    def hook(conn: Connection) -> None:
        calls.append(1)
        if len(calls) == 1:
            store.end_writer()
        conn.execute(sa.text("SELECT 1"))

    store.pool.before_batch_after_reconnect = hook
    store.end_writer()
    store.wait(store.do(add, "a"))
    assert store.content() == ["a"]
    assert len(calls) == 2
    assert store.failures == []


def test_what_is_left_of_a_lost_connection_holds_no_locks(store: Store) -> None:
    store.wait(store.do(add, "a"))
    runs: list[int] = []

    def work(conn: Connection) -> None:
        conn.execute(sa.text("UPDATE t SET x = x || '+'"))
        runs.append(1)
        if len(runs) == 1:
            store.proxy.forget()  # the server has no word of it, and holds the row
            store.pool._writer.cut_off()
        conn.execute(sa.text("SELECT 1"))
        conn.commit()

    began_at = time.monotonic()
    store.wait(store.do(work))
    require_less(time.monotonic() - began_at, 5)
    assert store.content() == ["a+"]


def test_a_connection_that_says_nothing_is_noticed(store: Store) -> None:
    store.wait(store.do(add, "a"))
    store.proxy.freeze()
    began_at = time.monotonic()
    asked = store.do(add, "b")
    store.reactor.run_until(lambda: store.pool.outage is not None)
    require_less(time.monotonic() - began_at, 10)
    store.proxy.mend()
    store.wait(asked)
    assert store.content() == ["a", "b"]
    assert store.pool.outage is None


def test_what_begins_a_transaction_is_looked_after(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has answered to BEGIN, and says nothing to the statement behind it."""
    monkeypatch.setattr(watch, "CHECK_AFTER_S", 1.0)
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted"
    with store.postgres.connect(store.name) as conn, conn.transaction():
        conn.execute("LOCK TABLE t")
        asked = store.do(add, "a")
        store.reactor.turn()
        wait_for(lambda: store.postgres.rows(store.name, waits), "the piece to wait")
        store.proxy.freeze()
        store.reactor.run_until(lambda: store.pool.outage is not None)
        store.proxy.mend()
    store.wait(asked)
    assert store.content() == ["a"]


def test_a_connection_that_was_forgotten_is_made_anew(store: Store) -> None:
    store.wait(store.do(add, "a"))
    store.proxy.forget()
    began_at = time.monotonic()
    asked = store.do(add, "b")
    store.wait(asked)
    require_less(time.monotonic() - began_at, 12)
    assert store.content() == ["a", "b"]


def test_without_the_table_nobody_knows_what_was_committed(store: Store, logged: Log) -> None:
    store.wait(store.do(add, "a"))
    store.postgres.execute(store.name, "DROP TABLE litebot_writers")
    store.use(store.proxy.url(USER, store.name))
    store.wait(store.do(add, "b"))
    store.proxy.lose_next_answer_to_commit()
    with pytest.raises(StoreFailed, match="lost at a commit"):
        store.wait(store.do(add, "c"))


def test_numbers_begin_with_the_table_and_old_ones_go(store: Store) -> None:
    def make(conn: Connection) -> None:
        tables.writers.create(conn)
        conn.commit()

    store.postgres.execute(store.name, "DROP TABLE litebot_writers")
    store.wait(store.do(make))
    store.postgres.execute(
        store.name,
        "INSERT INTO litebot_writers SELECT id, 7, extract(epoch FROM now()) - age"
        " FROM (VALUES ('old', 8 * 86400), ('new', 86400)) AS v (id, age)",
    )
    for x in "ab":
        store.wait(store.do(add, x))
    query = "SELECT number FROM litebot_writers ORDER BY id <> 'new'"
    assert store.postgres.rows(store.name, query) == [(7,), (2,)]
    store.proxy.lose_next_answer_to_commit()
    store.wait(store.do(add, "c"))
    assert store.content() == ["a", "b", "c"]
