"""What becomes of a turn when another process holds the file, or a disk fails."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import apsw
import pytest
import sqlalchemy as sa

from litebot.errors import StoreFailed
from litebot.master.database import GROUP_COMMIT_S
from litebot.master.db.read_pool import THREADS
from litebot.master.db.sqlite import turn_queue
from litebot.store import dbapi
from litebot.store.connection import connect
from support.faulty_vfs import FaultyDisk
from support.faulty_vfs import damage
from support.stand_in import PATIENCE_S
from support.stand_in import Asked
from support.stand_in import Log
from support.stand_in import Reactor
from support.turning import BIG
from support.turning import Connection
from support.turning import Store
from support.turning import expect_failure
from support.turning import insert
from support.turning import keep
from support.turning import read

pytestmark = pytest.mark.usefixtures("logged")

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
        f"{path} has been locked by another process for {s} s; waiting until it is unlocked"
        for s in (5, 10)
    ]
    assert store.failures == []


def test_the_time_of_waiting_starts_anew(store: Store, path: Path) -> None:
    for _ in range(3):
        other = connect(path)
        other.execute("BEGIN IMMEDIATE")
        store.reactor.callLater(turn_queue.BUSY_GIVE_UP_S * 0.7, other.execute, "COMMIT")
        store.wait(store.do(read))
    assert store.failures == []


def test_work_gives_up_where_the_lock_stays(store: Store, path: Path) -> None:
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    # The read is taken off the queue before the turn finds out about the lock.
    asked = [store.browse(read), store.do(keep, "a"), store.browse(read), store.do(keep, "b")]
    store.reactor.run_until(lambda: asked[0].called and asked[3].called)
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


def test_a_request_at_the_last_moment(store: Store, path: Path) -> None:
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


def test_a_full_disk_is_reported_with_its_remedy(disk: FaultyDisk, store: Store) -> None:
    disk.refuse("write", "-wal", apsw.SQLITE_FULL)
    store.do(keep, "a")
    store.reactor.turn()
    (failure,) = store.failures
    assert failure.what == (
        f"{store.path}: no space is left to write it (write of {store.path}-wal refused by the"
        " test, code 13); the master stops, and nothing that it had acknowledged is lost"
    )
    assert failure.hint == "free some space, then: litebot start BASEDIR"


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


@pytest.mark.parametrize("request_reads", [False, True], ids=["the master", "a request"])
def test_a_damaged_page_is_met_by(reactor: Reactor, path: Path, *, request_reads: bool) -> None:
    with connect(path) as handle:
        handle.executemany("INSERT INTO t (x) VALUES (?)", [(str(n) * 500,) for n in range(200)])
    handle.close()
    assert damage(path, "t") == 1
    store = Store(reactor, path)
    kept = store.do(lambda _conn: "touches no page")
    asked = store.browse(read) if request_reads else store.do(read)
    store.reactor.run_until(lambda: asked.called)
    store.reactor.settle()
    assert isinstance(asked.error, StoreFailed)
    assert isinstance(kept.error, StoreFailed) is not request_reads
    assert [failure.hint for failure in store.failures] == [
        "restore a backup of it; the old file may tell more"
    ]
    assert "a page of it is damaged" in store.failures[0].what
    assert "nothing that it had acknowledged is lost" not in store.failures[0].what
    store.stop()


def test_a_disk_that_fails_under_a_request(disk: FaultyDisk, store: Store) -> None:
    store.wait(store.do(keep, *range(2000)))
    all_there = threading.Barrier(THREADS)

    def open_it(conn: Connection) -> None:
        read(conn)
        all_there.wait(PATIENCE_S)

    for opened in [store.browse(open_it) for _ in range(THREADS)]:
        store.wait(opened)
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


def test_nothing_is_done_whose_commit_fails_for_a_request(disk: FaultyDisk, store: Store) -> None:
    store.queue._group_commit_s = GROUP_COMMIT_S
    store.wait(store.do(keep, "a"))
    store.reactor.advance(GROUP_COMMIT_S)  # it is committed, and then another one need not wait
    store.reactor.advance(2 * GROUP_COMMIT_S)
    disk.refuse("write", "-wal", apsw.SQLITE_FULL)
    asked = [store.do(keep, "b"), store.browse(read)]
    expect_failure(store, asked, "no space is left", apsw.SQLITE_FULL)
    disk.heal()
    assert store.content() == ["a"]
