"""Pieces of work on a real Postgres: which are one transaction, and what undoes one."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy as sa

from litebot.master.db.pool import NotOurs
from litebot.store.sql import Sql
from support.pool import Connection
from support.pool import Store
from support.pool import add
from support.pool import add_sql
from support.pool import contents
from support.stand_in import Asked
from support.stand_in import Log


class Mistake(Exception):
    """A programming error in a component."""


def test_pieces_of_a_turn_are_one_transaction_in_order(store: Store) -> None:
    asked = [store.do(add, "a"), store.do_sql(add_sql, "b"), store.do(contents)]
    asked.append(store.do(add, "c"))
    assert store.wait(asked[2]) == ["a", "b"]
    store.wait(asked[3])
    assert store.content() == ["a", "b", "c"]
    assert asked[1].result == 2
    numbers = store.postgres.rows(store.name, "SELECT DISTINCT number FROM t")
    assert len(numbers) == 1


def test_a_result_is_there_when_it_is_committed(store: Store) -> None:
    seen: list[list[str]] = []
    d = store.pool.do(add, "a")
    d.addCallback(lambda _: seen.append(store.content()))
    store.wait(Asked(d))
    assert seen == [["a"]]


@pytest.mark.parametrize("first", [True, False])
def test_a_piece_that_fails_is_undone_alone(store: Store, logged: Log, first: bool) -> None:
    def fail(conn: Connection) -> None:
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('lost')"))
        raise Mistake

    before = [] if first else [store.do(add, "a")]
    failed = store.do(fail)
    after = store.do(add, "b")
    store.wait(after)
    assert isinstance(failed.error, Mistake)
    assert store.content() == (["b"] if first else ["a", "b"])
    assert before == [] or before[0].error is None
    assert logged.take() == [Mistake]


@pytest.mark.parametrize("first", [True, False])
def test_what_the_server_refuses_ends_a_piece_and_no_other(
    store: Store, logged: Log, first: bool
) -> None:
    store.wait(store.do(add, "taken"))
    before = [] if first else [store.do(add, "a")]
    failed = [store.do(add, "taken"), store.do_sql(add_sql, "taken")]
    wrong = store.do(lambda conn: conn.execute(sa.text("SELECT 1/0")).scalar())
    store.wait(store.do(add, "b"))
    for each in failed:
        assert isinstance(each.error, sa.exc.IntegrityError)
    assert isinstance(wrong.error, sa.exc.DataError)
    assert store.content() == ["taken", *([] if first else ["a"]), "b"]
    assert all(each.error is None for each in before)
    assert logged.take() == [sa.exc.IntegrityError, sa.exc.IntegrityError, sa.exc.DataError]


def test_a_state_that_is_none_of_the_servers_own(store: Store, logged: Log) -> None:
    """What goes by libpq itself, as each COMMIT does, is told of by its five letters only."""
    store.postgres.execute(
        store.name,
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION 'not %', NEW.x USING ERRCODE = 'LB001';
            END
        $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.x = 'that') EXECUTE FUNCTION refuse()
        """,
    )
    with pytest.raises(psycopg.DatabaseError, match="not that"):
        store.wait(store.do(add, "that"))
    store.wait(store.do(add, "this"))
    assert store.content() == ["this"]
    assert store.failures == []
    assert logged.take() == [psycopg.DatabaseError]


def test_commit_and_rollback_end_a_part_of_a_piece(store: Store) -> None:
    def work(conn: Connection) -> None:
        add(conn, "kept")
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('undone')"))
        conn.rollback()
        add(conn, "also")
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('never committed')"))

    first = store.do(work)
    store.wait(store.do(add, "next"))
    assert first.error is None
    assert store.content() == ["kept", "also", "next"]


