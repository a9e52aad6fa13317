"""The turn queue: one reactor turn, one transaction; and what becomes of it when a disk fails.

The reactor here is a stand-in that takes its turns when a test wants it to and has a clock of its
own; files, threads and SQLite are real.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
import sqlalchemy as sa
from buildbot.db import enginestrategy
from buildbot.db import pool
from faulty_vfs import FaultyDisk
from faulty_vfs import damage
from faulty_vfs import faulty_disk
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from stand_in import PATIENCE_S
from stand_in import Asked
from stand_in import Log
from stand_in import Reactor

from litebot.errors import StoreError
from litebot.errors import StoreFailed
from litebot.master import checkpoints
from litebot.master import turns
from litebot.master.database import create_file
from litebot.master.readers import browsing
from litebot.master.turns import EXPECTED
from litebot.master.turns import TurnQueue
from litebot.store import dbapi
from litebot.store.connection import DURABILITY
from litebot.store.connection import MASTER
from litebot.store.connection import connect

BIG = "x" * 20_000_000  # more than the page cache holds, so it is written before the commit
FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

Connection = sa.engine.Connection

pytestmark = pytest.mark.usefixtures("logged")


class Store:
    """A turn queue on a file, or in memory."""

    def __init__(self, reactor: Reactor, path: Path | None) -> None:
        self.reactor = reactor
        self.path = path
        self.failures: list[StoreFailed] = []
        pragmas = MASTER + DURABILITY["commit"] if path else ()
        self.handle = connect(path or ":memory:", pragmas, busy_timeout_ms=0)
        self.queue = TurnQueue(self.handle, reactor, path, self.failures.append)
        self.queue.start()
        self.commits = 0
        self.handle.set_commit_hook(self._count)

    def _count(self) -> bool:
        self.commits += 1
        return False

    def do(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Asked:
        return Asked(self.queue.do(work, *args, **kwargs))

    def browse(self, work: Callable[..., Any], *args: Any) -> Asked:
        """As do, for a visitor."""

        def ask() -> Asked:
            browsing.set(True)
            return self.do(work, *args)

        return contextvars.copy_context().run(ask)

    def wait(self, asked: Asked) -> Any:
        self.reactor.run_until(lambda: asked.called)
        if asked.error is not None:
            raise asked.error
        return asked.result

    def content(self) -> list[Any]:
        """What another process would find in the file now."""
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
    monkeypatch.setattr(turns, "time", reactor)
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
    """Must come before `store` in a test's arguments: the files are opened on it."""
    with faulty_disk() as disk:
        yield disk


@pytest.fixture
def store(reactor: Reactor, path: Path) -> Iterator[Store]:
    store = Store(reactor, path)
    yield store
    store.stop()


# what is asked of it: functions of a connection, as Buildbot's components have them


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


class Mistake(Exception):
    """A programming error in a component."""


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


def test_a_database_in_memory_answers_visitors_too(reactor: Reactor) -> None:
    store = Store(reactor, None)
    store.handle.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
    store.do(keep, "a")
    assert store.wait(store.browse(read)) == ["a"]
    store.stop()


# reads for visitors


def thread_of(conn: Connection) -> int:
    read(conn)
    return threading.get_ident()


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


# another process writes to the file


def test_work_waits_for_the_lock(store: Store, path: Path, logged: Log) -> None:
    other = connect(path)
    other.execute("BEGIN IMMEDIATE; INSERT INTO t (x) VALUES ('other')")
    store.reactor.callLater(12.3, other.execute, "COMMIT")
    asked = [store.do(keep, "a"), store.browse(read), store.do(keep, "b")]
    store.reactor.turn()
    assert not any(a.called for a in asked)
    assert store.wait(asked[2]) == "kept b"
    assert 12.3 <= store.reactor.now < 12.4
    assert asked[0].result == "kept a"
    assert store.wait(asked[1])[:2] == ["other", "a"]
    assert store.content() == ["other", "a", "b"]
    assert [m for m in logged.messages if "locked" in m] == [
        f"{path} has been locked by another process for {s} s; waiting until it lets go"
        for s in (5, 10)
    ]
    assert store.failures == []


