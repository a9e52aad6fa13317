"""Read-only connections in threads: what they see, what they refuse, and how they end."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import sqlalchemy as sa
from twisted.python.failure import Failure

from litebot.errors import StoreError
from litebot.master.db.read_pool import THREADS
from litebot.master.db.read_pool import read_snapshot
from litebot.master.db.sqlite import read_pool as reading
from litebot.master.db.sqlite.read_pool import INLINE_READ_PAUSE_S
from litebot.master.db.sqlite.read_pool import INLINE_READ_S
from litebot.master.db.sqlite.read_pool import InlineReadRefused
from litebot.master.db.sqlite.read_pool import SqliteReadPool
from litebot.master.db.sqlite.state_file import create_file
from litebot.store import dbapi
from litebot.store.connection import MASTER
from litebot.store.connection import connect
from litebot.store.sql import Sql

PATIENCE_S = 20
FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

Connection = sa.engine.Connection


class Reactor:
    """Keeps what threads have to say until a test wants to hear it."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    def callFromThread(self, f: Callable[..., object], *args: Any) -> None:
        self._calls.put(lambda: f(*args))

    def turn(self) -> None:
        self._calls.get(timeout=PATIENCE_S)()


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.sqlite"
    create_file(path)
    return path


@pytest.fixture
def writer(path: Path) -> Iterator[apsw.Connection]:
    writer = connect(path, MASTER)
    writer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x); INSERT INTO t (x) VALUES ('a')")
    yield writer
    writer.close()


@pytest.fixture
def readers(path: Path, writer: apsw.Connection, reactor: Reactor) -> Iterator[SqliteReadPool]:
    readers = SqliteReadPool(path, reactor)
    yield readers
    readers.stop()


@pytest.fixture
def run(readers: SqliteReadPool, reactor: Reactor) -> Callable[..., Any]:
    """Run something in a reader and wait for it."""

    def run(callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        results: list[Any] = []
        readers.run(callable, *args, **kwargs).addBoth(results.append)
        while not results:
            reactor.turn()
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    return run


def read(conn: Connection) -> list[Any]:
    return list(conn.exec_driver_sql("SELECT x FROM t ORDER BY id").scalars())


def execute(conn: Connection, sql: str) -> None:
    conn.exec_driver_sql(sql)
    conn.commit()


Run = Callable[..., Any]


def test_it_reads_what_is_committed(run: Run, writer: apsw.Connection) -> None:
    assert run(read) == ["a"]
    writer.execute("BEGIN; INSERT INTO t (x) VALUES ('b')")
    assert run(read) == ["a"]
    writer.execute("COMMIT")
    assert run(read) == ["a", "b"]


def test_arguments_are_passed_on(run: Run) -> None:
    assert run(lambda _conn, a, *, b: (a, b), 1, b=2) == (1, 2)


def test_all_of_one_read_is_of_one_moment(run: Run, writer: apsw.Connection) -> None:
    def work(conn: Connection) -> tuple[list[Any], list[Any]]:
        before = read(conn)
        with connect(writer.filename) as other:
            other.execute("INSERT INTO t (x) VALUES ('meanwhile')")
        return before, read(conn)

    assert run(work) == (["a"], ["a"])
    assert run(read) == ["a", "meanwhile"]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t (x) VALUES ('b')",
        "UPDATE t SET x = 'b'",
        "DELETE FROM t",
        "CREATE TABLE u (x)",
        "DROP TABLE t",
        "PRAGMA user_version = 17",
    ],
)
def test_it_does_not_write(run: Run, writer: apsw.Connection, sql: str) -> None:
    with pytest.raises(sa.exc.OperationalError) as raised:
        run(execute, sql)
    assert isinstance(raised.value.orig, dbapi.ReadOnlyError)
    assert writer.execute("SELECT x FROM t").fetchall() == [("a",)]
    assert writer.pragma("user_version") == 0
    assert run(read) == ["a"]


def test_nothing_of_it_stands_in_the_writers_way(run: Run, writer: apsw.Connection) -> None:
    assert run(read) == ["a"]
    with pytest.raises(ZeroDivisionError):
        run(lambda conn: read(conn) and 1 / 0)
    writer.execute("INSERT INTO t (x) VALUES ('b')")
    writer.set_busy_timeout(0)
    writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)  # raises BusyError where one does


def test_rows_left_behind_do_not_hold_the_next_reads_back(
    run: Run, writer: apsw.Connection
) -> None:
    writer.execute("INSERT INTO t (x) VALUES ('b')")
    kept = []  # as a cycle that the garbage collector has not come to yet would keep it

    def leaves_rows(conn: Connection) -> None:
        kept.append(conn.exec_driver_sql("SELECT x FROM t"))
        assert kept[-1].fetchone() is not None

    for _ in range(THREADS):
        run(leaves_rows)
    writer.execute("INSERT INTO t (x) VALUES ('c')")
    for _ in range(THREADS):
        assert run(lambda conn: conn.exec_driver_sql("SELECT count(*) FROM t").scalar()) == 3


def test_a_connection_is_kept_for_each_thread(run: Run) -> None:
    def handle(conn: Connection) -> int:
        raw: Any = conn.connection.dbapi_connection
        return id(raw.handle)

    before = len(apsw.connections())
    assert len({run(handle) for _ in range(20)}) <= THREADS
    assert len(apsw.connections()) <= before + THREADS


