"""What visitors read through the turn queue, beside the builds."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from litebot.master import readers
from litebot.master.database import HOLD_S
from litebot.master.readers import Visit
from litebot.master.readers import browsing
from litebot.master.readers import glancing
from litebot.master.work import EXPECTED
from litebot.master.work import TURN_S
from litebot.store.sql import Sql
from support.stand_in import PATIENCE_S
from support.stand_in import Asked
from support.stand_in import Log
from support.turning import FOREVER
from support.turning import Connection
from support.turning import Mistake
from support.turning import Store
from support.turning import keep
from support.turning import read
from support.turning import thread_of

pytestmark = pytest.mark.usefixtures("logged")


def test_visitors_read_in_another_thread(store: Store) -> None:
    assert store.wait(store.browse(thread_of)) != threading.get_ident()
    assert store.wait(store.do(thread_of)) == threading.get_ident()


def test_visitors_see_what_was_asked_before_them(store: Store) -> None:
    store.do(keep, "a")
    first = store.browse(read)
    assert store.wait(first) == ["a"]

    def slow(conn: Connection, value: str) -> None:
        keep(conn, value)
        store.reactor.now += 1  # the turn is over

    store.do(slow, "b")
    store.do(slow, "c")
    second = store.browse(read)
    store.do(slow, "d")
    assert store.wait(second)[:3] == ["a", "b", "c"]


def test_builds_do_not_wait_for_visitors(store: Store) -> None:
    started, go_on = threading.Event(), threading.Event()

    def long(conn: Connection) -> Any:
        before = read(conn)
        started.set()
        assert go_on.wait(PATIENCE_S)
        return before, read(conn)

    reading = store.browse(long)
    store.reactor.turn()
    assert started.wait(PATIENCE_S)
    assert store.wait(store.do(keep, "a")) == "kept a"
    assert not reading.called
    go_on.set()
    assert store.wait(reading) == ([], [])  # one snapshot
    assert store.wait(store.browse(read)) == ["a"]


def test_visitors_read_side_by_side(store: Store) -> None:
    together = threading.Barrier(3)

    def work(_conn: Connection) -> int:
        together.wait(PATIENCE_S)
        return threading.get_ident()

    asked = [store.browse(work) for _ in range(3)]
    assert len({store.wait(a) for a in asked}) == 3


def test_a_read_that_writes_is_run_by_the_writer_and_remembered(store: Store) -> None:
    threads: list[int] = []

    def work(conn: Connection, value: str) -> str:
        threads.append(threading.get_ident())
        return keep(conn, value)

    assert store.wait(store.browse(work, "a")) == "kept a"
    assert store.content() == ["a"]
    here = threading.get_ident()
    assert len(threads) == 2
    assert threads[0] != here
    assert threads[1] == here
    assert store.wait(store.browse(work, "b")) == "kept b"
    assert threads[2:] == [here]


def test_a_read_that_writes_need_not_be_a_function(store: Store) -> None:
    class Work:
        def __call__(self, conn: Connection) -> str:
            return keep(conn, "a")

    assert store.wait(store.browse(Work())) == "kept a"
    assert store.wait(store.browse(thread_of)) != threading.get_ident()


def test_a_write_for_a_visitor_has_its_own_errors(store: Store, logged: Log) -> None:
    store.do(keep, "a")
    with pytest.raises(sa.exc.IntegrityError):
        store.wait(store.browse(keep, "a"))
    assert logged.take() == [sa.exc.IntegrityError]


def test_an_error_in_a_read_for_a_visitor(store: Store, logged: Log) -> None:
    def work(_conn: Connection, error: Exception) -> None:
        raise error

    with pytest.raises(Mistake):
        store.wait(store.browse(work, Mistake()))
    assert logged.take() == [Mistake]
    with pytest.raises(EXPECTED[0]):
        store.wait(store.browse(work, EXPECTED[0]()))
    assert store.failures == []


def test_stop_cuts_long_reads_short(store: Store) -> None:
    running = threading.Semaphore(0)

    def long(conn: Connection) -> None:
        running.release()
        conn.exec_driver_sql(FOREVER).fetchall()

    reads = [store.browse(long) for _ in range(10)]  # more than there are threads
    store.reactor.turn()
    for _ in range(4):
        assert running.acquire(timeout=PATIENCE_S)
    store.stop()
    store.reactor.settle()
    assert [str(read.error) for read in reads] == ["the database is closed"] * 10


def glanced(sql: Sql) -> tuple[list[str], int]:
    """What a short read sees, and in which thread."""
    return [x for (x,) in sql.rows("SELECT x FROM t ORDER BY id")], threading.get_ident()


def test_a_glance_is_on_the_reactors_thread(store: Store) -> None:
    store.do(keep, "a")
    first = store.glance(glanced)
    store.do(keep, "b")
    values, thread = store.wait(first)
    assert values[0] == "a"
    assert thread == threading.get_ident()


def test_a_glance_that_takes_long_goes_on_in_a_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "GLANCE_S", 0.0)
    threads: list[int] = []

    def long(sql: Sql) -> int:
        threads.append(threading.get_ident())
        some = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10000)"
        return int(sql.rows(f"{some} SELECT count(*) FROM n")[0][0])

    assert store.wait(store.glance(long)) == 10_000
    here = threading.get_ident()
    assert len(threads) == 2
    assert threads[0] == here
    assert threads[1] != here


def test_a_glance_without_end_does_not_hold_up_the_reactor(store: Store) -> None:
    asked = store.glance(lambda sql: sql.rows(FOREVER))
    store.reactor.turn()
    store.reactor.turn()
    assert store.wait(store.do(keep, "a")) == "kept a"
    assert not asked.called
    store.stop()
    store.reactor.settle()
    assert str(asked.error) == "the database is closed"


def test_a_glance_that_writes_is_run_by_the_writer(store: Store) -> None:
    def work(sql: Sql) -> int:
        sql.write("INSERT INTO t (x) VALUES ('a')")
        return threading.get_ident()

    assert store.wait(store.glance(work)) == threading.get_ident()
    assert store.content() == ["a"]


def test_an_error_in_a_glance(store: Store, logged: Log) -> None:
    def work(_sql: Sql) -> None:
        raise Mistake

    with pytest.raises(Mistake):
        store.wait(store.glance(work))
    assert logged.take() == [Mistake]


def test_many_glances_leave_builds_their_turns(store: Store) -> None:
    done: list[str] = []

    def slow(sql: Sql, name: str) -> None:
        glanced(sql)
        store.reactor.now += TURN_S
        done.append(name)

    asked = [store.glance(slow, name) for name in "abc"]
    build = store.do(lambda _conn: done.append("build"))
    store.wait(build)
    assert done == ["a", "build"]
    for each in asked:
        store.wait(each)
    assert done == ["a", "build", "b", "c"]


def test_a_stop_refuses_glances_that_wait(store: Store) -> None:
    def slow(sql: Sql) -> int:
        store.reactor.now += TURN_S
        return len(sql.rows("SELECT 1"))

    asked = [store.glance(slow) for _ in range(3)]
    store.reactor.turn()
    store.stop()
    store.reactor.settle()
    assert [each.result for each in asked] == [1, None, None]
    assert [str(each.error) for each in asked[1:]] == ["the database is closed"] * 2


def test_what_is_asked_in_one_visit_waits_for_one_commit(store: Store) -> None:
    store.queue._hold_s = HOLD_S
    store.do(keep, "a")
    store.reactor.turn()
    visit = contextvars.copy_context()
    visit.run(browsing.set, Visit())
    visit.run(glancing.set, True)

    def ask() -> Asked:
        return visit.run(lambda: Asked(store.queue.do_sql(glanced)))

    assert store.wait(ask())[0] == ["a"]
    kept = store.do(keep, "b")
    store.reactor.turn()
    assert kept.called
    again, another = ask(), store.glance(glanced)
    store.reactor.turn()
    store.reactor.turn()
    assert again.result[0] == ["a"]  # and what is held has not been committed
    assert not another.called
    assert store.wait(another)[0] == ["a", "b"]


def test_a_glance_sees_what_was_asked_before_it(store: Store) -> None:
    store.queue._hold_s = HOLD_S
    store.do(keep, "a")
    asked = store.glance(glanced)
    assert store.wait(asked)[0] == ["a"]
