"""Moving the write-ahead log into the file, in a thread: a checkpoint syncs, the reactor can't."""

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
# At 64 MiB the log has not started over for long: wait (a little) for readers to make it so.
RESTART_PAGES = 16_000
RESTART_WAIT_MS = 100
# At 128 MiB a burst or a long read has made it larger than a full load does: give the space back,
# here, as a commit that does (journal_size_limit) takes 40 to 140 ms of the reactor's time.
TRUNCATE_PAGES = 32_000


class Checkpointer:
    """Watches the log of `handle` grow and checkpoints it on a connection of its own."""

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
        self._own: apsw.Connection | None = None
        self._running: defer.Deferred[Any] | None = None
        self._started_at = 0  # pages of the log at the last one
        self._is_large = False  # the log's file; what is in it may have started over
        handle.set_wal_hook(self._after_commit)

    def _after_commit(self, _handle: apsw.Connection, _name: str, pages: int) -> int:
        self._is_large = self._is_large or pages >= TRUNCATE_PAGES
        if pages < self._started_at:
            self._started_at = 0  # the log has started over
        # Counted from the last one, which a busy master has outrun already: what many builds
        # change is copied once in so many pages, not at every commit from then on.
        if pages >= self._started_at + START_PAGES and self._running is None:
            self._started_at = pages
            pool = self._reactor.getThreadPool()
            self._running = threads.deferToThreadPool(self._reactor, pool, self._checkpoint, pages)
            self._running.addCallbacks(self._checkpointed, self._failed)
            self._running.addBoth(self._finished)
        return apsw.SQLITE_OK

    def _checkpoint(self, pages: int) -> bool:
        """Whether the log was cut."""
        if self._own is None:
            self._own = connect(self._path, busy_timeout_ms=RESTART_WAIT_MS)
        mode = apsw.SQLITE_CHECKPOINT_PASSIVE
        if self._is_large:
            mode = apsw.SQLITE_CHECKPOINT_TRUNCATE
        elif pages >= RESTART_PAGES:
            mode = apsw.SQLITE_CHECKPOINT_RESTART
        try:
            self._own.wal_checkpoint(mode=mode)
        except apsw.BusyError:  # a reader or the writer was in the way; again in START_PAGES
            return False
        return mode == apsw.SQLITE_CHECKPOINT_TRUNCATE

    def _checkpointed(self, is_cut: bool) -> None:
        if is_cut:
            self._is_large = False

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
        """Wait for a running checkpoint and close."""
        if self._running is not None:
            yield self._running
        if self._own is not None:
            self._own.close()
            self._own = None