def test_the_time_of_waiting_starts_anew(store: Store, path: Path) -> None:
    for _ in range(3):
        other = connect(path)
        other.execute("BEGIN IMMEDIATE")
        store.reactor.callLater(turns.BUSY_GIVE_UP_S * 0.7, other.execute, "COMMIT")
        store.wait(store.do(read))
    assert store.failures == []


def test_work_gives_up_where_the_lock_stays(store: Store, path: Path) -> None:
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    # The read is taken off the queue before the turn finds out about the lock.
    asked = [store.browse(read), store.do(keep, "a"), store.browse(read), store.do(keep, "b")]
    store.reactor.run_until(lambda: asked[3].called)
    store.reactor.settle()
    assert asked[0].result == []
    for a in asked[1:]:
        assert isinstance(a.error, StoreFailed)
    assert 60 < store.reactor.now < 61
    (failure,) = store.failures
    assert failure.what == (
        f"{path}: another process keeps it locked (locked for 60 s); the master stops, and nothing"
        " that it had acknowledged is lost"
    )
    assert failure.hint == f"stop the other process: fuser -v {path}"
    other.execute("ROLLBACK")
    assert store.content() == []


def test_a_visitor_who_asks_at_the_last_moment(store: Store, path: Path) -> None:
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    blocked = store.do(keep, "a")
    store.reactor.run_until(lambda: store.reactor.now > 59.9)
    late = [store.browse(read) for _ in range(3)]
    store.reactor.run_until(lambda: blocked.called)
    store.reactor.settle()
    assert all(isinstance(a.error, StoreFailed) for a in late)
    other.execute("ROLLBACK")


# the disk fails

WRITE_FAULTS = [
    ("write", apsw.SQLITE_FULL, "no space is left to write it"),
    ("write", apsw.SQLITE_IOERR_WRITE, "refused to read or write it"),
    ("write", apsw.SQLITE_READONLY, "it can't be written any more"),
]
SYNC_FAULT = ("sync", apsw.SQLITE_IOERR_FSYNC, "refused to read or write it")
FAULT = ("operation", "code", "message")


def expect_failure(store: Store, asked: list[Asked], message: str, code: int) -> None:
    """All of it has failed, it was said once, and whatever is asked now fails too."""
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


@pytest.mark.parametrize(FAULT, [*WRITE_FAULTS, SYNC_FAULT])
def test_a_commit_that_fails_fails_all_its_work(
    disk: FaultyDisk, store: Store, operation: str, code: int, message: str
) -> None:
    store.wait(store.do(keep, "before"))
    disk.refuse(operation, "-wal", code)
    asked = [store.do(keep, "a"), store.browse(read), store.do(read), store.do(keep, "b")]
    expect_failure(store, asked, message, code)
    disk.heal()
    store.stop()
    assert store.content() == ["before"]


@pytest.mark.parametrize(FAULT, WRITE_FAULTS)
def test_a_write_that_fails_in_the_middle_of_a_turn(
    disk: FaultyDisk, store: Store, operation: str, code: int, message: str
) -> None:
    store.wait(store.do(keep, "before"))
    disk.refuse(operation, "-wal", code, after=5)
    ran: list[str] = []

    def never(_conn: Connection) -> None:
        ran.append("after the failure")

    asked = [store.do(keep, "a"), store.browse(read), store.do(insert, BIG), store.do(never)]
    expect_failure(store, asked, message, code)
    assert ran == []
    disk.heal()
    store.stop()
    assert store.content() == ["before"]


def test_a_failure_that_the_work_swallows(disk: FaultyDisk, store: Store) -> None:
    def careless(conn: Connection) -> str:
        with suppress(sa.exc.OperationalError):
            insert(conn, BIG)
        disk.heal()
        try:
            return keep(conn, "as if nothing had happened")
        except sa.exc.OperationalError:
            return "never mind"

    disk.refuse("write", "-wal", apsw.SQLITE_FULL)
    asked = [store.do(keep, "a"), store.do(careless), store.do(keep, "b")]
    expect_failure(store, asked, "no space is left", apsw.SQLITE_FULL)
    disk.heal()
    store.stop()
    assert store.content() == []


