"""Turns of those who work in one folder."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from twisted.internet import defer

# How long one waits for the others: a server that does not answer holds up its own poller alone.
# Git's own locks keep two of its processes in one repository apart, but for the making of it.
# That asks no server, and is waited for.
LONGEST_WAIT_S = 60.0


class Turns:
    """Lets one at a time work in a folder."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._locks: WeakValueDictionary[str, defer.DeferredLock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, folder: str) -> AsyncIterator[None]:
        """Wait until nobody else works in this folder, but not for longer than LONGEST_WAIT_S."""
        lock = self._lock(folder)
        waiting = lock.acquire()
        waiting.addTimeout(LONGEST_WAIT_S, self._clock)
        try:
            await waiting
        except defer.TimeoutError:
            yield
            return
        try:
            yield
        finally:
            lock.release()

    @asynccontextmanager
    async def making(self, folder: str) -> AsyncIterator[None]:
        """Wait until nobody else makes what this folder has in it."""
        lock = self._lock(os.path.join(folder, "making"))
        await lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _lock(self, folder: str) -> defer.DeferredLock:
        return self._locks.setdefault(os.path.realpath(folder), defer.DeferredLock())
