"""The disk refuses the n-th call of a run of the store: once, or from then on.

LITEBOT_DISK_CALLS says how many n of each kind are tried, evenly spread: 0 tries every one;
LITEBOT_DISK_SEED repeats a run.
"""

from __future__ import annotations

import errno
import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from litebot.errors import LitebotError
from litebot.errors import StoreFailed
from litebot.master.db.sqlite import checkpointer
from litebot.master.db.sqlite import wal_sync
from litebot.master.runtime.error_log import store_failed
from litebot.store import dbapi
from support.faulty_vfs import FaultyDisk
from support.faulty_vfs import faulty_disk
from support.stand_in import Log
from support.store_work import Work
from support.worlds import World
from support.worlds import litebots

CALLS = int(os.environ.get("LITEBOT_DISK_CALLS", "3"))
SEED = int(os.environ.get("LITEBOT_DISK_SEED") or random.SystemRandom().randrange(10**6))

FULL, REFUSED = "no space is left to write it", "the operating system refused to read or write it"
FAULTS = {
    "full": ("write", apsw.SQLITE_FULL, FULL),
    "write": ("write", apsw.SQLITE_IOERR_WRITE, REFUSED),
    "read": ("read", apsw.SQLITE_IOERR_READ, REFUSED),
    "sync": ("sync", apsw.SQLITE_IOERR_FSYNC, REFUSED),
    "truncate": ("truncate", apsw.SQLITE_IOERR_TRUNCATE, REFUSED),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(120 if CALLS else 3600),
]


class Run:
    """The store on a file, with the same work each time, until that ends or the disk fails."""

    def __init__(self, path: Path, template: Path, durability: str) -> None:
        self.path = path
        self.acknowledged: list[str] = []
        self.failures: list[StoreFailed] = []
        self.error: Exception | None = None
        try:
            world = litebots(path, template, durability=durability, on_failure=self.failures.append)
        except (LitebotError, dbapi.Error) as error:
            self.error = error  # it could not even start
            return
        self._work(world)

    def _work(self, world: World) -> None:
        work = Work(world, random.Random(1))
        self.acknowledged = work.acknowledged
        try:
            work.build("first")
            work.build("second")
            world.call(world.db.on_disk)
        except (StoreFailed, dbapi.Error) as error:
            self.error = error
        if self.failures:
            late = world.ask(world.updates.addChange, author="Ada", revision="late")
            world.reactor.run_now(lambda: late.called)
            assert isinstance(late.error, StoreFailed)
        self._close(world)

    def _close(self, world: World) -> None:
        """However the disk is; what cannot be written any more is refused."""
        try:
            world.close()
        except (StoreFailed, dbapi.Error, apsw.Error) as error:
            self.error = self.error or error


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointer, "START_PAGES", 15)


@pytest.fixture(autouse=True)
def _only_echoes_are_logged(logged: Log) -> Iterator[None]:
    """Of work that was refused, where nobody waits for it."""
    yield
    gc.collect()
    errors = [event["failure"].value for event in logged if "failure" in event]
    logged.clear()
    assert [error for error in errors if store_failed(error) is None] == []


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    with faulty_disk() as disk:
        yield disk


def spread(total: int) -> list[int]:
    """Numbers below `total`, CALLS of them from a random one on, or all."""
    step = max(1, total // CALLS) if CALLS else 1
    return list(range(random.Random(SEED).randrange(step), total, step))


def content(path: Path) -> set[str]:
    """The revisions that are there; everything about the file is sound."""
    db = apsw.Connection(str(path / "state.sqlite"))
    try:
        assert db.pragma("integrity_check") == "ok"
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        return {row[0] for row in db.execute("SELECT revision FROM changes")}
    finally:
        db.close()


def check(run: Run, message: str) -> None:
    """It has stopped with one message, or it went well; and the next one goes on from there."""
    for failure in run.failures:
        assert message in failure.what
        assert failure.hint
    assert len(run.failures) <= 1
    if run.error is None and not run.failures:
        assert set(run.acknowledged) == {"first", "second"}
    assert set(run.acknowledged) <= content(run.path)


def goes_on(run: Run, template: Path, durability: str) -> None:
    """The next start, on a disk that works."""
    again = Run(run.path, template, durability)
    assert (again.failures, again.error, again.acknowledged) == ([], None, ["first", "second"])
    assert set(run.acknowledged) <= content(run.path)


@pytest.mark.parametrize("once", [True, False], ids=["once", "from then on"])
@pytest.mark.parametrize("durability", ["acknowledged", "commit"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_disk_refuses(
    disk: FaultyDisk,
    template: Path,
    tmp_path: Path,
    fault: str,
    durability: str,
    *,
    once: bool,
) -> None:
    operation, code, message = FAULTS[fault]
    assert Run(tmp_path / "all", template, durability).error is None
    total, stopped = disk.calls[operation], 0
    print(f"LITEBOT_DISK_SEED={SEED}: {total} calls")
    for number in spread(total):
        disk.refuse(operation, "", code, after=number, once=once)
        before = disk.refused
        run = Run(tmp_path / f"{number}", template, durability)
        disk.heal()
        assert disk.refused > before
        stopped += bool(run.failures)
        check(run, message)
        goes_on(run, template, durability)
    assert stopped or operation == "truncate"


class RefusingSyncs:
    """The module os as the syncer sees it; the n-th fdatasync, and those after it, fail."""

    def __init__(self, after: int, number: int) -> None:
        self.left = after
        self._errno = number

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fdatasync(self, fd: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(self._errno, os.strerror(self._errno))
        os.fdatasync(fd)


@pytest.mark.parametrize(("number", "message"), [(errno.EIO, REFUSED), (errno.ENOSPC, FULL)])
def test_the_disk_refuses_a_sync_of_the_log(
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    message: str,
) -> None:
    for after in range(20):
        os_ = RefusingSyncs(after, number)
        monkeypatch.setattr(wal_sync, "os", os_)
        run = Run(tmp_path / f"{after}", template, "acknowledged")
        monkeypatch.setattr(wal_sync, "os", os)
        check(run, message)
        assert bool(run.failures) is (os_.left < 0)
        if os_.left >= 0:
            break
    assert after > 3
