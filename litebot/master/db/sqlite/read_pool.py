"""Read-only connections to the state file: inline, on the reactor's thread, or in threads."""

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

# How often SQLite asks whether a glance goes on (in steps of its virtual machine: about each row),
# and for how long it does.
INLINE_READ_STEPS = 50


INLINE_READ_S = 0.004


# For how long none begins after one that took longer, so that those cost builds next to nothing.
INLINE_READ_AGAIN_S = 0.2


class InlineReadRefused(Exception):
    """It has to go to a thread at once."""


class SqliteReader:
    """A Reader of the state file."""

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
    """For the reactor's thread: a read that takes over INLINE_READ_S, or would wait, fails."""

    def __init__(self, path: Path, counts: Counts) -> None:
        super().__init__(path, counts)
        self._ends_at = math.inf
        self._handle.set_busy_timeout(0)
        self._handle.set_progress_handler(self.is_over, INLINE_READ_STEPS)

    def begin(self) -> None:
        super().begin()
        self._ends_at = time.monotonic() + INLINE_READ_S

    def end(self) -> None:
        # SQLite counts the steps of all statements together: ROLLBACK, too, would be interrupted,
        # and an old snapshot keeps the log from ever being emptied.
        self._ends_at = math.inf
        super().end()

    def is_over(self) -> bool:
        """Whether what has begun takes too long."""
        return time.monotonic() > self._ends_at


class SqliteReadPool(ReadPool):
    """Of the state file.  What writes fails with ReadOnlyError (`orig` of SQLAlchemy's error)."""

    def __init__(self, path: Path, reactor: Any) -> None:
        super().__init__(reactor)
        self._path = path
        self._counts: Counts = {}
        self._inline: InlineReader | None = None
        self._inline_from = 0.0

    def read_inline(self, callable: Callable[..., Any], *args: Any) -> Any:
        """As run_sql, but at once, on the reactor's thread; the result.  May fail half-way.

        Fails with InlineReadRefused for a while after one that took too long.
        """
        if time.monotonic() < self._inline_from:
            raise InlineReadRefused
        if self._inline is None:
            self._inline = InlineReader(self._path, self._counts)
        try:
            self._inline.begin()
            return self._inline.run_sql(callable, *args)
        except Exception:
            if self._inline.is_over():
                self._inline_from = time.monotonic() + INLINE_READ_AGAIN_S
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
