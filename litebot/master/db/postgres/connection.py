"""The connection that writes: pieces of work in one transaction, begun by the first that writes.

SQLAlchemy and Buildbot's components call commit() and rollback() on it as on any other.  Here these
end a piece; the transaction goes on until the master's thread ends it.  Reads before the first
write stand alone, as they do in Postgres' READ COMMITTED anyway.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import IsolationLevel
from psycopg.errors import DeadlockDetected
from psycopg.errors import SerializationFailure
from psycopg.errors import lookup
from psycopg.pq import DiagnosticField
from psycopg.pq import ExecStatus
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult

from litebot.master.db.postgres.commit_marker import NONE
from litebot.master.db.postgres.commit_marker import CommitMarkers
from litebot.master.db.postgres.server import AWAY

READS = re.compile(r"\s*(?:SELECT|SHOW|VALUES)\b", re.IGNORECASE)
# What a SELECT may do besides reading; one too many here costs a transaction and nothing else.
DOES_MORE = re.compile(
    r"\bFOR\s+(?:UPDATE|SHARE|NO\s+KEY|KEY)\b|\bINTO\b|advisory|nextval|setval|set_config|pg_notify",
    re.IGNORECASE,
)

SAVEPOINT = b"SAVEPOINT piece"
NEXT_SAVEPOINT = b"RELEASE piece; SAVEPOINT piece"
UNDO = b"ROLLBACK TO piece"


@lru_cache(2000)
def only_reads(statement: str) -> bool:
    """Whether a statement can do without a transaction."""
    return READS.match(statement) is not None and DOES_MORE.search(statement) is None


class Cursor(psycopg.Cursor[Any]):
    """Has its connection say before a statement what has to be said."""

    def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Cursor:
        """As psycopg's."""
        with self._prepared(query):
            super().execute(query, params, **kwargs)
        return self

    def executemany(self, query: Any, params_seq: Any, **kwargs: Any) -> None:
        """As psycopg's."""
        with self._prepared(query):
            super().executemany(query, params_seq, **kwargs)

    @contextmanager
    def _prepared(self, query: Any) -> Iterator[None]:
        conn = self.connection
        assert isinstance(conn, Connection)
        try:
            conn.before(query)
            conn.asked_at = time.monotonic()
            yield
        except psycopg.Error as error:
            conn.note(error)
            raise
        finally:
            conn.asked_at = None


class NotAlone(Exception):
    """A piece wants to be outside of the transaction that others are in."""


class Shared(psycopg.Connection[Any]):
    """One that SQLAlchemy's connections share; only finish() closes it."""

    def close(self) -> None:
        """Give it back; it stays open for the next."""

    def finish(self) -> None:
        """Close it."""
        super().close()


class Connection(Shared):
    """See the module.

    `trouble` is what has happened that the batch of pieces can't survive; `number` is that of the
    transaction, from `markers`.
    """

    markers: CommitMarkers  # of whoever has made it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = Cursor
        self.trouble: Exception | None = None
        self.number = NONE
        self.asked_at: float | None = None  # since when an answer is waited for
        self._alone = False
        self._begun = False
        self._kept = False  # there is work of earlier pieces in the transaction
        self._savepoint = False
        self._release = False
        self._wrote = False
        self._outer: list[bool] = []  # whether those wrote that are in use while this one is

    # pieces

    def check_out(self) -> Connection:
        """To be used beside whoever uses it already, and closed before that one goes on."""
        self._outer.append(self._wrote)
        self._wrote = False
        return self

    def close(self) -> None:
        if self._outer:
            self._wrote = self._outer.pop() or self._wrote

    def before(self, query: Any) -> None:
        """Say what has to come before this statement of a piece."""
        if self._alone:
            return
        writes = not (isinstance(query, str) and only_reads(query))
        if not self._begun:
            if not writes:
                return
            self._begun, self.number = True, NONE
            self.number = self.markers.begin(self._say)
        elif self._kept and not self._savepoint:
            self._say(NEXT_SAVEPOINT if self._release else SAVEPOINT)
            self._savepoint, self._release = True, False
        self._wrote = self._wrote or writes

    @property
    def autocommit(self) -> bool:
        """Whether statements stand alone, as VACUUM must: SQLAlchemy's AUTOCOMMIT.

        A piece that wants it must be the only one of its batch, and not have written before.
        """
        return self._alone

    @autocommit.setter
    def autocommit(self, alone: bool) -> None:
        if alone and self._begun and self.trouble is None:
            self.trouble = NotAlone()
            raise psycopg.ProgrammingError("the transaction has begun")
        self._alone = alone

    @property
    def isolation_level(self) -> IsolationLevel | None:
        """That of the server; SQLAlchemy sets it together with autocommit."""
        return None

    @isolation_level.setter
    def isolation_level(self, value: IsolationLevel | int | None) -> None:
        pass

    def note(self, error: psycopg.Error) -> None:
        """Remember an error that is not only that of its statement."""
        again = isinstance(error, (DeadlockDetected, SerializationFailure))
        if self.trouble is None and (self.is_lost or again or error.sqlstate in AWAY):
            self.trouble = error

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be asked of it any more."""
        return self.closed or self.broken

    def commit(self) -> None:
        """End a piece, and keep it."""
        if not self._wrote:
            return
        if self._failed:  # the server would undo all of it
            raise psycopg.InternalError("a statement has failed; what it belongs to is rolled back")
        self._kept = True
        self._wrote = False
        self._release, self._savepoint = self._savepoint, False

    def rollback(self) -> None:
        """Undo what a piece did since its last commit()."""
        if not self._begun or not (self._wrote or self._failed):
            return
        self._wrote = False
        try:
            if self._kept:
                self._say(UNDO)  # the savepoint stays, for what comes next
            else:
                self._say(b"ROLLBACK")
                self._begun = False
        except psycopg.Error as error:
            self.note(error)
            raise

    @property
    def _failed(self) -> bool:
        return self.info.transaction_status == TransactionStatus.INERROR

    # the whole

    @property
    def begun(self) -> bool:
        """Whether there is anything to commit."""
        return self._begun

    def end(self) -> None:
        """Commit the transaction, on disk when it returns.  Raises psycopg.Error."""
        if self._say(b"COMMIT").command_status != b"COMMIT":
            raise psycopg.InternalError("the server rolled it back instead")
        self._reset()

    def undo(self) -> None:
        """Roll the transaction back.  Raises psycopg.Error."""
        if self._begun:
            self._say(b"ROLLBACK")
        self._reset()

    def _reset(self) -> None:
        self.trouble, self.number = None, NONE
        self._begun = self._kept = self._savepoint = self._release = self._wrote = False

    def _say(self, statements: bytes) -> PGresult:
        """Run what has no parameters, in one trip; the last result.

        By libpq itself, as this goes with every piece: a cursor of psycopg's takes thrice the
        time, and a pipeline costs more than the trips that it saves.
        """
        self.asked_at = time.monotonic()
        try:
            result = self.pgconn.exec_(statements)
        finally:
            self.asked_at = None
        if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            state = result.error_field(DiagnosticField.SQLSTATE)
            try:
                kind = psycopg.OperationalError if state is None else lookup(state.decode())
            except KeyError:  # not one of Postgres's own: a trigger's, or a pooler's
                kind = psycopg.DatabaseError
            raise kind(result.error_message.decode(errors="replace"))
        return result