def test_a_few_run_side_by_side(readers: SqliteReadPool, reactor: Reactor) -> None:
    together = threading.Barrier(THREADS)
    results: list[Any] = []
    for _ in range(THREADS):
        readers.run(lambda _conn: together.wait(PATIENCE_S)).addBoth(results.append)
    for _ in range(THREADS):
        reactor.turn()
    assert sorted(results) == list(range(THREADS))


def test_rows_that_are_not_fetched_are_an_error(run: Run) -> None:
    with pytest.raises(TypeError, match="not fetched yet"):
        run(lambda conn: conn.exec_driver_sql("SELECT x FROM t"))


def test_a_file_that_is_gone(path: Path, reactor: Reactor) -> None:
    readers = SqliteReadPool(path.with_name("gone"), reactor)
    results: list[Any] = []
    readers.run(read).addBoth(results.append)
    reactor.turn()
    assert results[0].check(StoreError)
    readers.stop()


@pytest.mark.parametrize("statements", [1, 1000], ids=["one statement", "one after another"])
def test_stop_ends_what_runs(readers: SqliteReadPool, reactor: Reactor, statements: int) -> None:
    running = threading.Event()

    def work(conn: Connection) -> None:
        running.set()
        for _ in range(statements):
            conn.exec_driver_sql(FOREVER if statements == 1 else "SELECT 1").fetchall()
        conn.exec_driver_sql(FOREVER).fetchall()

    results: list[Any] = []
    readers.run(work).addBoth(results.append)
    assert running.wait(PATIENCE_S)
    readers.stop()
    reactor.turn()
    assert isinstance(results[0].value.orig, dbapi.OperationalError)


def test_stop_refuses_what_waits_for_a_thread(readers: SqliteReadPool, reactor: Reactor) -> None:
    running = threading.Semaphore(0)
    ran: list[int] = []

    def long(conn: Connection) -> None:
        running.release()
        conn.exec_driver_sql(FOREVER).fetchall()

    results: list[Any] = []
    for _ in range(THREADS):
        readers.run(long).addBoth(results.append)
    for n in range(5):
        readers.run(lambda _conn, n: ran.append(n), n).addBoth(results.append)
    for _ in range(THREADS):
        assert running.acquire(timeout=PATIENCE_S)
    readers.stop()
    for _ in range(THREADS + 5):
        reactor.turn()
    assert ran == []
    assert len(results) == THREADS + 5
    assert all(isinstance(result, Failure) for result in results)


def test_stop_closes_every_connection(path: Path, writer: apsw.Connection, run: Run) -> None:
    before = len(apsw.connections())
    reactor = Reactor()
    readers = SqliteReadPool(path, reactor)
    readers.stop()  # never used
    readers.run(read)
    reactor.turn()
    assert len(apsw.connections()) == before + 1
    readers.stop()
    assert len(apsw.connections()) == before


def test_work_goes_to_a_reader_only_for_a_request() -> None:
    assert read_snapshot.get() is None


def slow(sql: Sql) -> None:
    time.sleep(2 * INLINE_READ_S)
    sql.rows("SELECT x FROM t")


def test_no_inline_read_that_took_long_keeps_its_snapshot(
    readers: SqliteReadPool, writer: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "INLINE_READ_S", 0.0005)
    monkeypatch.setattr(reading, "INLINE_READ_PAUSE_S", 0.0)
    writer.set_busy_timeout(0)
    interrupted = 0
    # Steps are counted over all statements, so now and then INLINE_READ_STEPS end in a ROLLBACK.
    for _ in range(300):
        try:
            readers.read_inline(slow)
        except dbapi.OperationalError:
            interrupted += 1
        writer.execute("INSERT INTO t (x) VALUES ('b')")
        writer.wal_checkpoint(
            mode=apsw.SQLITE_CHECKPOINT_TRUNCATE
        )  # raises BusyError where one does
    assert interrupted


def test_after_an_inline_read_that_took_long_none_begins_for_a_while(
    readers: SqliteReadPool,
) -> None:
    begun: list[int] = []

    def endless(sql: Sql) -> None:
        begun.append(1)
        sql.rows(FOREVER)

    with pytest.raises(dbapi.OperationalError):
        readers.read_inline(endless)
    with pytest.raises(InlineReadRefused):
        readers.read_inline(endless)
    assert len(begun) == 1
    time.sleep(INLINE_READ_PAUSE_S)
    assert readers.read_inline(lambda sql: sql.rows("SELECT x FROM t")) == [("a",)]


def test_who_cancels_a_read_aborts_it(run: Run, readers: SqliteReadPool) -> None:
    began, ended = threading.Event(), threading.Event()

    def work(conn: Connection) -> None:
        began.set()
        try:
            conn.exec_driver_sql(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
                " SELECT count(*) FROM n"
            )
        finally:
            ended.set()

    results: list[Any] = []
    d = readers.run(work).addBoth(results.append)
    assert began.wait(PATIENCE_S)
    time.sleep(0.2)  # an interrupt before the statement has begun would have no effect
    d.cancel()
    assert isinstance(results[0], Failure)
    assert ended.wait(PATIENCE_S)
    assert run(read) == ["a"]