def test_a_component_may_catch_an_error_and_go_on(store: Store) -> None:
    def add_or_find(conn: Connection, x: str) -> str:
        try:
            add(conn, x)
            return "added"
        except sa.exc.IntegrityError:
            conn.rollback()
            return "found"

    asked = [store.do(add_or_find, x) for x in ("a", "a", "b", "a")]
    store.wait(asked[-1])
    assert [each.result for each in asked] == ["added", "found", "added", "found"]
    assert store.content() == ["a", "b"]


def test_begin_nested_and_do_with_transaction(store: Store) -> None:
    def work(conn: Connection) -> None:
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('outer')"))
        nested = conn.begin_nested()
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('inner')"))
        nested.rollback()

    other = store.do(add, "a")
    store.wait(Asked(store.pool.do_with_transaction(work)))
    assert other.error is None
    assert store.content() == ["a", "outer"]


def test_a_second_connection_undoes_nothing_of_the_first(store: Store) -> None:
    def work(conn: Connection) -> bool:
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('a')"))
        there = sa.inspect(conn.engine).has_table("t")  # as Buildbot's Model does
        conn.commit()
        return there

    assert store.wait(store.do(work)) is True
    assert store.content() == ["a"]


def test_do_with_engine(store: Store) -> None:
    def work(engine: sa.Engine) -> None:
        with engine.begin() as conn:
            conn.execute(sa.text("INSERT INTO t (x) VALUES ('kept')"))
        with engine.connect() as conn:
            conn.execute(sa.text("INSERT INTO t (x) VALUES ('not committed')"))

    store.wait(Asked(store.pool.do_with_engine(work)))
    assert store.content() == ["kept"]


def test_sql_and_a_connection_are_one_transaction(store: Store, logged: Log) -> None:
    def work(sql: Sql, fail: bool) -> int:
        rowid = sql.insert("t", x="sql")
        also = sa.text("UPDATE t SET x = x || ' and connection'")
        sql.with_connection(lambda conn: conn.execute(also))
        assert sql.update("t", rowid + 1, x="none") == 0
        assert sql.count("t", "x LIKE ?", "%and%") == 1
        if fail:
            raise Mistake
        return rowid

    failed = store.do_sql(work, True)
    assert store.wait(store.do_sql(work, False)) == 2
    assert isinstance(failed.error, Mistake)
    assert store.content() == ["sql and connection"]
    assert logged.take() == [Mistake]


def test_that_another_master_was_faster_is_no_fault(store: Store) -> None:
    def effect(_conn: Connection) -> None:
        raise NotOurs

    with pytest.raises(NotOurs):
        store.wait(store.do(effect))


def vacuum(conn: Connection) -> None:
    conn.execution_options(isolation_level="AUTOCOMMIT")
    conn.exec_driver_sql("VACUUM t")


def test_what_must_stand_outside_of_a_transaction_does(store: Store) -> None:
    asked = [store.do(add, "a"), store.do(vacuum), store.do(add, "b"), store.do(contents)]
    store.wait(asked[-1])
    assert [each.error for each in asked] == [None] * 4
    assert store.content() == ["a", "b"]
    query = f"SELECT state FROM pg_stat_activity WHERE datname = '{store.name}'"
    assert store.postgres.rows("postgres", query) == [("idle",)]


def test_outside_of_a_transaction_nothing_may_have_been_written(store: Store, logged: Log) -> None:
    def work(conn: Connection) -> None:
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('lost')"))
        vacuum(conn)

    with pytest.raises(sa.exc.SQLAlchemyError):
        store.wait(store.do(work))
    store.wait(store.do(add, "a"))
    assert store.content() == ["a"]
    assert len(logged.take()) == 1


def test_the_connection_belongs_to_its_thread(store: Store) -> None:
    with pytest.raises(sa.exc.ProgrammingError, match="belongs to its own thread"):
        store.pool.engine.connect()


def test_rows_that_are_not_fetched_are_an_error(store: Store, logged: Log) -> None:
    asked = store.do(lambda conn: conn.execute(sa.text("SELECT 1")))
    with pytest.raises(TypeError, match="not fetched"):
        store.wait(asked)
    assert logged.take() == [TypeError]
