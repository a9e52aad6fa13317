"""PEP 249 over apsw, as small as SQLAlchemy needs.

Two things differ from the standard library's sqlite3 module.  A transaction begins at the first
statement that writes, and where the handle is already inside one it is a savepoint: so a
`Connection` can be handed out inside somebody else's transaction, and its commit and rollback
concern its own statements only.  And each kind of failure has its own class, because those who
run a server must tell a full disk from a broken constraint.

Source: https://peps.python.org/pep-0249/
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import apsw

from litebot.store.connection import connect as open_file

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"
sqlite_version = apsw.sqlite_lib_version()
sqlite_version_info = tuple(int(part) for part in sqlite_version.split("."))

Binary = bytes


class Warning(Exception):  # noqa: A001 (PEP 249 names it)
    """Never raised; PEP 249 asks for it."""


class Error(Exception):
    """Base of all errors here.  `code` is SQLite's extended result code, or None."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class InterfaceError(Error):
    """The adapter was used wrongly."""


class DatabaseError(Error):
    """The database said no."""


class DataError(DatabaseError):
    """A value is too large."""


class OperationalError(DatabaseError):
    """Not the program's fault: no such table, locked, full, unreadable."""


class IntegrityError(DatabaseError):
    """A constraint does not hold."""


class InternalError(DatabaseError):
    """SQLite is out of memory or contradicts itself."""


class ProgrammingError(DatabaseError):
    """Wrong number or type of parameters, closed connection, wrong thread."""


class NotSupportedError(DatabaseError):
    """Not in SQLite."""


class BusyError(OperationalError):
    """Another connection holds the lock; the same work may succeed later."""


class FullDiskError(OperationalError):
    """No space left, or the file is at its largest."""


class DiskIOError(OperationalError):
    """The operating system refused a read, a write, a sync or an open."""


class ReadOnlyError(OperationalError):
    """A write on a connection or file that can't be written."""


class DamagedError(DatabaseError):
    """A page of the file, or the whole file, is not what SQLite wrote."""


# After one of these no later answer of the connection can be trusted to reach the disk.
FATAL = (FullDiskError, DiskIOError, ReadOnlyError, DamagedError, InternalError)

_CLASSES: dict[type[apsw.Error], type[Error]] = {
    apsw.ConstraintError: IntegrityError,
    apsw.MismatchError: IntegrityError,
    apsw.BusyError: BusyError,
    apsw.LockedError: BusyError,
    apsw.FullError: FullDiskError,
    apsw.IOError: DiskIOError,
    apsw.CantOpenError: DiskIOError,
    apsw.ReadOnlyError: ReadOnlyError,
    apsw.CorruptError: DamagedError,
    apsw.NotADBError: DamagedError,
    apsw.FormatError: DamagedError,
    apsw.NoMemError: InternalError,
    apsw.InternalError: InternalError,
    apsw.TooBigError: DataError,
    apsw.SQLError: OperationalError,
    apsw.SchemaChangeError: OperationalError,
    apsw.InterruptError: OperationalError,
    apsw.AbortError: OperationalError,
    apsw.ProtocolError: OperationalError,
    apsw.PermissionsError: OperationalError,
    apsw.BindingsError: ProgrammingError,
    apsw.RangeError: ProgrammingError,
    apsw.MisuseError: ProgrammingError,
    apsw.ThreadingViolationError: ProgrammingError,
    apsw.ConnectionClosedError: ProgrammingError,
    apsw.CursorClosedError: ProgrammingError,
    apsw.IncompleteExecutionError: ProgrammingError,
}


def translate(error: apsw.Error) -> Error:
    """The PEP 249 error for one of apsw's, with its message and extended result code."""
    kind = next((_CLASSES[c] for c in type(error).__mro__ if c in _CLASSES), DatabaseError)
    return kind(str(error), getattr(error, "extendedresult", None))


_savepoints = itertools.count(1)


