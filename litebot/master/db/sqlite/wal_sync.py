"""Durability "acknowledged": answers to the outside wait for an fsync, but the master never does.

Commits are written to the write-ahead log without a sync.  Whoever is about to acknowledge
something waits for on_disk().  One fdatasync of the log, in a thread, covers all commits made
before it began, so it serves all who wait for those.  Commits that nobody waits for are synced
LAZY_S later.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from buildbot.util.twisted import ThreadPool
from twisted.internet import defer
from twisted.internet import threads
from twisted.python.failure import Failure

from litebot.errors import StoreFailed
from litebot.files import sync
from litebot.master.db.sqlite.commit_watermark import CommitWatermark
from litebot.master.db.sqlite.commit_watermark import Content
from litebot.master.runtime.deferreds import when_fired

LAZY_S = 1.0


class Syncer:
    """Syncs the write-ahead log of a state file.

    `fail` is called with the error of a failed sync, and returns the error for those who wait.
    `watermark` records what is on disk.
    """

    watermark: CommitWatermark | None = None

    def __init__(self, path: Path, reactor: Any, fail: Callable[[Exception], StoreFailed]) -> None:
        self._log = Path(f"{path}-wal")
        self._reactor = reactor
        self._fail = fail
        self._pool = ThreadPool(minthreads=0, maxthreads=1, name="syncs")
        self._pool.start()
        self._fd: int | None = None
        self._committed = 0
        self._on_disk = 0
        self._waiting: list[tuple[int, defer.Deferred[None]]] = []
        self._running: defer.Deferred[Any] | None = None
        self._lazy_timer: Any = None

    def committed(self) -> None:
        """Count a commit, which is to be synced within LAZY_S."""
        self._committed += 1
        if self._lazy_timer is None:
            self._lazy_timer = self._reactor.callLater(LAZY_S, self._sync_lazily)

    def on_disk(self) -> defer.Deferred[None]:
        """Fires when all commits so far will survive a power loss.  Fails with StoreFailed."""
        d: defer.Deferred[None] = defer.Deferred()
        if self._on_disk == self._committed:
            d.callback(None)
        else:
            self._waiting.append((self._committed, d))
            self._start()
        return d

    @defer.inlineCallbacks
    def stop(self) -> Any:
        """Sync what has been committed, and close the log."""
        if self._lazy_timer is not None:
            self._lazy_timer.cancel()
            self._lazy_timer = None
        if self._on_disk < self._committed:
            self._start()
        while self._running is not None:
            yield when_fired(self._running)
        self._pool.stop()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _sync_lazily(self) -> None:
        self._lazy_timer = None
        if self._on_disk < self._committed:
            self._start()

    def _start(self) -> None:
        if self._running is not None:
            return  # when it is done it starts the next one
        content = self.watermark.committed if self.watermark is not None else None
        self._running = threads.deferToThreadPool(self._reactor, self._pool, self._sync, content)
        self._running.addCallbacks(self._synced, self._failed, callbackArgs=(self._committed,))

    def _sync(self, content: Content | None) -> None:
        if self._fd is None:
            self._fd = os.open(self._log, os.O_RDONLY)
            # SQLite syncs the log's entry in its directory when it first syncs the log.  Here it
            # does so after it has written the header of a new log, but never for a log that is left
            # over and that nobody has synced.
            # Source: https://sqlite.org/src/file/src/os_unix.c, unixSync
            sync(self._log.parent)
        os.fdatasync(self._fd)
        if self.watermark is not None and content is not None:
            self.watermark.record(content)

    def _synced(self, _result: None, committed: int) -> None:
        self._running = None
        self._on_disk = committed
        ready = [d for number, d in self._waiting if number <= committed]
        self._waiting = [pair for pair in self._waiting if pair[0] > committed]
        if self._waiting:
            self._start()
        for d in ready:
            d.callback(None)

    def _failed(self, failure: Failure) -> None:
        # After a failed fsync the kernel may have dropped what it could not write, so a second
        # fsync that succeeds proves nothing.  Source: https://wiki.postgresql.org/wiki/Fsync_Errors
        self._running = None
        self._on_disk = self._committed
        waiting, self._waiting = self._waiting, []
        assert isinstance(failure.value, Exception)
        failed = self._fail(failure.value)
        for _, d in waiting:
            d.errback(StoreFailed(failed.what, failed.hint))
