"""What visitors read through the turn queue: in threads, beside the builds."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa
from stand_in import PATIENCE_S
from stand_in import Log
from turning import FOREVER
from turning import Connection
from turning import Mistake
from turning import Store
from turning import keep
from turning import read
from turning import thread_of

from litebot.master.work import EXPECTED

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
