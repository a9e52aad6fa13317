"""The turn queue: one reactor turn, one transaction; each piece of work by itself."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from buildbot.db import pool

from litebot.errors import StoreError
from litebot.master.db.sqlite.turn_queue import TurnQueue
from litebot.store.connection import connect
from support.stand_in import Asked
from support.stand_in import Log
from support.stand_in import Reactor
from support.turning import Connection
from support.turning import Mistake
from support.turning import Store
from support.turning import insert
from support.turning import keep
from support.turning import read

pytestmark = pytest.mark.usefixtures("logged")

# one turn, one transaction


def test_results_come_in_a_later_turn(store: Store) -> None:
    asked = store.do(keep, "a")
    assert not asked.called
    store.reactor.turn()
    assert asked.result == "kept a"


def test_what_an_answer_asks_for_comes_in_a_turn_after_it(store: Store) -> None:
    then: list[Asked] = []
    first = store.queue.do(keep, "a")
    first.addCallback(lambda _: then.append(store.do(keep, "b")))
    store.reactor.turn()
    assert [asked.called for asked in then] == [False]
    store.reactor.turn()
    assert then[0].result == "kept b"


def test_results_come_after_the_commit(store: Store) -> None:
    seen: list[list[Any]] = []
    for value in "ab":
        store.queue.do(keep, value).addCallback(lambda _: seen.append(store.content()))
    store.reactor.turn()
    assert seen == [["a", "b"], ["a", "b"]]


def test_work_is_done_and_answered_in_order(store: Store) -> None:
    answered: list[int] = []
    ran: list[int] = []

    def work(_conn: Connection, n: int) -> int:
        ran.append(n)
        return n

    for n in range(20):
        store.queue.do(work, n).addCallback(answered.append)
    store.reactor.settle()
    assert ran == answered == list(range(20))


def test_one_commit_a_turn(store: Store) -> None:
    asked = [store.do(keep, n) for n in range(50)]
    store.reactor.turn()
    assert [a.result for a in asked] == [f"kept {n}" for n in range(50)]
    assert store.commits == 1
    store.do(keep, "next")
    store.reactor.turn()
    assert store.commits == 2


def test_a_turn_without_work_asks_nothing_of_the_reactor(store: Store) -> None:
    store.wait(store.do(keep, "a"))
    assert store.reactor.idle


def test_arguments_are_passed_on(store: Store) -> None:
    def work(_conn: Connection, *args: int, **kwargs: int) -> Any:
        return args, kwargs

    assert store.wait(store.do(work, 1, 2, three=3)) == ((1, 2), {"three": 3})
    transaction = Asked(store.queue.do_with_transaction(work, 1, 2, three=3))
    assert store.wait(transaction) == ((1, 2), {"three": 3})
    assert store.wait(Asked(store.queue.do_with_engine(work, 1, three=3))) == ((1,), {"three": 3})


@pytest.mark.parametrize("piece_s", [0.0001, 0.004, 0.5])
def test_a_turn_ends_after_10_ms_even_if_work_is_left(store: Store, piece_s: float) -> None:
    ran_at: list[float] = []

    def work(conn: Connection) -> None:
        ran_at.append(store.reactor.now)
        keep(conn, len(ran_at))
        store.reactor.now += piece_s

    asked = [store.do(work) for _ in range(100)]
    while not asked[-1].called:
        began_at, before = store.reactor.now, len(ran_at)
        store.reactor.turn()
        in_turn = len(ran_at) - before
        assert in_turn >= 1
        assert store.reactor.now - began_at < 0.010 + piece_s
        assert in_turn == min(int(0.010 / piece_s) + 1, 100 - before)
        assert [a.called for a in asked].count(True) == len(ran_at)
    assert store.content() == list(range(1, 101))


def test_do_with_transaction(store: Store, logged: Log) -> None:
    kept = Asked(store.queue.do_with_transaction(insert, "a"))
    broken = Asked(store.queue.do_with_transaction(insert, "b", "b"))
    store.reactor.turn()
    assert kept.result == "inserted a"
    assert isinstance(broken.error, sa.exc.IntegrityError)
    assert store.content() == ["a"]
    assert logged.take() == [sa.exc.IntegrityError]


def test_do_with_engine(store: Store) -> None:
    def work(engine: sa.Engine) -> list[Any]:
        with engine.begin() as conn:
            insert(conn, "a")
        with engine.connect() as conn:
            insert(conn, "undone")
        with engine.connect() as conn:
            return read(conn)

    assert store.wait(Asked(store.queue.do_with_engine(work))) == ["a"]
    assert store.content() == ["a"]
    assert store.commits == 1


# each piece of work by itself


def test_what_is_not_committed_does_not_count(store: Store) -> None:
    store.do(insert, "a")
    store.do(keep, "b")
    store.do(insert, "c")
    store.wait(store.do(keep, "d"))
    assert store.content() == ["b", "d"]


def test_a_piece_commits_and_rolls_back_as_if_alone(store: Store) -> None:
    def work(conn: Connection) -> list[Any]:
        keep(conn, "a")
        insert(conn, "b")
        conn.rollback()
        insert(conn, "c")
        with conn.begin_nested() as nested:
            insert(conn, "d")
            nested.rollback()
        conn.commit()
        insert(conn, "e")
        return read(conn)

    before, asked, after = store.do(keep, "before"), store.do(work), store.do(read)
    store.reactor.turn()
    assert before.result == "kept before"
    assert asked.result == ["before", "a", "c", "e"]
    assert after.result == ["before", "a", "c"]
    assert store.content() == ["before", "a", "c"]
    assert store.commits == 1


def fail(conn: Connection, error: Exception) -> None:
    keep(conn, "kept before the error")
    insert(conn, "not kept")
    raise error


def test_an_error_leaves_its_neighbours(store: Store, logged: Log) -> None:
    before = store.do(keep, "a")
    failed = store.do(fail, Mistake("in the middle"))
    after = store.do(keep, "b")
    store.reactor.turn()
    assert (before.result, after.result) == ("kept a", "kept b")
    assert isinstance(failed.error, Mistake)
    assert store.content() == ["a", "kept before the error", "b"]
    assert store.failures == []
    assert logged.take() == [Mistake]


def test_a_constraint_leaves_its_neighbours(store: Store, logged: Log) -> None:
    asked = [store.do(keep, "a"), store.do(keep, "b", "a"), store.do(keep, "c")]
    store.reactor.turn()
    assert [a.result for a in asked] == ["kept a", None, "kept c"]
    assert isinstance(asked[1].error, sa.exc.IntegrityError)
    assert store.content() == ["a", "c"]
    assert logged.take() == [sa.exc.IntegrityError]


@pytest.mark.parametrize(
    "kind",
    [
        pool.AlreadyClaimedError,
        pool.AlreadyCompleteError,
        pool.ChangeSourceAlreadyClaimedError,
        pool.LogSlugExistsError,
        pool.SchedulerAlreadyClaimedError,
    ],
)
def test_errors_that_are_answers_are_not_logged(store: Store, kind: type[Exception]) -> None:
    asked = store.do(fail, kind())
    store.reactor.turn()
    assert type(asked.error) is kind  # and `logged` finds nothing


def test_rows_that_are_not_fetched_are_an_error(store: Store, logged: Log) -> None:
    def work(conn: Connection) -> Any:
        return conn.exec_driver_sql("SELECT x FROM t")

    for asked in (store.do(work), store.browse(work)):
        with pytest.raises(TypeError, match="not fetched yet"):
            store.wait(asked)
    assert logged.take() == [TypeError, TypeError]


def test_what_a_piece_sets_on_its_connection_ends_with_it(store: Store, logged: Log) -> None:
    def work(conn: Connection) -> None:
        conn.execution_options(isolation_level="AUTOCOMMIT")
        conn.exec_driver_sql("VACUUM")
        insert(conn, "kept at once")

    asked = [store.do(keep, "a"), store.do(work), store.do(insert, "b"), store.do(keep, "c", "c")]
    store.reactor.turn()
    assert [a.error is None for a in asked] == [True, True, True, False]
    assert store.content() == ["a", "kept at once"]
    assert logged.take() == [sa.exc.IntegrityError]


def test_a_piece_that_closes_its_connection(store: Store) -> None:
    asked = [store.do(Connection.close), store.do(keep, "a")]
    store.reactor.turn()
    assert [a.error for a in asked] == [None, None]
    assert store.content() == ["a"]


def test_a_piece_that_commits_for_all(store: Store, logged: Log) -> None:
    def work(conn: Connection) -> None:
        insert(conn, "b")
        conn.exec_driver_sql("COMMIT")  # not through the adapter

    asked = [store.do(keep, "a"), store.do(work), store.do(keep, "c")]
    store.reactor.turn()
    assert [a.error for a in asked] == [None, None, None]
    assert store.content() == ["a", "b", "c"]


def test_a_cancelled_deferred_bothers_nobody(store: Store) -> None:
    deferred = store.queue.do(keep, "a")
    asked = Asked(deferred)
    deferred.cancel()
    neighbour = store.do(keep, "b")
    store.reactor.turn()
    assert asked.called
    assert neighbour.result == "kept b"


def test_the_connection_belongs_to_the_reactors_thread(store: Store) -> None:
    caught: list[Exception] = []

    def connect_elsewhere() -> None:
        try:
            store.queue.engine.connect()
        except sa.exc.ProgrammingError as error:
            caught.append(error)

    thread = threading.Thread(target=connect_elsewhere)
    thread.start()
    thread.join()
    assert "use master.db.pool.do" in str(caught[0])


# stopping


def test_stop_finishes_what_was_asked(store: Store, path: Path) -> None:
    def slow(conn: Connection, n: int) -> str:
        store.reactor.now += 0.006
        return keep(conn, n)

    asked = [store.do(slow, n) for n in range(7)]
    store.stop()
    assert [a.result for a in asked] == [f"kept {n}" for n in range(7)]
    assert store.content() == list(range(7))
    assert not path.with_name("state.sqlite-wal").exists()  # the last one out moved it
    late = store.do(keep, "late")
    assert type(late.error) is StoreError
    assert str(late.error) == "the database is closed"


def test_stop_finishes_what_the_answers_ask_for(store: Store) -> None:
    then: list[Asked] = []
    store.queue.do(keep, "a").addCallback(lambda _: then.append(store.do(keep, "b")))
    store.stop()
    assert then[0].result == "kept b"
    assert store.content() == ["a", "b"]


def test_stop_twice(store: Store) -> None:
    store.stop()
    store.stop()


def test_nothing_runs_before_start(reactor: Reactor) -> None:
    work = TurnQueue(connect(":memory:"), reactor)
    assert type(Asked(work.do(read)).error) is StoreError


def test_a_database_in_memory_answers_requests_too(reactor: Reactor) -> None:
    store = Store(reactor, None)
    store.handle.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
    store.do(keep, "a")
    assert store.wait(store.browse(read)) == ["a"]
    store.stop()
