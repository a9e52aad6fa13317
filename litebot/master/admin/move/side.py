"""The interface of a database to a copy or move, for SQLite and Postgres alike."""

from __future__ import annotations

from abc import ABC
from abc import abstractmethod
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import AbstractContextManager

import sqlalchemy as sa

from litebot.master.admin.move.tables import Moved
from litebot.master.admin.move.tables import Row
from litebot.master.db import schema


class Side(ABC):
    """The source or the target of a copy or move.  Any method may raise StoreError."""

    # What messages call it; never with a password.
    name: str
    engine: sa.Engine

    @abstractmethod
    def translated_errors(self) -> AbstractContextManager[None]:
        """Return a context manager that raises errors of the database or driver as StoreError."""

    @abstractmethod
    def identity(self) -> str:
        """Return a text that is the same for two sides if they are one database, however named."""

    @abstractmethod
    def refuse_users(self) -> None:
        """Raise StoreError while another program may write to it, as far as that can be seen.

        May wait a few seconds for such a program to disconnect, and may end the snapshot of
        take_snapshot().
        """

    @abstractmethod
    def tables(self) -> set[str]:
        """Return the names of the tables in it; on Postgres also those of views."""

    def require_current(self, basedir: str) -> None:
        """Raise StoreError if the tables are not those of this Buildbot and this litebot.

        `basedir` is quoted for a shell.
        """
        with self.translated_errors(), self.engine.connect() as conn:
            schema.require_current(conn, self.name, basedir)

    @abstractmethod
    def mark(self, tables: list[Moved]) -> str:
        """Return a mark of the content: after a write it is never the same again."""

    @abstractmethod
    def take_snapshot(self) -> None:
        """Begin a new snapshot, from which everything is read until the next call."""

    @abstractmethod
    def count(self, table: Moved) -> int:
        """Return how many rows of a table are to be copied."""

    @abstractmethod
    def rows(self, table: Moved, skip: int = 0) -> Iterator[Row]:
        """Yield the rows to copy in the table's order, as they are read; omit the first `skip`."""

    @abstractmethod
    def write(self, table: Moved, batches: Iterable[list[Row]]) -> None:
        """Write rows in one transaction, as they come; until sync() a power loss may undo it."""

    @abstractmethod
    def definitions(self) -> list[tuple[str, str]]:
        """Return the statements that drop and create each index and reference.

        These slow writing.
        """

    @abstractmethod
    def wipe(self, tables: list[Moved]) -> None:
        """Remove what an unfinished copy or move has left."""

    @abstractmethod
    def settle(self, conn: sa.engine.Connection, tables: list[Moved]) -> None:
        """Let the numbers of new rows continue after those of the rows that are there."""

    @abstractmethod
    def analyze(self) -> None:
        """Update the statistics of the query planner, if this kind of database needs that."""

    @abstractmethod
    def sync(self) -> None:
        """Put everything written so far on disk; return when it is there."""

    @abstractmethod
    def announce(self, url: str, master: str) -> None:
        """Record in a source, so that others don't use it, that `master` moves it to `url`."""

    @abstractmethod
    def take_back(self) -> None:
        """Remove the record of announce(): others may use the source again."""

    @abstractmethod
    def put_aside(self, url: str, master: str) -> str:
        """Make sure that nobody uses a source any more; return where it is from now on."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections to it."""
