"""What requests read through the turn queue while builds run."""

from __future__ import annotations

import contextvars
import functools
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from litebot.master.database import GROUP_COMMIT_S
from litebot.master.db.dispatcher import CROWD_REQUESTS
from litebot.master.db.dispatcher import GROUP_EVERY_S
from litebot.master.db.dispatcher import SAVED_S
from litebot.master.db.dispatcher import SHARE
from litebot.master.db.dispatcher import TURN_S
from litebot.master.db.pool import EXPECTED
from litebot.master.db.read_pool import ReadSnapshot
from litebot.master.db.read_pool import may_read_inline
from litebot.master.db.read_pool import read_snapshot
from litebot.master.db.sqlite import read_pool as sqlite_read_pool
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


def test_requests_read_in_another_thread(store: Store) -> None:
    assert store.wait(store.browse(thread_of)) != threading.get_ident()
    assert store.wait(store.do(thread_of)) == threading.get_ident()


def test_requests_see_what_was_submitted_before_them(store: Store) -> None:
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


def test_builds_do_not_wait_for_requests(store: Store) -> None:
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


def test_requests_read_side_by_side(store: Store) -> None:
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


def test_a_write_for_a_request_has_its_own_errors(store: Store, logged: Log) -> None:
    store.do(keep, "a")
    with pytest.raises(sa.exc.IntegrityError):
        store.wait(store.browse(keep, "a"))
    assert logged.take() == [sa.exc.IntegrityError]


def test_an_error_in_a_read_for_a_request(store: Store, logged: Log) -> None:
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


def read_at_once(sql: Sql) -> tuple[list[str], int]:
    """What a short read sees, and in which thread."""
    return [x for (x,) in sql.rows("SELECT x FROM t ORDER BY id")], threading.get_ident()


def test_an_inline_read_is_on_the_reactors_thread(store: Store) -> None:
    store.do(keep, "a")
    first = store.read_inline(read_at_once)
    store.do(keep, "b")
    values, thread = store.wait(first)
    assert values[0] == "a"
    assert thread == threading.get_ident()


def test_an_inline_read_that_takes_long_goes_on_in_a_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_read_pool, "INLINE_READ_S", 0.0)
    threads: list[int] = []

    def long(sql: Sql) -> int:
        threads.append(threading.get_ident())
        some = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10000)"
        return int(sql.rows(f"{some} SELECT count(*) FROM n")[0][0])

    assert store.wait(store.read_inline(long)) == 10_000
    here = threading.get_ident()
    assert len(threads) == 2
    assert threads[0] == here
    assert threads[1] != here


def test_an_inline_read_without_end_does_not_hold_up_the_reactor(store: Store) -> None:
    asked = store.read_inline(lambda sql: sql.rows(FOREVER))
    store.reactor.turn()
    store.reactor.turn()
    assert store.wait(store.do(keep, "a")) == "kept a"
    assert not asked.called
    store.stop()
    store.reactor.settle()
    assert str(asked.error) == "the database is closed"


def test_an_inline_read_that_writes_is_run_by_the_writer(store: Store) -> None:
    def work(sql: Sql) -> int:
        sql.write("INSERT INTO t (x) VALUES ('a')")
        return threading.get_ident()

    assert store.wait(store.read_inline(work)) == threading.get_ident()
    assert store.content() == ["a"]


def test_an_error_in_an_inline_read(store: Store, logged: Log) -> None:
    def work(_sql: Sql) -> None:
        raise Mistake

    with pytest.raises(Mistake):
        store.wait(store.read_inline(work))
    assert logged.take() == [Mistake]


def test_many_inline_reads_leave_builds_their_turns(store: Store) -> None:
    done: list[str] = []

    def slow(sql: Sql, name: str) -> None:
        read_at_once(sql)
        store.reactor.now += TURN_S
        done.append(name)

    asked = [store.read_inline(slow, name) for name in "abc"]
    build = store.do(lambda _conn: done.append("build"))
    store.wait(build)
    assert done == ["a", "build"]
    for each in asked:
        store.wait(each)
    assert done == ["a", "build", "b", "c"]


