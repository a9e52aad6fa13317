"""Moving the write-ahead log into the file, beside the turns."""

from __future__ import annotations

import gc
from pathlib import Path

import apsw
import pytest

from litebot.master.db.sqlite import checkpointer
from litebot.store.connection import connect
from support.faulty_vfs import FaultyDisk
from support.turning import Connection
from support.turning import Store
from support.turning import expect_failure
from support.turning import keep

pytestmark = pytest.mark.usefixtures("logged")


def log_pages(path: Path) -> int:
    return path.with_name(path.name + "-wal").stat().st_size // (4096 + 24)


def grown_behind_a_reader(store: Store, path: Path) -> apsw.Connection:
    """Let the log grow while somebody reads what was there before."""
    reader = connect(path)
    reader.execute("BEGIN; SELECT * FROM t").fetchall()
    for n in range(30):
        store.wait(store.do(keep, f"{n}" * 40_000))
        store.reactor.settle()
    assert log_pages(path) > 300
    return reader


def test_the_log_is_moved_into_the_file(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "START_PAGES", 50)
    size_bytes = path.stat().st_size
    most = 0
    for n in range(30):
        store.wait(store.do(keep, f"{n}" * 40_000))
        store.reactor.settle()
        most = max(most, log_pages(path))
    assert 50 <= most < 150  # it starts over
    assert path.stat().st_size > size_bytes + 500_000


def test_what_was_not_read_to_its_end_holds_no_checkpoint(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "START_PAGES", 50)

    def read_one_and_keep(conn: Connection, value: str) -> object:
        found = conn.exec_driver_sql("SELECT x FROM t ORDER BY id").fetchone()
        keep(conn, value)
        return found

    gc.disable()  # it would close what nobody refers to any more, at some time
    try:
        most = 0
        for n in range(30):
            store.wait(store.do(read_one_and_keep, f"{n}" * 40_000))
            store.reactor.settle()
            most = max(most, log_pages(path))
    finally:
        gc.enable()
    assert most < 150  # it starts over


def test_a_reader_does_not_let_the_log_grow_for_ever(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "START_PAGES", 50)
    reader = grown_behind_a_reader(store, path)
    reader.execute("ROLLBACK")
    for n in range(3):
        store.wait(store.do(keep, f"after {n}"))
        store.reactor.settle()
    before = log_pages(path)
    store.wait(store.do(keep, "x" * 40_000))
    assert log_pages(path) == before  # written over its beginning
    assert store.failures == []


def test_a_log_that_became_large_gives_its_space_back(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "START_PAGES", 50)
    monkeypatch.setattr(checkpointer, "TRUNCATE_PAGES", 300)
    reader = grown_behind_a_reader(store, path)
    reader.execute("ROLLBACK")
    # All of the log can be moved, but somebody reads it: it starts over, and its file stays.
    store.wait(store.do(keep, "before" * 60_000))
    last = connect(path)
    last.execute("BEGIN; SELECT * FROM t").fetchall()
    store.reactor.settle()
    assert log_pages(path) > 300
    last.execute("ROLLBACK")
    for n in range(12):
        store.wait(store.do(keep, f"after {n}" * 5_000))
        store.reactor.settle()
    assert log_pages(path) < 150
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
    monkeypatch.setattr(checkpointer, "START_PAGES", 1)
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
    monkeypatch.setattr(checkpointer, "START_PAGES", 1)
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
    monkeypatch.setattr(checkpointer, "START_PAGES", 1)
    monkeypatch.setattr(checkpointer, "RESTART_PAGES", 1)
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