def test_a_failure_in_an_engine_of_a_piece(disk: FaultyDisk, store: Store) -> None:
    def work(engine: sa.Engine) -> None:
        with engine.begin() as conn:
            insert(conn, BIG)

    disk.refuse("write", "-wal", apsw.SQLITE_FULL)
    asked = [store.do(keep, "a"), Asked(store.queue.do_with_engine(work))]
    expect_failure(store, asked, "no space is left", apsw.SQLITE_FULL)


def test_a_lock_that_can_not_be_taken_because_of_the_disk(disk: FaultyDisk, store: Store) -> None:
    disk.refuse("read", "state.sqlite", apsw.SQLITE_IOERR_READ)
    store.handle.execute("PRAGMA shrink_memory")
    asked = [store.do(keep, "a"), store.do(keep, "b")]
    expect_failure(store, asked, "refused to read or write it", apsw.SQLITE_IOERR_READ)
    disk.heal()


def test_a_full_disk_is_told_with_its_remedy(disk: FaultyDisk, store: Store) -> None:
    disk.refuse("write", "-wal", apsw.SQLITE_FULL)
    store.do(keep, "a")
    store.reactor.turn()
    (failure,) = store.failures
    assert failure.what == (
        f"{store.path}: no space is left to write it (write of {store.path}-wal refused by the"
        " test, code 13); the master stops, and nothing that it had acknowledged is lost"
    )
    assert failure.hint == "free some space, then: litebot start"


def test_a_file_at_its_largest_stops_the_master_too(store: Store) -> None:
    def many(conn: Connection) -> None:
        conn.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000)"
            " INSERT INTO t (x) SELECT i || hex(zeroblob(1000)) FROM n"
        )

    store.handle.pragma("max_page_count", store.handle.pragma("page_count") + 100)
    asked = [store.do(keep, "a"), store.do(many)]
    expect_failure(store, asked, "no space is left", apsw.SQLITE_FULL)
    assert not store.handle.in_transaction  # SQLite undoes that statement alone
    assert store.content() == []


def test_what_was_waiting_for_a_later_turn_fails_too(disk: FaultyDisk, store: Store) -> None:
    def slow(conn: Connection, value: str) -> None:
        keep(conn, value)
        store.reactor.now += 1

    disk.refuse("write", "-wal", apsw.SQLITE_FULL)
    order: list[int] = []
    for n in range(5):
        store.queue.do(slow, str(n)).addErrback(lambda _, number: order.append(number), n)
    store.reactor.turn()
    assert order == [0, 1, 2, 3, 4]


def test_stop_while_the_disk_is_failing(disk: FaultyDisk, store: Store) -> None:
    disk.refuse("write", "-wal", apsw.SQLITE_FULL)
    asked = store.do(keep, "a")
    stopping = Asked(store.queue.stop())
    store.reactor.run_until(lambda: stopping.called)
    assert stopping.error is None
    assert isinstance(asked.error, StoreFailed)
    assert len(store.failures) == 1
    with pytest.raises(apsw.ConnectionClosedError):
        store.handle.execute("SELECT 1")


@pytest.mark.parametrize("visitor", [False, True], ids=["the master", "a visitor"])
def test_a_damaged_page_is_met_by(reactor: Reactor, path: Path, *, visitor: bool) -> None:
    with connect(path) as handle:
        handle.executemany("INSERT INTO t (x) VALUES (?)", [(str(n) * 500,) for n in range(200)])
    handle.close()
    assert damage(path, "t") == 1
    store = Store(reactor, path)
    kept = store.do(lambda _conn: "touches no page")
    asked = store.browse(read) if visitor else store.do(read)
    store.reactor.run_until(lambda: asked.called)
    store.reactor.settle()
    assert isinstance(asked.error, StoreFailed)
    assert isinstance(kept.error, StoreFailed) is not visitor
    assert [failure.hint for failure in store.failures] == [
        "restore a backup of it; the old file may tell more"
    ]
    assert "a page of it is damaged" in store.failures[0].what
    assert "nothing that it had acknowledged is lost" not in store.failures[0].what
    store.stop()


def test_a_disk_that_fails_under_a_visitor(disk: FaultyDisk, store: Store) -> None:
    store.wait(store.do(keep, *range(2000)))
    store.wait(store.browse(thread_of))
    disk.refuse("read", "-wal", apsw.SQLITE_IOERR_READ)
    going_on = [store.browse(lambda conn: conn.exec_driver_sql("SELECT max(x) FROM t").scalar())]
    store.reactor.run_until(lambda: going_on[0].called)
    expect_failure(store, going_on, "refused to read or write it", apsw.SQLITE_IOERR_READ)
    disk.heal()


