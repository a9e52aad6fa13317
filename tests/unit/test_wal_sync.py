"""Durability "acknowledged": whoever waits hears of an fsync that began after the commit."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from litebot import files
from litebot.errors import StoreFailed
from litebot.master.db.sqlite import commit_watermark
from litebot.master.db.sqlite import wal_sync
from litebot.master.db.sqlite.state_file import make_state_file
from litebot.master.db.sqlite.turn_queue import TurnQueue
from litebot.master.db.sqlite.wal_sync import LAZY_S
from litebot.store.connection import DURABILITY
from litebot.store.connection import MASTER
from litebot.store.connection import connect
from litebot.store.dialect import engine_for
from litebot.store.sql import Sql
from support.stand_in import PATIENCE_S
from support.stand_in import Asked
from support.stand_in import Reactor

pytestmark = pytest.mark.usefixtures("logged")


class Disk:
    """What the syncer and files see as os: its fdatasync waits until the test lets it go on."""

    O_RDONLY = os.O_RDONLY
    O_CLOEXEC = os.O_CLOEXEC
    open = staticmethod(os.open)
    close = staticmethod(os.close)

    def __init__(self) -> None:
        self.began = 0  # fdatasyncs
        self.ended = 0
        self.synced: list[str] = []  # the names of what was synced, in order
        self.threads: set[int] = set()
        self.is_slow = False
        self.error: OSError | None = None
        self._begun = threading.Semaphore(0)
        self._go_on = threading.Semaphore(0)

    def fsync(self, fd: int) -> None:
        self._note(fd)
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        self.began += 1
        self._begun.release()
        if self.is_slow:
            assert self._go_on.acquire(timeout=PATIENCE_S)
        if self.error is not None:
            raise self.error
        os.fdatasync(fd)
        self._note(fd)
        self.ended += 1

    def _note(self, fd: int) -> None:
        self.synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        self.threads.add(threading.get_ident())

    def wait_for_begin(self) -> None:
        assert self._begun.acquire(timeout=PATIENCE_S)

    def let_go_on(self) -> None:
        self._go_on.release()


class Store:
    """A turn queue whose commits do not sync."""

    def __init__(self, reactor: Reactor, path: Path) -> None:
        self.reactor = reactor
        self.failures: list[StoreFailed] = []
        handle = connect(path, MASTER + DURABILITY["acknowledged"], busy_timeout_ms=0)
        self.queue = TurnQueue(handle, reactor, path, self.failures.append, sync_later=True)
        self.queue.start()

    def commit(self, value: object = "x") -> None:
        asked = Asked(self.queue.do_sql(insert, value))
        self.reactor.run_now(lambda: asked.called)
        assert asked.error is None

    def ask(self) -> Asked:
        return Asked(self.queue.on_disk())

    def wait(self, asked: Asked) -> None:
        self.reactor.run_now(lambda: asked.called)

    def stop(self) -> None:
        self.wait(Asked(self.queue.stop()))


def insert(sql: Sql, value: object) -> None:
    sql.write("INSERT INTO t (x) VALUES (?)", value)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    for module in (wal_sync, files):
        monkeypatch.setattr(module, "os", disk)
    return disk


@pytest.fixture
def store(path: Path, disk: Disk) -> Iterator[Store]:
    store = Store(Reactor(), path)
    yield store
    disk.is_slow = False
    disk.let_go_on()
    store.stop()


def test_what_is_on_disk_already(store: Store, disk: Disk) -> None:
    assert store.ask().called
    store.commit()
    store.wait(store.ask())
    assert store.ask().called
    assert disk.began == 1


def test_a_read_needs_no_sync(store: Store, disk: Disk) -> None:
    asked = Asked(store.queue.do_sql(lambda sql: sql.rows("SELECT * FROM t")))
    store.wait(asked)
    assert store.ask().called
    assert (disk.began, store.reactor.timers) == (0, [])


def test_one_sync_for_many(store: Store, disk: Disk) -> None:
    for n in range(10):
        store.commit(n)
    waiting = [store.ask() for _ in range(10)]
    assert not any(asked.called for asked in waiting)
    for asked in waiting:
        store.wait(asked)
    assert disk.began == 1


def test_nobody_hears_of_it_early(store: Store, disk: Disk) -> None:
    disk.is_slow = True
    store.commit()
    first = store.ask()
    disk.wait_for_begin()
    store.reactor.turn()
    assert not first.called
    disk.let_go_on()
    store.wait(first)
    assert disk.ended == 1


def test_a_commit_during_a_sync_waits_for_the_next(store: Store, disk: Disk) -> None:
    disk.is_slow = True
    store.commit("a")
    first = store.ask()
    disk.wait_for_begin()
    same = store.ask()  # nothing was committed since that sync began
    store.commit("b")  # the reactor is not blocked meanwhile
    late = [store.ask(), store.ask()]
    disk.let_go_on()
    store.wait(first)
    assert same.called
    assert not late[0].called
    disk.wait_for_begin()
    assert disk.began == 2
    store.commit("c")
    third = store.ask()
    disk.let_go_on()
    store.wait(late[0])
    assert late[1].called
    assert not third.called
    disk.wait_for_begin()
    disk.let_go_on()
    store.wait(third)
    assert (disk.began, disk.ended) == (3, 3)


def test_syncs_run_in_a_thread_and_name_the_new_log_in_its_directory(
    store: Store, disk: Disk, path: Path
) -> None:
    for n in range(2):
        store.commit(n)
        store.wait(store.ask())
    log = f"{path.name}-wal"
    assert disk.synced == [path.parent.name, log, log]
    assert threading.get_ident() not in disk.threads


def test_what_nobody_waits_for_is_synced_soon(store: Store, disk: Disk) -> None:
    store.commit("a")
    store.reactor.advance(LAZY_S * 0.9)
    store.commit("b")  # does not put it off
    assert disk.began == 0
    store.reactor.advance(LAZY_S * 0.11)
    disk.wait_for_begin()
    asked = store.ask()  # the one that runs is enough
    store.wait(asked)
    assert disk.began == 1
    assert store.reactor.timers == []


def test_what_was_waited_for_is_not_synced_again(store: Store, disk: Disk) -> None:
    store.commit()
    store.wait(store.ask())
    store.reactor.advance(LAZY_S * 1.1)
    assert (disk.began, store.reactor.timers) == (1, [])


@pytest.mark.parametrize("syncing", [False, True])
def test_stopping_syncs_the_rest(path: Path, disk: Disk, syncing: bool) -> None:
    store = Store(Reactor(), path)
    store.commit("a")
    disk.is_slow = syncing
    first = store.ask() if syncing else None
    if syncing:
        disk.wait_for_begin()
        store.commit("b")
    last = store.ask()
    stopping = Asked(store.queue.stop())
    assert not stopping.called
    for _ in range(2):
        disk.let_go_on()
    store.wait(stopping)
    assert last.called
    assert first is None or first.called
    assert disk.ended == 1 + syncing
    assert store.reactor.timers == []


def test_a_sync_that_fails(store: Store, disk: Disk) -> None:
    disk.is_slow = True
    disk.error = OSError(errno.EIO, "Input/output error")
    store.commit("a")
    first = store.ask()
    disk.wait_for_begin()
    store.commit("b")
    late = store.ask()
    disk.let_go_on()
    store.wait(first)
    assert len(store.failures) == 1
    assert "Input/output error" in str(store.failures[0])
    # A second fsync may succeed without having written what the first could not.
    disk.error = None
    disk.let_go_on()
    after = [late, store.ask(), Asked(store.queue.do_sql(insert, "c"))]
    for asked in (first, *after):
        assert isinstance(asked.error, StoreFailed)
        assert asked.error.what == store.failures[0].what
    assert disk.began == 1
    errors: list[Any] = [asked.error for asked in (first, *after)]
    assert len({id(error) for error in errors}) == len(errors)
    store.stop()
    assert disk.began == 1


def test_a_log_that_can_t_be_opened(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    store = Store(Reactor(), path)
    monkeypatch.setattr(disk, "open", refuse, raising=False)
    store.commit()
    asked = store.ask()
    store.wait(asked)
    assert isinstance(asked.error, StoreFailed)
    assert "Too many open files" in str(store.failures[0])
    store.stop()


def test_without_it_nobody_waits(path: Path, disk: Disk) -> None:
    reactor = Reactor()
    handle = connect(path, MASTER + DURABILITY["commit"], busy_timeout_ms=0)
    queue = TurnQueue(handle, reactor, path)
    queue.start()
    asked = Asked(queue.do_sql(insert, "a"))
    reactor.run_now(lambda: asked.called)
    assert Asked(queue.on_disk()).called
    assert (disk.began, reactor.timers) == (0, [])
    stopping = Asked(queue.stop())
    reactor.run_now(lambda: stopping.called)


def kept(path: Path) -> int:
    """How many commits are on disk by the commit watermark."""
    content = commit_watermark.read(path)
    assert content is not None
    return content.commits


def keep_a_watermark(path: Path, queue: TurnQueue) -> int:
    """Have this queue keep one; how many commits there were before."""
    with engine_for(path).connect() as conn:
        content = commit_watermark.content_of(conn)
    assert content is not None
    queue.count_commits(commit_watermark.CommitWatermark(path, content))
    return content.commits


def add_user(sql: Sql, name: str) -> None:
    sql.write("INSERT INTO users (identifier) VALUES (?)", name)


def test_the_watermark_never_runs_ahead_of_the_disk(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "state.sqlite"
    make_state_file(path)
    store = Store(Reactor(), path)
    before = keep_a_watermark(path, store.queue)
    disk.is_slow = True
    store.wait(Asked(store.queue.do_sql(add_user, "a")))
    first = store.ask()
    disk.wait_for_begin()
    store.wait(Asked(store.queue.do_sql(add_user, "b")))
    store.wait(Asked(store.queue.do_sql(lambda sql: sql.rows("SELECT * FROM users"))))
    assert kept(path) == before
    disk.let_go_on()
    store.wait(first)
    assert kept(path) == before + 1
    disk.is_slow = False
    store.stop()
    assert kept(path) == before + 2
    assert disk.synced.count("state.sqlite-tally") == 0


def test_without_syncs_the_watermark_follows_each_commit(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    make_state_file(path)
    reactor = Reactor()
    queue = TurnQueue(
        connect(path, MASTER + DURABILITY["process"], busy_timeout_ms=0), reactor, path
    )
    before = keep_a_watermark(path, queue)
    queue.start()
    asked = Asked(queue.do_sql(add_user, "a"))
    reactor.run_now(lambda: asked.called)
    assert kept(path) == before + 1
    stopping = Asked(queue.stop())
    reactor.run_now(lambda: stopping.called)
