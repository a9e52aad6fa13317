"""The PEP 249 adapter: its errors, provoked for real, and transactions that nest."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from litebot.errors import StoreError
from litebot.store import dbapi
from litebot.store.connection import MASTER
from litebot.store.connection import READER
from litebot.store.connection import connect
from litebot.store.connection import open_for_inspection
from support.faulty_vfs import FaultyDisk
from support.faulty_vfs import damage
from support.faulty_vfs import faulty_disk

BIG = b"x" * 20_000_000  # more than the page cache holds, so it is written before a commit


@pytest.fixture
def fatal() -> list[dbapi.Error]:
    """The errors that the connection `db` has reported to its owner."""
    return []


@pytest.fixture
def db(path: Path, fatal: list[dbapi.Error]) -> Iterator[dbapi.Connection]:
    """A connection with a handle of its own, as the master opens it."""
    handle = connect(path, MASTER, busy_timeout_ms=0)
    connection = dbapi.Connection(handle, on_fatal=fatal.append)
    yield connection
    handle.close()


def run(db: dbapi.Connection, sql: str, *parameters: object) -> dbapi.Cursor:
    return db.cursor().execute(sql, parameters)


def insert(db: dbapi.Connection, *values: object) -> None:
    for value in values:
        run(db, "INSERT INTO t (x) VALUES (?)", value)


def content(where: Path | dbapi.Connection | apsw.Connection) -> list[object]:
    """The values in t: those that another connection sees, or this one."""
    if isinstance(where, dbapi.Connection):
        where = where.handle
    handle = connect(where) if isinstance(where, Path) else where
    values = [x for (x,) in handle.execute("SELECT x FROM t ORDER BY id")]
    if isinstance(where, Path):
        handle.close()
    return values


# the module


def test_what_pep_249_asks_of_a_module() -> None:
    assert (dbapi.apilevel, dbapi.threadsafety, dbapi.paramstyle) == ("2.0", 1, "qmark")
    assert dbapi.sqlite_version == apsw.sqlite_lib_version()
    assert dbapi.sqlite_version_info >= (3, 51, 3)
    assert dbapi.Binary(b"x") == b"x"


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        (dbapi.Warning, Exception),
        (dbapi.Error, Exception),
        (dbapi.InterfaceError, dbapi.Error),
        (dbapi.DatabaseError, dbapi.Error),
        (dbapi.DataError, dbapi.DatabaseError),
        (dbapi.OperationalError, dbapi.DatabaseError),
        (dbapi.IntegrityError, dbapi.DatabaseError),
        (dbapi.InternalError, dbapi.DatabaseError),
        (dbapi.ProgrammingError, dbapi.DatabaseError),
        (dbapi.NotSupportedError, dbapi.DatabaseError),
    ],
)
def test_the_tree_of_errors_is_that_of_pep_249(
    child: type[Exception], parent: type[Exception]
) -> None:
    assert child.__bases__ == (parent,)


def test_every_error_of_apsw_has_a_place() -> None:
    """A new one in a later apsw should be looked at; these have no better one than the general."""
    classes = {c for _, c in inspect.getmembers(apsw, inspect.isclass) if issubclass(c, apsw.Error)}
    unplaced = {c for c in classes if type(dbapi.translate(c("why"))) is dbapi.DatabaseError}
    assert {c.__name__ for c in unplaced} == {
        "AuthError",
        "ConnectionNotClosedError",
        "EmptyError",
        "Error",
        "ExecTraceAbort",
        "ExecutionCompleteError",
        "ExtensionLoadingError",
        "ForkingViolationError",
        "InvalidContextError",
        "NoFTS5Error",
        "NoLFSError",
        "NotFoundError",
        "VFSFileClosedError",
        "VFSNotImplementedError",
    }


def test_connect_opens_a_file_that_exists(path: Path) -> None:
    db = dbapi.connect(path)
    insert(db, "a")
    db.commit()
    db.close()
    assert content(path) == ["a"]
    with pytest.raises(StoreError, match="does not exist"):
        dbapi.connect(path.with_name("other"))


def test_a_file_that_is_only_read(path: Path) -> None:
    db = dbapi.Connection(open_for_inspection(path))
    with pytest.raises(dbapi.ReadOnlyError):
        insert(db, "a")


# errors, each provoked for real


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("INSERT INTO t (x) VALUES ('taken')", apsw.SQLITE_CONSTRAINT_UNIQUE),
        ("INSERT INTO t (id) VALUES (1)", apsw.SQLITE_CONSTRAINT_PRIMARYKEY),
        ("INSERT INTO other VALUES (NULL, 1)", apsw.SQLITE_CONSTRAINT_NOTNULL),
        ("INSERT INTO other VALUES (1, -1)", apsw.SQLITE_CONSTRAINT_CHECK),
        ("INSERT INTO t (id) VALUES ('no number')", apsw.SQLITE_MISMATCH),
    ],
)
def test_a_broken_constraint(
    db: dbapi.Connection, fatal: list[dbapi.Error], sql: str, code: int
) -> None:
    insert(db, "taken")
    run(db, "CREATE TABLE other (x NOT NULL, y CHECK (y > 0))")
    with pytest.raises(dbapi.IntegrityError) as raised:
        run(db, sql)
    assert type(raised.value) is dbapi.IntegrityError
    assert raised.value.code == code
    assert isinstance(raised.value.__cause__, apsw.Error)
    assert fatal == []
    assert content(db) == ["taken"]  # the transaction goes on


def test_a_constraint_that_waits_for_the_commit(db: dbapi.Connection) -> None:
    db.handle.pragma("foreign_keys", True)
    run(db, "CREATE TABLE child (t INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)")
    run(db, "INSERT INTO child VALUES (17)")
    with pytest.raises(dbapi.IntegrityError, match="FOREIGN KEY"):
        db.commit()


def test_a_lock_of_another_connection(
    db: dbapi.Connection, path: Path, fatal: list[dbapi.Error]
) -> None:
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(dbapi.BusyError) as raised:
        insert(db, "a")
    assert isinstance(raised.value, dbapi.OperationalError)
    assert raised.value.code == apsw.SQLITE_BUSY
    assert fatal == []
    assert content(db) == []  # reading goes on
    other.execute("ROLLBACK")
    insert(db, "a")
    db.commit()
    assert content(path) == ["a"]


def test_a_lock_of_the_same_connection(db: dbapi.Connection) -> None:
    insert(db, "a", "b")
    reading = run(db, "SELECT x FROM t")
    assert reading.fetchone()
    with pytest.raises(dbapi.BusyError) as raised:
        run(db, "DROP TABLE t")
    assert raised.value.code == apsw.SQLITE_LOCKED


def test_a_snapshot_too_old_to_write_on(db: dbapi.Connection, path: Path) -> None:
    db.handle.execute("BEGIN; SELECT * FROM t")
    other = connect(path)
    other.execute("INSERT INTO t (x) VALUES ('newer')")
    with pytest.raises(dbapi.BusyError) as raised:
        insert(db, "a")
    assert raised.value.code == apsw.SQLITE_BUSY_SNAPSHOT


def test_a_file_at_its_largest(db: dbapi.Connection, fatal: list[dbapi.Error]) -> None:
    db.handle.pragma("max_page_count", db.handle.pragma("page_count"))
    with pytest.raises(dbapi.FullDiskError) as raised:
        insert(db, BIG)
    assert isinstance(raised.value, dbapi.OperationalError)
    assert raised.value.code == apsw.SQLITE_FULL
    assert fatal == [raised.value]


Attempt = Callable[[dbapi.Connection], object]


def in_a_statement(db: dbapi.Connection) -> None:
    insert(db, BIG)


def in_executemany(db: dbapi.Connection) -> None:
    db.cursor().executemany("INSERT INTO t (x) VALUES (?)", [(1,), (BIG,), (2,)])


def in_the_commit(db: dbapi.Connection) -> None:
    insert(db, 1)
    db.commit()


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    with faulty_disk() as disk:
        yield disk


@pytest.mark.parametrize("attempt", [in_a_statement, in_executemany, in_the_commit])
@pytest.mark.parametrize(
    ("operation", "code", "kind"),
    [
        ("write", apsw.SQLITE_FULL, dbapi.FullDiskError),
        ("write", apsw.SQLITE_IOERR_WRITE, dbapi.DiskIOError),
        ("write", apsw.SQLITE_READONLY, dbapi.ReadOnlyError),
    ],
)
def test_a_disk_that_does_not_write(
    disk: FaultyDisk,
    path: Path,
    fatal: list[dbapi.Error],
    db: dbapi.Connection,
    operation: str,
    code: int,
    kind: type[dbapi.Error],
    attempt: Attempt,
) -> None:
    insert(db, "before")
    db.commit()
    disk.refuse(operation, "-wal", code, after=3 if attempt is not in_the_commit else 0)
    with pytest.raises(kind) as raised:
        attempt(db)
    assert raised.value.code == code
    assert fatal == [raised.value]
    disk.heal()
    db.rollback()  # whether or not SQLite has already done it
    assert content(path) == ["before"]


def test_a_disk_that_does_not_sync(
    disk: FaultyDisk, path: Path, fatal: list[dbapi.Error], db: dbapi.Connection
) -> None:
    disk.refuse("sync", "-wal", apsw.SQLITE_IOERR_FSYNC)
    with pytest.raises(dbapi.DiskIOError) as raised:
        in_the_commit(db)
    assert raised.value.code == apsw.SQLITE_IOERR_FSYNC
    assert fatal == [raised.value]


def test_a_disk_that_does_not_read(
    disk: FaultyDisk, path: Path, fatal: list[dbapi.Error], db: dbapi.Connection
) -> None:
    insert(db, BIG)
    db.commit()
    db.handle.execute("PRAGMA shrink_memory")
    rows = run(db, "SELECT x FROM t WHERE id = 0")  # the first pages are read
    disk.refuse("read", "-wal", apsw.SQLITE_IOERR_READ)
    with pytest.raises(dbapi.DiskIOError) as raised:
        run(db, "SELECT x FROM t").fetchall()
    assert raised.value.code == apsw.SQLITE_IOERR_READ
    assert fatal == [raised.value]
    assert rows.fetchone() is None
    disk.heal()


Fetch = Callable[[dbapi.Cursor], object]


@pytest.mark.parametrize(
    "fetch",
    [
        dbapi.Cursor.fetchall,
        lambda cursor: [*iter(cursor.fetchone, None)],
        lambda cursor: cursor.fetchmany(1000),
    ],
    ids=["fetchall", "fetchone", "fetchmany"],
)
def test_a_damaged_page(path: Path, fatal: list[dbapi.Error], fetch: Fetch) -> None:
    with connect(path) as handle:
        handle.executemany("INSERT INTO t (x) VALUES (?)", [(str(n) * 500,) for n in range(100)])
    handle.close()
    assert damage(path, "t") == 1
    db = dbapi.Connection(connect(path), on_fatal=fatal.append)
    with pytest.raises(dbapi.DamagedError) as raised:
        fetch(run(db, "SELECT x FROM t ORDER BY id"))
    assert isinstance(raised.value, dbapi.DatabaseError)
    assert raised.value.code is not None
    assert raised.value.code & 0xFF == apsw.SQLITE_CORRUPT
    assert fatal == [raised.value]


def test_a_file_that_is_no_database_any_more(path: Path) -> None:
    path.write_bytes(b"no database any more" * 1000)
    db = dbapi.Connection(apsw.Connection(str(path)))
    with pytest.raises(dbapi.DamagedError) as raised:
        run(db, "SELECT * FROM t")
    assert raised.value.code == apsw.SQLITE_NOTADB


def test_a_write_where_only_reading_is_allowed(path: Path, fatal: list[dbapi.Error]) -> None:
    db = dbapi.Connection(connect(path, READER), on_fatal=fatal.append)
    assert run(db, "SELECT count(*) FROM t").fetchall() == [(0,)]
    with pytest.raises(dbapi.ReadOnlyError) as raised:
        insert(db, "a")
    assert isinstance(raised.value, dbapi.OperationalError)
    assert fatal == [raised.value]
    db.rollback()
    assert run(db, "SELECT count(*) FROM t").fetchall() == [(0,)]


def test_a_file_that_is_gone(db: dbapi.Connection, tmp_path: Path) -> None:
    with pytest.raises(dbapi.DiskIOError) as raised:
        run(db, f"ATTACH '{tmp_path}/no/such/file' AS other")
    assert raised.value.code is not None
    assert raised.value.code & 0xFF == apsw.SQLITE_CANTOPEN


def test_an_interrupted_statement(db: dbapi.Connection, fatal: list[dbapi.Error]) -> None:
    db.handle.set_progress_handler(lambda: True, 1000)
    with pytest.raises(dbapi.OperationalError, match="interrupted") as raised:
        run(
            db,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
            " SELECT count(*) FROM n",
        )
    assert type(raised.value) is dbapi.OperationalError
    assert fatal == []


@pytest.mark.parametrize(
    ("sql", "parameters", "kind", "message"),
    [
        ("SELECT * FROM missing", (), dbapi.OperationalError, "no such table: missing"),
        ("SELEKT", (), dbapi.OperationalError, "syntax error"),
        ("SELECT ?", (), dbapi.ProgrammingError, "Incorrect number of bindings"),
        ("SELECT ?", (1, 2), dbapi.ProgrammingError, "Incorrect number of bindings"),
        ("SELECT ?", (object(),), dbapi.ProgrammingError, "object"),
        ("SELECT zeroblob(2000000000)", (), dbapi.DataError, "too big"),
    ],
)
def test_a_mistake_in_the_program(
    db: dbapi.Connection,
    fatal: list[dbapi.Error],
    sql: str,
    parameters: tuple[object, ...],
    kind: type[dbapi.Error],
    message: str,
) -> None:
    with pytest.raises(kind, match=message) as raised:
        run(db, sql, *parameters)
    assert type(raised.value) is kind
    assert fatal == []


# cursors


def test_rows(db: dbapi.Connection) -> None:
    insert(db, *"abcde")
    cursor = run(db, "SELECT id, x FROM t ORDER BY id")
    assert cursor.fetchone() == (1, "a")
    assert cursor.fetchmany() == [(2, "b")]
    assert cursor.fetchmany(2) == [(3, "c"), (4, "d")]
    assert cursor.fetchall() == [(5, "e")]
    assert cursor.fetchone() is None
    assert cursor.fetchmany(2) == []
    assert cursor.fetchall() == []


def test_the_array_size(db: dbapi.Connection) -> None:
    insert(db, *"abc")
    cursor = run(db, "SELECT x FROM t ORDER BY id")
    cursor.arraysize = 2
    assert cursor.fetchmany() == [("a",), ("b",)]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_columns_are_described_with_rows_and_without(db: dbapi.Connection, rows: int) -> None:
    insert(db, *range(rows))
    cursor = run(db, "SELECT id AS n, x, count(*) OVER () FROM t")
    assert cursor.description is not None
    assert [column[0] for column in cursor.description] == ["n", "x", "count(*) OVER ()"]
    assert {len(column) for column in cursor.description} == {7}
    assert len(cursor.fetchall()) == rows
    assert [column[0] for column in cursor.description] == ["n", "x", "count(*) OVER ()"]


def test_a_statement_without_columns_has_no_description(db: dbapi.Connection) -> None:
    cursor = run(db, "SELECT 1")
    assert cursor.description
    cursor.execute("INSERT INTO t (x) VALUES (1)")
    assert cursor.description is None
    cursor.execute("CREATE TABLE u (x)")
    assert cursor.description is None


def test_returning(db: dbapi.Connection) -> None:
    cursor = run(db, "INSERT INTO t (x) VALUES ('a'), ('b') RETURNING id")
    assert cursor.description is not None
    assert cursor.description[0][0] == "id"
    assert cursor.rowcount == -1  # SQLite counts when the last row has been fetched
    assert cursor.fetchall() == [(1,), (2,)]


def test_counts_of_rows(db: dbapi.Connection) -> None:
    cursor = db.cursor()
    assert cursor.rowcount == -1
    cursor.executemany("INSERT INTO t (x) VALUES (?)", [("a",), ("b",), ("c",)])
    assert cursor.rowcount == 3
    assert cursor.execute("UPDATE t SET x = x || '!' WHERE x <> 'b'").rowcount == 2
    assert cursor.execute("DELETE FROM t WHERE x = 'nothing'").rowcount == 0
    assert cursor.execute("SELECT * FROM t").rowcount == -1
    assert cursor.execute("INSERT OR IGNORE INTO t (x) VALUES ('b')").rowcount == 0
    assert cursor.execute("DELETE FROM t").rowcount == 3


def test_the_id_of_the_last_row(db: dbapi.Connection) -> None:
    cursor = db.cursor()
    assert cursor.lastrowid is None
    assert cursor.execute("INSERT INTO t (x) VALUES ('a')").lastrowid == 1
    assert cursor.execute("INSERT INTO t VALUES (1700, 'b')").lastrowid == 1700
    cursor.execute("SELECT * FROM t")
    assert cursor.lastrowid == 1700


def test_a_cursor_that_is_closed_lets_go_of_its_statement(db: dbapi.Connection) -> None:
    insert(db, "a", "b")
    reading = run(db, "SELECT x FROM t")
    reading.close()
    run(db, "DROP TABLE t")
    with pytest.raises(dbapi.ProgrammingError):
        reading.execute("SELECT 1")


def test_what_does_nothing(db: dbapi.Connection) -> None:
    cursor = db.cursor()
    cursor.setinputsizes([None])
    cursor.setoutputsize(100)


@pytest.mark.parametrize(
    "value",
    [None, 0, -1, 2**63 - 1, -(2**63), 1.5, "", "äöü \N{SNOWMAN} \U0001f600\0!", b"", b"\0\xff", 1],
)
def test_values_come_back_as_they_were(db: dbapi.Connection, value: object) -> None:
    insert(db, value)
    assert content(db) == [value]
    assert type(content(db)[0]) is type(value)


# transactions


def test_nothing_is_kept_without_a_commit(db: dbapi.Connection, path: Path) -> None:
    insert(db, "a")
    assert content(db) == ["a"]
    assert content(path) == []
    db.commit()
    assert content(path) == ["a"]
    insert(db, "b")
    db.rollback()
    assert content(db) == content(path) == ["a"]
    insert(db, "c")
    db.close()
    assert content(path) == ["a"]


def test_a_schema_changes_in_a_transaction_too(db: dbapi.Connection, path: Path) -> None:
    insert(db, "a")
    run(db, "DROP TABLE t")
    db.rollback()
    assert content(path) == []


def test_reading_begins_nothing(db: dbapi.Connection) -> None:
    run(db, "SELECT * FROM t").fetchall()
    run(db, "PRAGMA cache_size = -1000")
    run(db, "PRAGMA journal_mode = wal")  # counts as a write, but is refused in a transaction
    assert not db.handle.in_transaction


def test_writing_takes_the_lock_at_its_first_statement(db: dbapi.Connection, path: Path) -> None:
    insert(db, "a")
    other = dbapi.Connection(connect(path, busy_timeout_ms=0))
    with pytest.raises(dbapi.BusyError):
        insert(other, "b")


def test_commit_and_rollback_without_anything_done(db: dbapi.Connection) -> None:
    db.commit()
    db.rollback()
    db.commit()


def test_a_closed_connection(db: dbapi.Connection) -> None:
    db.close()
    db.close()
    with pytest.raises(dbapi.ProgrammingError, match="closed"):
        db.cursor()


def test_a_handle_that_was_closed_under_its_connection(path: Path) -> None:
    handle = connect(path)
    db = dbapi.Connection(handle, owned=False)
    cursor = db.cursor()
    handle.close()
    with pytest.raises(dbapi.ProgrammingError, match="closed"):
        db.cursor()
    with pytest.raises(dbapi.ProgrammingError, match="closed"):
        cursor.execute("SELECT 1")
    db.rollback()
    db.close()


# inside somebody else's transaction


@pytest.fixture
def outer(path: Path) -> Iterator[apsw.Connection]:
    """A handle with a transaction of its owner, who has inserted one row."""
    handle = connect(path, MASTER)
    handle.execute("BEGIN IMMEDIATE; INSERT INTO t (x) VALUES ('outer')")
    yield handle
    handle.close()


def inner(outer: apsw.Connection) -> dbapi.Connection:
    return dbapi.Connection(outer, owned=False)


def test_a_commit_inside_is_not_yet_one(outer: apsw.Connection, path: Path) -> None:
    db = inner(outer)
    insert(db, "a")
    db.commit()
    assert content(path) == []
    insert(db, "b")
    db.rollback()
    outer.execute("COMMIT")
    assert content(path) == ["outer", "a"]


def test_the_owner_has_the_last_word(outer: apsw.Connection, path: Path) -> None:
    db = inner(outer)
    insert(db, "a")
    db.commit()
    outer.execute("ROLLBACK")
    assert content(path) == []


def test_a_rollback_inside_undoes_its_own_alone(outer: apsw.Connection) -> None:
    first, second = inner(outer), inner(outer)
    insert(first, "a")
    first.commit()
    insert(second, "b")
    second.rollback()
    first.rollback()
    assert content(outer) == ["outer", "a"]


def test_closing_inside_undoes_what_is_open_and_leaves_the_handle(outer: apsw.Connection) -> None:
    db = inner(outer)
    insert(db, "a")
    db.close()
    assert content(outer) == ["outer"]
    assert outer.in_transaction


def test_one_inside_another(outer: apsw.Connection) -> None:
    a = inner(outer)
    insert(a, "a")
    b = inner(outer)
    insert(b, "b")
    b.commit()
    c = inner(outer)
    insert(c, "c")
    c.rollback()
    assert content(outer) == ["outer", "a", "b"]
    a.rollback()
    assert content(outer) == ["outer"]


def test_savepoints_of_the_user(outer: apsw.Connection) -> None:
    db = inner(outer)
    run(db, "SAVEPOINT mine")  # before anything is written
    insert(db, "a")
    run(db, "ROLLBACK TO SAVEPOINT mine")
    insert(db, "b")
    run(db, "RELEASE SAVEPOINT mine")
    insert(db, "c")
    db.commit()
    assert content(outer) == ["outer", "b", "c"]


def test_a_savepoint_of_the_user_that_is_left_open(outer: apsw.Connection) -> None:
    db = inner(outer)
    run(db, "SAVEPOINT mine")
    insert(db, "a")
    db.rollback()
    assert content(outer) == ["outer"]
    insert(db, "b")
    run(db, "SAVEPOINT mine")
    insert(db, "c")
    db.commit()
    outer.execute("COMMIT")
    assert content(outer) == ["outer", "b", "c"]


def test_savepoints_without_a_transaction_outside(db: dbapi.Connection, path: Path) -> None:
    run(db, "SAVEPOINT mine")
    insert(db, "a")
    run(db, "RELEASE SAVEPOINT mine")
    assert content(path) == []  # SQLite alone would have committed
    db.rollback()
    assert content(path) == []


def test_rollback_after_sqlite_has_already_rolled_back(outer: apsw.Connection) -> None:
    db = inner(outer)
    insert(db, "a")
    outer.execute("ROLLBACK")
    with pytest.raises(dbapi.OperationalError, match="the transaction is over"):
        insert(db, "half of the work")
    db.rollback()
    insert(db, "b")
    db.commit()
    assert content(outer) == ["b"]


# autocommit


def test_autocommit(db: dbapi.Connection, path: Path) -> None:
    assert db.autocommit is False
    insert(db, "a")
    db.autocommit = True
    assert content(path) == ["a"]
    insert(db, "b")
    db.rollback()
    assert content(path) == ["a", "b"]
    run(db, "VACUUM")
    db.autocommit = False
    insert(db, "c")
    db.rollback()
    assert content(path) == ["a", "b"]
