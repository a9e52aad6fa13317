"""TCP ports that tests use."""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

FIRST_PORT, LAST_PORT = 15000, 31999  # below those that the kernel chooses itself
PORTS = 500  # for each process

_locks: list[IO[str]] = []


@functools.cache
def _mine() -> Iterator[int]:
    """Return the ports of this process, repeated for ever.

    No other process of this or another test run has them.  Raises AssertionError if none are left.
    """
    folder = Path(tempfile.gettempdir()) / f"litebot-test-ports-{os.geteuid()}"
    folder.mkdir(exist_ok=True)
    for first in range(FIRST_PORT, LAST_PORT, PORTS):
        lock = (folder / f"{first}").open("w")
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _locks.append(lock)  # it stays open as long as this process runs
            return itertools.cycle(range(first, first + PORTS))
        lock.close()
    raise AssertionError(f"{folder}: all ports are in use")


def free_ports(count: int) -> list[int]:
    """Return TCP ports on which nobody listens on 127.0.0.1, and which no other process gets."""
    found: list[int] = []
    while len(found) < count:
        port = next(_mine())
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found