class Connection:
    """A PEP 249 connection over an apsw handle.

    With `owned` closing it closes the handle.  `on_fatal` is told of each error of the FATAL
    classes, also of one that the caller goes on to swallow.  While `autocommit` is set nothing
    begins by itself, and setting it commits what the handle has open: VACUUM and the like run in
    no transaction.
    """

    def __init__(
        self,
        handle: apsw.Connection,
        *,
        owned: bool = True,
        on_fatal: Callable[[Error], None] | None = None,
    ) -> None:
        self.handle = handle
        self._owned = owned
        self._on_fatal = on_fatal
        self._autocommit = False
        self._closed = False
        self._cursors: WeakSet[Cursor] = WeakSet()
        # The savepoint that holds our statements; "" is a transaction of our own; None: nothing.
        self._open: str | None = None

    @property
    def autocommit(self) -> bool:
        return self._autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        if value and self.handle.in_transaction:
            self._run("COMMIT")
            self._open = None
        self._autocommit = value

    def cursor(self) -> Cursor:
        """A new cursor.  Raises ProgrammingError when closed."""
        if self._closed:
            raise ProgrammingError("the connection is closed")
        try:
            cursor = Cursor(self)
        except apsw.Error as error:  # its handle was closed
            raise self.failed(error) from error
        self._cursors.add(cursor)
        return cursor

    def begin(self) -> None:
        """Begin, where nothing of ours is open; called before each statement that writes.

        Raises OperationalError where what was open is gone: SQLite rolls back by itself when a disk
        is full, and what is written after that would be kept alone.
        """
        if self._autocommit:
            return
        if self._open is not None:
            if not self.handle.in_transaction:
                raise OperationalError("the transaction is over; roll it back first")
        elif self.handle.in_transaction:
            name = f"work{next(_savepoints)}"
            self._run(f"SAVEPOINT {name}")
            self._open = name
        else:
            self._run("BEGIN IMMEDIATE")
            self._open = ""

    def commit(self) -> None:
        """Keep what was done; inside another transaction that one decides in the end."""
        name, self._open = self._open, None
        if name is not None:
            self._run(f"RELEASE {name}" if name else "COMMIT")

    def rollback(self) -> None:
        """Undo what was done since the last commit."""
        name, self._open = self._open, None
        # After a full disk SQLite has already rolled everything back by itself.
        if name is not None and self.handle.in_transaction:
            if name:
                self._run(f"ROLLBACK TO {name}")
                self._run(f"RELEASE {name}")
            else:
                self._run("ROLLBACK")

    def close_cursors(self) -> None:
        """Close those that are open.

        A statement with rows left holds the handle's view of the file at the moment it began, so
        that no checkpoint gets past that.
        """
        for cursor in list(self._cursors):
            cursor.close()

    def close(self) -> None:
        """Roll back what is open and close, its cursors too."""
        if self._closed:
            return
        self.close_cursors()
        self.rollback()
        self._closed = True
        if self._owned:
            self.handle.close()

    def failed(self, error: apsw.Error) -> Error:
        """The error to raise for one of apsw's."""
        translated = translate(error)
        if self._on_fatal is not None and isinstance(translated, FATAL):
            self._on_fatal(translated)
        return translated

    def _run(self, sql: str) -> None:
        try:
            self.handle.execute(sql)
        except apsw.Error as error:
            raise self.failed(error) from error


class Cursor:
    """A PEP 249 cursor."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        self.description: list[tuple[Any, ...]] | None = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self._cursor = connection.handle.cursor()
        # The tracer runs after the statement is prepared and before its first step: the one
        # moment at which its columns are known without rows, and whether it writes.
        self._cursor.exec_trace = self._before_first_step

    def _before_first_step(self, cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        columns = cursor.get_description()
        self.description = [(name, *[None] * 6) for name, _ in columns] if columns else None
        self._writes = not cursor.is_readonly
        verb = sql.lstrip()[:6].upper()
        # A savepoint of the caller's must lie within our own, or its release would end ours.
        if (self._writes and verb != "PRAGMA") or verb == "SAVEPO":
            self.connection.begin()
        return True

    def execute(self, sql: str, parameters: Any = ()) -> Cursor:
        """Run one statement.  Raises one of the module's errors."""
        return self._execute(self._cursor.execute, sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> Cursor:
        """Run one statement with each of the parameter sequences."""
        return self._execute(self._cursor.executemany, sql, parameters)

    def _execute(self, run: Any, sql: str, parameters: Any) -> Cursor:
        handle = self.connection.handle
        self.description = None
        self._writes = False
        try:
            before = handle.total_changes()
            run(sql, parameters)
        except apsw.Error as error:
            raise self.connection.failed(error) from error
        except TypeError as error:
            raise ProgrammingError(str(error)) from error
        self.rowcount = -1
        if self._writes:
            self.lastrowid = handle.last_insert_rowid()
            if self.description is None:  # with RETURNING SQLite counts after the last row
                self.rowcount = handle.total_changes() - before
        return self

    def fetchone(self) -> Any:
        """The next row as a tuple, or None."""
        try:
            return self._cursor.fetchone()
        except apsw.Error as error:
            raise self.connection.failed(error) from error

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """At most `size` (default: arraysize) rows."""
        try:
            return list(itertools.islice(self._cursor, size or self.arraysize))
        except apsw.Error as error:
            raise self.connection.failed(error) from error

    def fetchall(self) -> list[Any]:
        """The remaining rows."""
        try:
            return self._cursor.fetchall()
        except apsw.Error as error:
            raise self.connection.failed(error) from error

    def close(self) -> None:
        """Let go of the statement; a write that has begun is finished or undone by SQLite."""
        self._cursor.close(True)
        self.connection._cursors.discard(self)

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """PEP 249 asks for it; does nothing."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """PEP 249 asks for it; does nothing."""


def connect(path: Path | str) -> Connection:
    """A connection with a handle of its own to an existing file, or to a new one in memory.

    Raises litebot.errors.StoreError where the file can't be opened.
    """
    return Connection(open_file(path))
