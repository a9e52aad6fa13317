"""Checkpoints the write-ahead log in a thread, because a checkpoint waits for syncs.

The reactor's thread can't wait for them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
from twisted.internet import defer
from twisted.internet import threads
from twisted.python.failure import Failure

from litebot.store import dbapi
from litebot.store.connection import connect

# 4 MiB of log, SQLite's own default.  Source: https://sqlite.org/wal.html#automatic_checkpoint
START_PAGES = 1000
# At 64 MiB of log it has not started over for a long time: wait a little for readers, so that it
# does.
RESTART_PAGES = 16_000
RESTART_WAIT_MS = 100
# At 128 MiB a burst or a long read has made the log larger than a full load does: truncate it.
# That is done here, because a commit that does it (journal_size_limit) blocks the reactor for 40 to
# 140 ms.
TRUNCATE_PAGES = 32_000


class Checkpointer:
    """Watches the log of `handle` and checkpoints it on a connection of its own.

    `on_fatal` is called with the error when a checkpoint fails.
    """

    def __init__(
        self,
        handle: apsw.Connection,
        path: Path,
        reactor: Any,
        on_fatal: Callable[[dbapi.Error], object],
    ) -> None:
        self._path = path
        self._reactor = reactor
        self._on_fatal = on_fatal
        self._connection: apsw.Connection | None = None
        self._running: defer.Deferred[Any] | None = None
        self._pages_at_checkpoint = 0  # the pages that the log had at the last checkpoint
        self._is_log_large = False  # its file, however little of it is in use
        handle.set_wal_hook(self._after_commit)

    def _after_commit(self, _handle: apsw.Connection, _name: str, pages: int) -> int:
        self._is_log_large = self._is_log_large or pages >= TRUNCATE_PAGES
        if pages < self._pages_at_checkpoint:
            self._pages_at_checkpoint = 0  # the log has started over
        # Count from the last checkpoint, even if a busy master has added more pages meanwhile:
        # pages that many builds change are copied once every START_PAGES, and not at every commit.
        if pages >= self._pages_at_checkpoint + START_PAGES and self._running is None:
            self._pages_at_checkpoint = pages
            pool = self._reactor.getThreadPool()
            self._running = threads.deferToThreadPool(self._reactor, pool, self._checkpoint, pages)
            self._running.addCallbacks(self._checkpointed, self._failed)
            self._running.addBoth(self._finished)
        return apsw.SQLITE_OK

    def _checkpoint(self, pages: int) -> bool:
        """Checkpoint in the thread, and return whether the file of the log was truncated."""
        if self._connection is None:
            self._connection = connect(self._path, busy_timeout_ms=RESTART_WAIT_MS)
        mode = apsw.SQLITE_CHECKPOINT_PASSIVE
        if self._is_log_large:
            mode = apsw.SQLITE_CHECKPOINT_TRUNCATE
        elif pages >= RESTART_PAGES:
            mode = apsw.SQLITE_CHECKPOINT_RESTART
        try:
            self._connection.wal_checkpoint(mode=mode)
        except apsw.BusyError:  # a reader or the writer blocks it; try again in START_PAGES
            return False
        return mode == apsw.SQLITE_CHECKPOINT_TRUNCATE

    def _checkpointed(self, was_truncated: bool) -> None:
        if was_truncated:
            self._is_log_large = False

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, apsw.Error):
            error = dbapi.translate(error)
        if not isinstance(error, dbapi.Error):
            error = dbapi.DiskIOError(str(error))
        self._on_fatal(error)

    def _finished(self, _result: None) -> None:
        self._running = None

    @defer.inlineCallbacks
    def stop(self) -> Any:
        """Wait for a running checkpoint, and close the connection."""
        if self._running is not None:
            yield self._running
        if self._connection is not None:
            self._connection.close()
            self._connection = None
