"""What a copy or a move needs of a database, whichever kind it is."""

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
    """A database that is copied or moved from or to.  Its methods raise StoreError."""

    # What it is called in messages; no password.
    name: str
    engine: sa.Engine

    @abstractmethod
    def translated_errors(self) -> AbstractContextManager[None]:
        """Within it what the database or its driver refuses is raised as a StoreError."""

    @abstractmethod
    def identity(self) -> str:
        """The same for two sides that are one database, however they are called."""

    @abstractmethod
    def refuse_users(self) -> None:
        """Raise StoreError while somebody else may write to it, where that can be told.

        What take_snapshot() holds is let go.
        """

    @abstractmethod
    def tables(self) -> set[str]:
        """The names of the tables in it."""

    def require_current(self, basedir: str) -> None:
        """Raise StoreError where the tables are not those of this Buildbot and this litebot.

        `basedir` is quoted for a shell.
        """
        with self.translated_errors(), self.engine.connect() as conn:
            schema.require_current(conn, self.name, basedir)

    @abstractmethod
    def mark(self, tables: list[Moved]) -> str:
        """Something that is never the same again once somebody has written to it."""

    @abstractmethod
    def take_snapshot(self) -> None:
        """Make all that is read from now on, until the next call, one new snapshot."""

    @abstractmethod
    def count(self, table: Moved) -> int:
        """How many rows a table has that are copied."""

    @abstractmethod
    def rows(self, table: Moved, skip: int = 0) -> Iterator[Row]:
        """The rows that are copied in the table's order, as they come, without the first `skip`."""

    @abstractmethod
    def write(self, table: Moved, batches: Iterable[list[Row]]) -> None:
        """Add rows in one transaction, as they come; a power loss may take it until sync()."""

    @abstractmethod
    def definitions(self) -> list[tuple[str, str]]:
        """What slows the writing: for each index and reference how to drop it and to make it."""

    @abstractmethod
    def wipe(self, tables: list[Moved]) -> None:
        """Remove what an unfinished copy or move left."""

    @abstractmethod
    def settle(self, conn: sa.engine.Connection, tables: list[Moved]) -> None:
        """Have new rows numbered on from those that are there."""

    @abstractmethod
    def analyze(self) -> None:
        """Let the planner know what tables hold now, where it has to be told."""

    @abstractmethod
    def sync(self) -> None:
        """Return when all that was written is on disk."""

    @abstractmethod
    def announce(self, url: str, master: str) -> None:
        """Have others leave a source alone, as `master` is about to use the one at `url`."""

    @abstractmethod
    def take_back(self) -> None:
        """Let them use it again."""

    @abstractmethod
    def put_aside(self, url: str, master: str) -> str:
        """See to it that nobody uses a source any more; where it is from now on."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""