def test_a_stop_refuses_inline_reads_that_wait(store: Store) -> None:
    def slow(sql: Sql) -> int:
        store.reactor.now += TURN_S
        return len(sql.rows("SELECT 1"))

    asked = [store.read_inline(slow) for _ in range(3)]
    store.reactor.turn()
    store.stop()
    store.reactor.settle()
    assert [each.result for each in asked] == [1, None, None]
    assert [str(each.error) for each in asked[1:]] == ["the database is closed"] * 2


def test_what_is_asked_in_one_request_waits_for_one_commit(store: Store) -> None:
    store.queue._group_commit_s = GROUP_COMMIT_S
    store.do(keep, "a")
    store.reactor.turn()
    snapshot = contextvars.copy_context()
    snapshot.run(read_snapshot.set, ReadSnapshot())
    snapshot.run(may_read_inline.set, True)

    def ask() -> Asked:
        return snapshot.run(lambda: Asked(store.queue.do_sql(read_at_once)))

    assert store.wait(ask())[0] == ["a"]
    kept = store.do(keep, "b")
    store.reactor.turn()
    assert kept.called
    again, another = ask(), store.read_inline(read_at_once)
    store.reactor.turn()
    store.reactor.turn()
    assert again.result[0] == ["a"]  # and what is held has not been committed
    assert not another.called
    assert store.wait(another)[0] == ["a", "b"]


class Crowd:
    """Requests to a store, each of which reads what is there as soon as it may begin."""

    def __init__(self, store: Store) -> None:
        store.queue._group_commit_s = GROUP_COMMIT_S
        self.store = store
        self.seen: list[list[Any]] = []
        self.order: list[str] = []
        self.takes_s = 0.0

    def gather(self) -> None:
        """Be one from now on; who has come so far was let in."""
        self.come(CROWD_REQUESTS)
        self.store.reactor.turn()
        self.seen.clear()
        self.order.clear()

    def come(self, count: int, address: str = "one") -> None:
        for _ in range(count):
            snapshot = ReadSnapshot()
            look = functools.partial(self._look, snapshot, address)
            self.store.queue.dispatch(look, address, snapshot)

    def _look(self, snapshot: ReadSnapshot, address: str) -> None:
        self.order.append(address)

        def look() -> Any:
            read_snapshot.set(snapshot)
            may_read_inline.set(True)
            return self.store.queue.do_sql(lambda sql: sql.rows("SELECT x FROM t"))

        self.store.reactor.now += self.takes_s
        looked = contextvars.copy_context().run(look)
        looked.addCallback(lambda rows: self.seen.append([x for (x,) in rows]))

    def hold(self, value: str) -> None:
        """Have a build do something that is not committed yet."""
        self.store.do(keep, value)
        self.store.reactor.turn()
        assert value not in self.store.content()


