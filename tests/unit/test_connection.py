"""Opening the state file: what is set on it, and every way in which it is refused."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from litebot.errors import StoreError
from litebot.master.db.sqlite.state_file import create_file
from litebot.store.connection import DURABILITY
from litebot.store.connection import MASTER
from litebot.store.connection import NEW_FILE
from litebot.store.connection import READER
from litebot.store.connection import Pragma
from litebot.store.connection import check_sqlite_version
from litebot.store.connection import connect
from litebot.store.connection import open_for_inspection
from support.faulty_vfs import faulty_disk

FULL, NORMAL = 2, 1  # of synchronous
MEMORY = 2  # of temp_store
INCREMENTAL = 2  # of auto_vacuum


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state file as create-master makes it, with one table of one row."""
    path = tmp_path / "state.sqlite"
    create_file(path)
    with connect(path) as db:
        db.execute("CREATE TABLE t (x); INSERT INTO t VALUES ('here')")
    db.close()
    return path


# what a connection has


def test_a_new_file_is_private_logs_ahead_and_can_shrink(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    old = os.umask(0)
    try:
        create_file(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    db = connect(path)  # the pragmas of NEW_FILE are in the file itself
    assert db.pragma("journal_mode") == "wal"
    assert db.pragma("auto_vacuum") == INCREMENTAL


def test_its_log_and_shared_memory_are_private_too(path: Path) -> None:
    old = os.umask(0)
    try:
        db = connect(path, MASTER)
        db.execute("INSERT INTO t VALUES (1)")
        files = list(path.parent.iterdir())
    finally:
        os.umask(old)
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_new_file_replaces_none(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        create_file(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("pragmas", "name", "value"),
    [
        ((), "cache_size", -8192),
        ((), "temp_store", MEMORY),
        ((), "cell_size_check", 1),
        ((), "query_only", 0),
        ((), "busy_timeout", 5000),
        (MASTER, "journal_mode", "wal"),
        (MASTER, "journal_size_limit", -1),
        (MASTER, "wal_autocheckpoint", 0),
        (MASTER, "cell_size_check", 1),
        (DURABILITY["commit"], "synchronous", FULL),
        (DURABILITY["process"], "synchronous", NORMAL),
        (READER, "query_only", 1),
        (READER, "cache_size", -8192),
    ],
)
def test_pragmas_are_really_set(
    path: Path, pragmas: tuple[Pragma, ...], name: str, value: int | str
) -> None:
    assert connect(path, pragmas).pragma(name) == value


@pytest.mark.parametrize(("durability", "syncs"), [("commit", 3), ("process", 0)])
def test_durability_is_a_sync_of_the_log_at_each_commit_or_none(
    path: Path, durability: str, syncs: int
) -> None:
    with faulty_disk() as disk:
        db = connect(path, MASTER + DURABILITY[durability])
        db.execute("INSERT INTO t VALUES (0)")  # the first one writes the log's header as well
        before = disk.syncs[f"{path}-wal"]
        for n in range(3):
            db.execute("INSERT INTO t VALUES (?)", (n,))
        assert disk.syncs[f"{path}-wal"] - before == syncs
        db.close()


def test_the_master_does_not_checkpoint_at_a_commit(path: Path) -> None:
    db = connect(path, MASTER)
    size_bytes = path.stat().st_size
    db.execute("INSERT INTO t VALUES (zeroblob(20000000))")  # 5,000 pages, by default 1,000 is due
    assert path.stat().st_size == size_bytes


def test_a_commit_does_not_cut_a_large_log(path: Path) -> None:
    db = connect(path, MASTER)
    db.execute("INSERT INTO t VALUES (zeroblob(20000000))")
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
    before = path.with_name("state.sqlite-wal").stat().st_size
    db.execute("INSERT INTO t VALUES (1)")  # starts the log over, and then it could be cut
    assert path.with_name("state.sqlite-wal").stat().st_size == before > 20_000_000


def test_readers_read_and_do_not_write(path: Path) -> None:
    db = connect(path, READER)
    assert db.execute("SELECT x FROM t").get == "here"
    with pytest.raises(apsw.ReadOnlyError):
        db.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(apsw.ReadOnlyError):
        open_for_inspection(path).execute("INSERT INTO t VALUES (1)")


def test_a_database_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    db = connect(":memory:")
    db.execute("CREATE TABLE t (x)")
    assert db.pragma("cell_size_check") == 1
    assert list(tmp_path.iterdir()) == []


def test_create_makes_a_missing_file(tmp_path: Path) -> None:
    connect(tmp_path / "new", NEW_FILE, create=True).close()
    assert connect(tmp_path / "new").pragma("journal_mode") == "wal"


def test_a_file_whose_master_was_killed_opens_with_what_its_log_holds(path: Path) -> None:
    db = connect(path, MASTER)
    db.execute("INSERT INTO t VALUES ('in the log alone')")
    copy = path.parent / "copy"
    copy.mkdir()
    for name in ("state.sqlite", "state.sqlite-wal"):
        shutil.copy(path.parent / name, copy)
    assert connect(copy / "state.sqlite").execute("SELECT count(*) FROM t").get == 2


# what is refused


@pytest.mark.parametrize("version", ["3.51.2", "3.7.0", "3.50.99", "2.8.17"])
def test_a_sqlite_that_can_corrupt_the_log_is_refused(version: str) -> None:
    with pytest.raises(StoreError) as refusal:
        check_sqlite_version(version)
    assert refusal.value.what == (
        f"apsw carries SQLite {version}, which can corrupt a WAL file; litebot needs 3.51.3 or"
        " newer"
    )
    assert refusal.value.hint == "pip install --upgrade apsw"


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "3.100.0", "4.0.0"])
def test_a_sqlite_without_that_fault_is_not(version: str) -> None:
    check_sqlite_version(version)


def test_connect_looks_at_the_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(StoreError, match=r"SQLite 3\.51\.2"):
        connect(path)


def refusal_of(path: Path, pragmas: tuple[Pragma, ...] = MASTER) -> StoreError:
    with pytest.raises(StoreError) as refusal:
        connect(path, pragmas, busy_timeout_ms=0)
    return refusal.value


def test_a_missing_file(tmp_path: Path) -> None:
    refusal = refusal_of(tmp_path / "state.sqlite")
    assert refusal.what == f"{tmp_path}/state.sqlite does not exist"
    assert refusal.hint == f"litebot create-master --force {tmp_path}"
    assert list(tmp_path.iterdir()) == []


def not_a_database(path: Path) -> None:
    path.write_text("[database]\n" * 1000)


def overwritten_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0" * 100)


@pytest.mark.parametrize("spoil", [not_a_database, overwritten_header])
def test_a_file_that_is_no_database(path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(path)
    refusal = refusal_of(path)
    assert refusal.what == f"{path} is not a SQLite database"
    assert refusal.hint == "move it away and restore a backup, or create a new basedir"


def overwritten_schema(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3996)


def cut_short(path: Path) -> None:
    with connect(path) as db:
        db.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 100)
    db.close()
    os.truncate(path, 4096)


@pytest.mark.parametrize("spoil", [overwritten_schema, cut_short])
def test_a_damaged_file(path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(path)
    refusal = refusal_of(path)
    assert refusal.what.startswith(f"{path} is damaged: ")
    assert refusal.hint == "restore a backup of it"


def test_a_directory(tmp_path: Path) -> None:
    refusal = refusal_of(tmp_path)
    assert refusal.what == f"{tmp_path} is a folder, not a SQLite database"
    assert refusal.hint == "name a file in it"


def test_a_file_in_use_by_a_program_without_a_log(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE t (x); BEGIN EXCLUSIVE")
    refusal = refusal_of(path)
    assert refusal.what.startswith(f"{path} is locked by another process: ")
    assert refusal.hint == "stop the process that writes to it"


def test_a_file_system_without_shared_memory() -> None:
    # A database in memory can't have a log either, and SQLite answers in the same way.
    refusal = refusal_of(Path(":memory:"))
    assert "can't use a write-ahead log (SQLite answers 'memory')" in refusal.what
    assert refusal.hint == "put the basedir on a local file system"


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (apsw.SQLITE_IOERR_READ, "can't be opened: read of "),
        (apsw.SQLITE_CANTOPEN, "can't be opened for reading and writing"),
        (apsw.SQLITE_PERM, "can't be opened for reading and writing"),
    ],
)
def test_an_operating_system_that_refuses(path: Path, code: int, what: str) -> None:
    with faulty_disk() as disk:
        disk.refuse("read", "state.sqlite", code)
        refusal = refusal_of(path)
    assert what in refusal.what
    assert str(path) in refusal.what


@pytest.mark.parametrize("name", ["state.sqlite", ":memory:"])
def test_a_refusal_leaves_nothing_open(path: Path, name: str) -> None:
    not_a_database(path)
    before = len(apsw.connections())
    refusal = refusal_of(path if name == path.name else Path(name))
    assert len(apsw.connections()) == before
    assert refusal.__traceback__ is not None  # it holds the frames, and what is open in them


# opening for inspection


def test_inspection_changes_nothing_on_disk(path: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    db = open_for_inspection(path)
    assert db.execute("SELECT count(*) FROM t").get == 1
    with pytest.raises(apsw.ReadOnlyError):
        db.execute("INSERT INTO t VALUES (1)")
    db.close()
    assert {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()} == before


def test_inspection_sees_what_is_in_the_log_and_leaves_it_there(path: Path, tmp_path: Path) -> None:
    writer = connect(path)
    writer.execute("INSERT INTO t VALUES (1)")
    db = open_for_inspection(path)
    assert db.execute("SELECT count(*) FROM t").get == 2
    db.close()
    crashed = tmp_path / "crashed"
    shutil.copytree(path.parent, crashed, ignore=shutil.ignore_patterns("crashed"))
    writer.close()
    log = (crashed / f"{path.name}-wal").read_bytes()
    assert log
    db = open_for_inspection(crashed / path.name)
    assert db.execute("SELECT count(*) FROM t").get == 2
    db.close()
    assert (crashed / f"{path.name}-wal").read_bytes() == log


def test_inspection_does_not_wait_for_a_writer(path: Path) -> None:
    writer = connect(path)
    writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
    db = open_for_inspection(path)
    assert db.execute("SELECT count(*) FROM t").get == 1
    db.close()
    writer.close()