def test_a_read_that_writes_meets_a_failed_store(disk: FaultyDisk, store: Store) -> None:
    reading, failed = threading.Event(), threading.Event()

    def work(conn: Connection) -> None:
        reading.set()
        assert failed.wait(PATIENCE_S)
        keep(conn, "a")

    asked = store.browse(work)
    store.reactor.turn()
    assert reading.wait(PATIENCE_S)
    store.queue.fail(dbapi.FullDiskError("full", apsw.SQLITE_FULL))
    failed.set()
    store.reactor.run_until(lambda: asked.called)
    assert str(asked.error) == store.failures[0].what


# moving the log into the file


def log_pages(path: Path) -> int:
    return path.with_name(path.name + "-wal").stat().st_size // (4096 + 24)


def test_the_log_is_moved_into_the_file(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "START_PAGES", 50)
    size_bytes = path.stat().st_size
    most = 0
    for n in range(30):
        store.wait(store.do(keep, f"{n}" * 40_000))
        store.reactor.settle()
        most = max(most, log_pages(path))
    assert 50 <= most < 150  # it starts over
    assert path.stat().st_size > size_bytes + 500_000


def test_a_reader_does_not_let_the_log_grow_for_ever(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "START_PAGES", 50)
    reader = connect(path)
    reader.execute("BEGIN; SELECT * FROM t").fetchall()
    for n in range(30):
        store.wait(store.do(keep, f"{n}" * 40_000))
        store.reactor.settle()
    assert log_pages(path) > 300
    reader.execute("ROLLBACK")
    for n in range(3):
        store.wait(store.do(keep, f"after {n}"))
        store.reactor.settle()
    before = log_pages(path)
    store.wait(store.do(keep, "x" * 40_000))
    assert log_pages(path) == before  # written over its beginning
    assert store.failures == []


