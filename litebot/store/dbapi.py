"""A PEP 249 driver on top of apsw, with as much of the interface as SQLAlchemy needs.

It differs from the standard library's sqlite3 module in two ways.  A transaction begins at the
first statement that writes; where the handle is already inside a transaction, a savepoint begins
instead.  So a `Connection` can be used inside somebody else's transaction, and its commit and
rollback affect only its own statements.  And each kind of failure has its own class, because those
who run a server must be able to tell a full disk from a violated constraint.

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
    """Required by PEP 249, and never raised."""


class Error(Exception):
    """The base of all errors of this module.  `code` is SQLite's extended result code, or None."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class InterfaceError(Error):
    """The driver was used wrongly."""


class DatabaseError(Error):
    """The database reported an error."""


class DataError(DatabaseError):
    """A value is too large."""


class OperationalError(DatabaseError):
    """The cause is outside the program: no such table, locked, full, unreadable."""


class IntegrityError(DatabaseError):
    """A constraint was violated."""


class InternalError(DatabaseError):
    """SQLite is out of memory or contradicts itself."""


class ProgrammingError(DatabaseError):
    """Wrong number or type of parameters, a closed connection, or the wrong thread."""


class NotSupportedError(DatabaseError):
    """SQLite does not support it."""


class BusyError(OperationalError):
    """Another connection holds the lock; the same work may succeed later."""


class FullDiskError(OperationalError):
    """No space is left, or the file has reached its maximum size."""


class DiskIOError(OperationalError):
    """The operating system refused a read, a write, a sync or an open."""


class ReadOnlyError(OperationalError):
    """The connection or the file can't be written."""


class DamagedError(DatabaseError):
    """A page of the file, or the whole file, is not what SQLite wrote."""


# After one of these errors, no later success of the connection means that data reached the disk.
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
    """Return the PEP 249 error for one of apsw's, with its message and extended result code."""
    kind = next((_CLASSES[c] for c in type(error).__mro__ if c in _CLASSES), DatabaseError)
    return kind(str(error), getattr(error, "extendedresult", None))


_savepoints = itertools.count(1)


class Connection:
    """A PEP 249 connection over an apsw handle.

    With `owned`, closing the connection closes the handle.  `on_fatal` is called with each error of
    the FATAL classes, even if the caller then swallows it.  While `autocommit` is set no
    transaction begins by itself, and setting it commits the transaction that the handle has open:
    statements such as VACUUM must run outside of any.
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
        # The name of the savepoint around our statements, "" for a transaction of our own, or None.
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
        """Return a new cursor.  Raises ProgrammingError if the connection is closed."""
        if self._closed:
            raise ProgrammingError("the connection is closed")
        try:
            cursor = Cursor(self)
        except apsw.Error as error:  # its handle was closed
            raise self._error_for(error) from error
        self._cursors.add(cursor)
        return cursor

    def begin(self) -> None:
        """Begin a transaction or savepoint unless ours is open; called before each write.

        Raises OperationalError if our transaction no longer exists: SQLite rolls back by itself
        when the disk is full, and what is written after that would be committed without the rest.
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
        """Commit our statements, which an outer transaction can still roll back."""
        name, self._open = self._open, None
        if name is not None:
            self._run(f"RELEASE {name}" if name else "COMMIT")

    def rollback(self) -> None:
        """Undo our statements since the last commit."""
        name, self._open = self._open, None
        # When the disk is full SQLite has already rolled everything back by itself.
        if name is not None and self.handle.in_transaction:
            if name:
                self._run(f"ROLLBACK TO {name}")
                self._run(f"RELEASE {name}")
            else:
                self._run("ROLLBACK")

    def close_cursors(self) -> None:
        """Close all open cursors.

        A statement with unread rows keeps the handle's snapshot of the file from the moment it
        began, and no checkpoint gets past that snapshot.
        """
        for cursor in list(self._cursors):
            cursor.close()

    def close(self) -> None:
        """Close the cursors, roll back an open transaction and close the connection."""
        if self._closed:
            return
        self.close_cursors()
        self.rollback()
        self._closed = True
        if self._owned:
            self.handle.close()

    def _error_for(self, error: apsw.Error) -> Error:
        """Return the error to raise for one of apsw's, and report it if it is fatal."""
        translated = translate(error)
        if self._on_fatal is not None and isinstance(translated, FATAL):
            self._on_fatal(translated)
        return translated

    def _run(self, sql: str) -> None:
        try:
            self.handle.execute(sql)
        except apsw.Error as error:
            raise self._error_for(error) from error


class Cursor:
    """A PEP 249 cursor."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        self.description: list[tuple[Any, ...]] | None = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self._cursor = connection.handle.cursor()
        # apsw calls the tracer after it has prepared a statement and before the first step.  Only
        # at that moment are its columns known before any row, and whether it writes.
        self._cursor.exec_trace = self._before_first_step

    def _before_first_step(self, cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        columns = cursor.get_description()
        self.description = [(name, *[None] * 6) for name, _ in columns] if columns else None
        self._writes = not cursor.is_readonly
        verb = sql.lstrip()[:6].upper()
        # The caller's savepoint must be nested in ours, or its release would end ours.
        if (self._writes and verb != "PRAGMA") or verb == "SAVEPO":
            self.connection.begin()
        return True

    def execute(self, sql: str, parameters: Any = ()) -> Cursor:
        """Run one statement.  Raises the errors of this module."""
        return self._execute(self._cursor.execute, sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> Cursor:
        """Run one statement once for each sequence of parameters."""
        return self._execute(self._cursor.executemany, sql, parameters)

    def _execute(self, run: Any, sql: str, parameters: Any) -> Cursor:
        handle = self.connection.handle
        self.description = None
        self._writes = False
        try:
            before = handle.total_changes()
            run(sql, parameters)
        except apsw.Error as error:
            raise self.connection._error_for(error) from error
        except TypeError as error:
            raise ProgrammingError(str(error)) from error
        self.rowcount = -1
        if self._writes:
            self.lastrowid = handle.last_insert_rowid()
            if self.description is None:  # with RETURNING, SQLite counts only after the last row
                self.rowcount = handle.total_changes() - before
        return self

    def fetchone(self) -> Any:
        """Return the next row as a tuple, or None."""
        try:
            return self._cursor.fetchone()
        except apsw.Error as error:
            raise self.connection._error_for(error) from error

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return at most `size` rows; the default is `arraysize`."""
        try:
            return list(itertools.islice(self._cursor, size or self.arraysize))
        except apsw.Error as error:
            raise self.connection._error_for(error) from error

    def fetchall(self) -> list[Any]:
        """Return the remaining rows."""
        try:
            return self._cursor.fetchall()
        except apsw.Error as error:
            raise self.connection._error_for(error) from error

    def close(self) -> None:
        """Release the statement; SQLite finishes or undoes a write that has begun."""
        self._cursor.close(True)
        self.connection._cursors.discard(self)

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """Required by PEP 249; does nothing."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Required by PEP 249; does nothing."""


def connect(path: Path | str) -> Connection:
    """Connect to an existing file, or to a new database in memory, with a handle of its own.

    Raises litebot.errors.StoreError if the file can't be opened.
    """
    return Connection(open_file(path))
