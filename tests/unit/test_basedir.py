"""Who owns a basedir, as the lock file tells."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from litebot.basedir import Basedir
from litebot.basedir import OwnerLock


@pytest.fixture
def files(tmp_path: Path) -> Basedir:
    return Basedir(tmp_path)


@pytest.fixture
def held(files: Basedir) -> Iterator[int]:
    """The lock, of one who has not said who it is."""
    fd = os.open(files.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield fd
    os.close(fd)


def test_one_who_is_letting_go_is_waited_for(files: Basedir, held: int) -> None:
    threading.Timer(0.1, fcntl.flock, [held, fcntl.LOCK_UN]).start()
    assert files.owner() is None


def test_one_who_has_just_come_is_waited_for(files: Basedir, held: int) -> None:
    says = b'{"pid": 4711, "started_at": 1.5}'
    threading.Timer(0.1, os.pwrite, [held, says, 0]).start()
    owner = files.owner()
    assert owner is not None
    assert owner.pid == 4711


def test_the_lock_says_who_has_it_until_it_is_released(files: Basedir) -> None:
    assert files.owner() is None
    lock = OwnerLock(files)
    owner = files.owner()
    assert owner is not None
    assert owner.pid == os.getpid()
    lock.release()
    assert files.owner() is None