@pytest.fixture
def crowd(store: Store, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    """A crowd whose reads take no longer than inline reads may, however busy this machine is."""
    monkeypatch.setattr(sqlite_read_pool, "INLINE_READ_S", 60.0)
    return Crowd(store)


def test_few_requests_begin_at_once(store: Store, crowd: Crowd) -> None:
    for number in range(3 * CROWD_REQUESTS):
        crowd.hold(f"{number}")
        crowd.come(1)
        store.reactor.advance(2 / CROWD_REQUESTS)
        assert len(crowd.seen) == number + 1


def test_many_requests_to_an_idle_master_begin_at_once(store: Store, crowd: Crowd) -> None:
    crowd.come(3 * CROWD_REQUESTS)
    store.reactor.turn()
    assert len(crowd.seen) == 3 * CROWD_REQUESTS


def test_what_visitors_read_is_no_build(store: Store) -> None:
    asked = store.read_inline(read_at_once)
    assert not store.queue.is_busy
    store.wait(asked)
    assert not store.queue.is_busy
    store.queue._group_commit_s = GROUP_COMMIT_S
    store.do(keep, "a")
    store.reactor.turn()
    assert store.queue.is_busy


def test_many_requests_beside_builds_begin_together(store: Store, crowd: Crowd) -> None:
    crowd.gather()
    crowd.hold("a")
    crowd.come(1)
    store.reactor.turn()
    store.reactor.turn()
    assert crowd.seen == [["a"]]  # nobody had to wait for a while
    for value in "bc":
        store.reactor.advance(GROUP_EVERY_S / 3)
        crowd.hold(value)
        crowd.come(2)
    store.reactor.turn()
    store.reactor.turn()
    assert crowd.seen == [["a"]]
    store.reactor.advance(GROUP_EVERY_S / 3)
    assert crowd.seen == [["a"], *[["a", "b", "c"]] * 4]


def test_a_crowd_leaves_builds_their_turns(store: Store, crowd: Crowd) -> None:
    crowd.gather()
    crowd.hold("a")
    crowd.takes_s = TURN_S
    crowd.come(3)
    store.reactor.turn()
    assert len(crowd.seen) == 1
    build = store.do(keep, "b")
    store.reactor.turn()
    assert build.called
    assert len(crowd.seen) < 3
    store.reactor.settle()
    assert len(crowd.seen) == 3


def test_a_crowd_has_its_share_of_the_time(store: Store, crowd: Crowd) -> None:
    crowd.gather()
    crowd.hold("begun")
    crowd.takes_s = SAVED_S / 2.5
    began_at = store.reactor.now
    crowd.come(10)
    value = 0
    while len(crowd.seen) < 10:
        store.do(keep, f"{value}")  # builds go on all the time
        store.reactor.advance(0.001)
        value += 1
    busy_s = 9 * crowd.takes_s - SAVED_S  # the last one's share is what comes after it
    assert busy_s / (store.reactor.now - began_at) == pytest.approx(SHARE, rel=0.2)


def test_those_who_have_taken_little_come_first(store: Store, crowd: Crowd) -> None:
    crowd.gather()
    crowd.hold("a")
    crowd.takes_s = TURN_S
    crowd.come(3, "greedy")
    crowd.come(2, "also greedy")
    store.reactor.turn()
    crowd.come(1, "modest")
    store.reactor.settle()
    assert crowd.order[:3] == ["greedy", "also greedy", "modest"]
    assert sorted(crowd.order[3:5]) == ["also greedy", "greedy"]


def test_a_crowd_sees_what_was_asked_before_it(store: Store, crowd: Crowd) -> None:
    def slow(conn: Connection, value: str) -> None:
        keep(conn, value)
        store.reactor.now += 2 * TURN_S  # the turn is over

    crowd.gather()
    crowd.hold("a")
    for value in "bcd":
        store.do(slow, value)
    crowd.come(2)
    store.reactor.settle()
    assert crowd.seen == [["a", "b", "c", "d"]] * 2


def test_a_clock_that_is_set_back_keeps_nobody_out(
    store: Store, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.gather()
    crowd.hold("a")
    crowd.come(1)
    store.reactor.settle()
    crowd.seen.clear()
    seconds = store.reactor.seconds
    monkeypatch.setattr(store.reactor, "seconds", lambda: seconds() - 3600)
    crowd.hold("b")
    crowd.come(1)
    store.reactor.advance(GROUP_EVERY_S)
    store.reactor.turn()
    assert crowd.seen == [["a", "b"]]


def test_an_inline_read_sees_what_was_asked_before_it(store: Store) -> None:
    store.queue._group_commit_s = GROUP_COMMIT_S
    store.do(keep, "a")
    asked = store.read_inline(read_at_once)
    assert store.wait(asked)[0] == ["a"]


def test_a_stop_leaves_no_request_waiting(store: Store, crowd: Crowd) -> None:
    crowd.gather()
    crowd.hold("a")
    run: list[int] = []
    for number in range(3):
        store.queue.dispatch(functools.partial(run.append, number), "one")
    assert not run
    store.stop()
    assert run == [0, 1, 2]