@pytest.mark.parametrize(
    ("operation", "code", "message"),
    [
        ("write", apsw.SQLITE_FULL, "no space is left"),
        ("sync", apsw.SQLITE_IOERR_FSYNC, "refused to read or write it"),
    ],
)
def test_a_checkpoint_that_fails_stops_the_master(
    disk: FaultyDisk,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(checkpoints, "START_PAGES", 1)
    disk.refuse(operation, "state.sqlite", code)
    acknowledged = store.do(keep, "a")
    store.reactor.turn()
    assert acknowledged.result == "kept a"
    expect_failure(store, [], message, code)
    disk.heal()
    store.stop()
    assert store.content() == ["a"]


def test_stop_waits_for_a_checkpoint(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "START_PAGES", 1)
    before = len(apsw.connections())
    store.do(keep, "a")
    store.reactor.turn()
    assert not store.reactor.idle
    store.stop()
    assert store.reactor.idle
    assert len(apsw.connections()) == before - 1
    assert store.content() == ["a"]


def test_a_checkpoint_that_is_in_anothers_way_is_made_later(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "START_PAGES", 1)
    monkeypatch.setattr(checkpoints, "RESTART_PAGES", 1)
    reader = connect(path)
    reader.execute("BEGIN; SELECT * FROM t").fetchall()
    for n in range(3):
        store.wait(store.do(keep, n))
        store.reactor.settle()
    assert store.failures == []
    reader.execute("ROLLBACK")
    store.wait(store.do(keep, "moved"))
    store.reactor.settle()
    before = log_pages(path)
    store.wait(store.do(keep, "over the log's beginning"))
    assert log_pages(path) == before


# the same as stock

Piece = list[tuple[str, int]]
simple = st.tuples(st.sampled_from(["insert", "insert", "commit", "rollback", "raise"]), st.just(0))
pieces = st.lists(st.lists(simple, max_size=8), max_size=12)


def numbered(drawn: list[Piece]) -> list[Piece]:
    """With a number of its own for each insert."""
    numbers = iter(range(1000))
    return [[(op, next(numbers)) for op, _ in piece] for piece in drawn]


def perform(conn: Connection, piece: Piece) -> list[Any]:
    """A piece of work; what it sees at its end."""
    for op, value in piece:
        if op == "insert":
            conn.execute(table.insert().values(x=value))
        elif op == "raise":
            raise EXPECTED[0]
        else:
            getattr(conn, op)()
    return list(conn.execute(sa.select(table.c.x).order_by(table.c.x)).scalars())


table = sa.Table("t", sa.MetaData(), sa.Column("x", sa.Integer))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> sa.Engine:
    """Stock Buildbot's engine, on a file of its own."""
    basedir = str(tmp_path_factory.mktemp("stock"))
    engine: sa.Engine = enginestrategy.create_engine("sqlite:///stock.sqlite", basedir=basedir)
    table.create(engine)
    return engine


@settings(deadline=None, max_examples=60)
@given(drawn=pieces, piece_s=st.sampled_from([0.0, 0.004, 1.0]), together=st.booleans())
def test_the_outcome_is_that_of_a_connection_for_each_piece(
    stock: sa.Engine, drawn: list[Piece], piece_s: float, *, together: bool
) -> None:
    work = numbered(drawn)
    with pytest.MonkeyPatch.context() as patch:
        reactor = Reactor()
        patch.setattr(turns, "time", reactor)
        store = Store(reactor, None)
        with store.queue.engine.begin() as conn:
            table.create(conn)

        def timed(conn: Connection, piece: Piece) -> list[Any]:
            reactor.now += piece_s
            return perform(conn, piece)

        asked = []
        for piece in work:
            asked.append(store.do(timed, piece))
            if not together:
                reactor.turn()
        reactor.settle()
        ours = [a.result for a in asked]
        in_the_end = store.handle.execute("SELECT x FROM t ORDER BY x").fetchall()
        store.stop()

    theirs: list[list[Any] | None] = []
    for piece in work:
        with stock.connect() as conn:
            try:
                theirs.append(perform(conn, piece))
            except EXPECTED:
                theirs.append(None)
    with stock.begin() as conn:
        theirs_in_the_end = [tuple(row) for row in conn.execute(sa.select(table))]
        conn.execute(table.delete())
    assert ours == theirs
    assert in_the_end == theirs_in_the_end


nested = st.recursive(
    st.lists(st.just("insert"), max_size=3),
    lambda inner: st.lists(
        st.one_of(st.just("insert"), st.tuples(st.sampled_from(["keep", "undo"]), inner)),
        max_size=5,
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=60)
@given(works=st.lists(st.tuples(nested, st.sampled_from(["commit", "rollback", "raise", "end"]))))
def test_savepoints_in_pieces_nest(works: list[tuple[list[Any], str]]) -> None:
    """Against a model, since Python's own sqlite3 module does not get nested savepoints right."""
    numbers = iter(range(10_000))
    expected: list[int] = []

    def number(ops: list[Any]) -> tuple[list[Any], list[int]]:
        """The operations with numbers to insert, and the numbers that are kept."""
        numbered: list[Any] = []
        kept: list[int] = []
        for op in ops:
            if op == "insert":
                numbered.append(next(numbers))
                kept.append(numbered[-1])
            else:
                inside, kept_inside = number(op[1])
                numbered.append((op[0], inside))
                kept += kept_inside if op[0] == "keep" else []
        return numbered, kept

    def run(conn: Connection, ops: list[Any]) -> None:
        for op in ops:
            if isinstance(op, int):
                conn.execute(table.insert().values(x=op))
            else:
                with conn.begin_nested() as savepoint:
                    run(conn, op[1])
                    if op[0] == "undo":
                        savepoint.rollback()

    def work(conn: Connection, ops: list[Any], end: str) -> None:
        run(conn, ops)
        if end == "raise":
            raise EXPECTED[0]
        if end != "end":
            getattr(conn, end)()

    reactor = Reactor()
    store = Store(reactor, None)
    with store.queue.engine.begin() as conn:
        table.create(conn)
    for ops, end in works:
        numbered, kept = number(ops)
        store.do(work, numbered, end)
        expected += kept if end == "commit" else []
    reactor.settle()
    assert [x for (x,) in store.handle.execute("SELECT x FROM t ORDER BY x")] == expected
    store.stop()
