"""Read-only connections to the state file, inline on the reactor's thread or in threads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from litebot.master.db.read_pool import Reader
from litebot.master.db.read_pool import ReadPool
from litebot.store.connection import READER
from litebot.store.connection import connect
from litebot.store.dialect import engine_on
from litebot.store.sql import CountingSql
from litebot.store.sql import Counts

# SQLite asks after so many steps of its virtual machine, at about each row, whether an inline read
# has timed out.
INLINE_READ_STEPS = 50
# How long an inline read may take.
INLINE_READ_S = 0.004
# No inline read begins for this long after one that timed out, so that slow reads cost builds next
# to nothing.
INLINE_READ_PAUSE_S = 0.2


class InlineReadRefused(Exception):
    """Inline reads are paused; the work must run in a thread."""


class SqliteReader:
    """A `Reader` of the state file."""

    def __init__(self, path: Path, counts: Counts) -> None:
        self._handle = connect(path, READER)
        self.engine = engine_on(self._handle)
        self._sql = CountingSql(self._handle, self.engine, counts)
        self.run_sql = self._sql.run
        self.interrupt = self._handle.interrupt
        self.close = self._handle.close

    def begin(self) -> None:
        self._handle.execute("BEGIN")

    def end(self) -> None:
        if self._handle.in_transaction:
            self._handle.execute("ROLLBACK")


class InlineReader(SqliteReader):
    """A reader on the reactor's thread: reads that take over INLINE_READ_S, or must wait, fail."""

    def __init__(self, path: Path, counts: Counts) -> None:
        super().__init__(path, counts)
        self._ends_at = math.inf
        self._handle.set_busy_timeout(0)
        self._handle.set_progress_handler(self.has_timed_out, INLINE_READ_STEPS)

    def begin(self) -> None:
        super().begin()
        self._ends_at = time.monotonic() + INLINE_READ_S

    def end(self) -> None:
        # SQLite counts the steps of all statements together, so ROLLBACK would be interrupted too;
        # and an old snapshot would keep the log from ever starting over.
        self._ends_at = math.inf
        super().end()

    def has_timed_out(self) -> bool:
        """Whether the current read has taken over INLINE_READ_S."""
        return time.monotonic() > self._ends_at


class SqliteReadPool(ReadPool):
    """The ReadPool of a state file.

    Work that writes fails with ReadOnlyError (`orig` of SQLAlchemy's error).
    """

    def __init__(self, path: Path, reactor: Any) -> None:
        super().__init__(reactor)
        self._path = path
        self._counts: Counts = {}
        self._inline: InlineReader | None = None
        self._inline_allowed_at = 0.0

    def read_inline(self, callable: Callable[..., Any], *args: Any) -> Any:
        """Like run_sql, but at once, on the reactor's thread; return the result.

        Raises an error when the read times out, and InlineReadRefused for INLINE_READ_PAUSE_S after
        that.
        """
        if time.monotonic() < self._inline_allowed_at:
            raise InlineReadRefused
        if self._inline is None:
            self._inline = InlineReader(self._path, self._counts)
        try:
            self._inline.begin()
            return self._inline.run_sql(callable, *args)
        except Exception:
            if self._inline.has_timed_out():
                self._inline_allowed_at = time.monotonic() + INLINE_READ_PAUSE_S
            raise
        finally:
            self._inline.end()

    def stop(self) -> None:
        super().stop()
        if self._inline is not None:
            self._inline.close()
            self._inline = None

    def _open(self) -> Reader:
        return SqliteReader(self._path, self._counts)
