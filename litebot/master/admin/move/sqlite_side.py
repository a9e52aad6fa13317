"""A state file as one side of a copy or move."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import sqlalchemy as sa

from litebot.errors import StoreError
from litebot.files import sync
from litebot.master.admin.move.side import Side
from litebot.master.admin.move.tables import Moved
from litebot.master.admin.move.tables import Row
from litebot.master.db.sqlite.state_file import create_file
from litebot.store.connection import checkpoint_at_64_mib
from litebot.store.connection import connect
from litebot.store.connection import keep_log_on_close
from litebot.store.connection import open_for_inspection
from litebot.store.connection import query_only
from litebot.store.connection import refusal
from litebot.store.connection import sort_in_files
from litebot.store.connection import sync_at_checkpoints
from litebot.store.dialect import engine_on

SOURCE = (sort_in_files, query_only, keep_log_on_close)
TARGET = (sort_in_files, sync_at_checkpoints, checkpoint_at_64_mib)


class SqliteSide(Side):
    """A state file.  A target is created if it does not exist; a source is not changed.

    In a `dry_run` nothing on disk is touched, and the file must exist.
    """

    def __init__(self, path: Path, *, target: bool, dry_run: bool = False) -> None:
        """Open it.  Raises StoreError, and OSError if it can't be created."""
        self.path = path
        self.name = str(path)
        self._dry_run = dry_run
        self._pragmas = TARGET if target else SOURCE
        if target and not dry_run and not path.exists():
            create_file(path)
        self._open()

    def _open(self) -> None:
        if self._dry_run:
            self.handle = open_for_inspection(self.path, stopped=True)
            sort_in_files(self.handle)
        else:
            self.handle = connect(self.path, self._pragmas)
        self.engine = engine_on(self.handle)

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        try:
            yield
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise refusal(self.path, error) from error
        except (apsw.Error, sa.exc.DBAPIError) as error:
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            raise StoreError(
                f"{self.path}: {cause}", f"df {shlex.quote(str(self.path.parent))}"
            ) from error

    def identity(self) -> str:
        return f"sqlite {self.path.resolve()}"

    def refuse_users(self) -> None:
        """Do nothing: a state file has one master, which the lock of the basedir keeps away."""

    def tables(self) -> set[str]:
        with self.translated_errors():
            found = self.handle.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            return {name for (name,) in found}

    def mark(self, tables: list[Moved]) -> str:
        parts = []
        for suffix in ("", "-wal"):
            part = Path(f"{self.path}{suffix}")
            there = part.stat() if part.exists() else None
            if there and there.st_size:
                parts.append([there.st_ino, there.st_size, there.st_mtime_ns])
        return json.dumps(parts)

    def take_snapshot(self) -> None:
        with self.translated_errors():
            if self.handle.in_transaction:
                self.handle.execute("COMMIT")
            self.handle.execute("BEGIN")

    def count(self, table: Moved) -> int:
        with self.translated_errors():
            query = f"SELECT count(*) FROM {table.quoted} WHERE {table.wanted}"
            return int(self.handle.execute(query).get)

    def rows(self, table: Moved, skip: int = 0) -> Iterator[Row]:
        order = ", ".join(column.quoted for column in table.order)
        query = f"SELECT {table.values} FROM {table.quoted} WHERE {table.wanted} ORDER BY {order}"
        try:
            with self.translated_errors():
                yield from self.handle.execute(f"{query} LIMIT -1 OFFSET ?", (skip,))
        except UnicodeDecodeError as error:
            raise self._not_text(table) from error

    def _not_text(self, table: Moved) -> StoreError:
        """Return the error for a text that is not UTF-8, such as one with half a surrogate pair."""
        texts = [column for column in table.columns if column.kind == "text"]
        wanted = [f"CAST({column.quoted} AS BLOB)" for column in texts]
        keys = [
            f"hex({column.quoted})" if column.kind == "text" else column.quoted
            for column in table.key
        ]
        query = f"SELECT {', '.join([*keys, *wanted])} FROM {table.quoted}"
        for row in self.handle.execute(query):
            for column, value in zip(texts, row[len(keys) :], strict=True):
                try:
                    (value or b"").decode()
                except UnicodeDecodeError as error:
                    where = table.named(row[: len(keys)])
                    return StoreError(
                        f"{self.path}: {where}: column {column.name} is not UTF-8: byte"
                        f" 0x{value[error.start]:02x} at {error.start}",
                        f"write a text into it that is: python -m apsw {shlex.quote(self.name)}"
                        f' "UPDATE {table.name} SET {column.name} = ... WHERE ..."',
                    )
        return StoreError(f"{self.path}: table {table.name} holds text that is not UTF-8")

    def write(self, table: Moved, batches: Iterable[list[Row]]) -> None:
        places = ", ".join("?" * len(table.columns))
        insert = f"INSERT INTO {table.quoted} ({table.column_list}) VALUES ({places})"
        with self.translated_errors(), self.handle:
            for batch in batches:
                self.handle.executemany(insert, batch)

    def definitions(self) -> list[tuple[str, str]]:
        query = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
        with self.translated_errors():
            return [(f'DROP INDEX "{name}"', sql) for name, sql in self.handle.execute(query)]

    def wipe(self, tables: list[Moved]) -> None:
        self.close()
        for suffix in ("-wal", "-shm", ""):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        create_file(self.path)
        self._open()

    def settle(self, conn: sa.engine.Connection, tables: list[Moved]) -> None:
        """Do nothing: SQLite gives a new row the highest number that is there, plus one."""

    def analyze(self) -> None:
        """Do nothing: a master's queries are written for a SQLite without statistics."""

    def sync(self) -> None:
        with self.translated_errors():
            self.handle.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        sync(self.path)
        sync(self.path.parent)

    def announce(self, url: str, master: str) -> None:
        """Do nothing: the lock of the basedir keeps others away."""

    def take_back(self) -> None:
        """Do nothing: announce() has left no record."""

    def put_aside(self, url: str, master: str) -> str:
        """Rename it, so that no master can start on it and a move back finds its place free.

        Keeps its name if another program has it open.
        """
        self.close()
        connect(self.path).close()  # the last one to close moves the log into the file
        if Path(f"{self.path}-wal").exists():
            return self.name  # another program has it open
        aside = self.path.with_name(f"{self.path.name}.moved-{time.strftime('%Y%m%d-%H%M%S')}")
        return str(self.path.rename(aside))

    def close(self) -> None:
        self.engine.dispose()
        self.handle.close()
