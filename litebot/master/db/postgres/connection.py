"""The connection that writes; its pieces of work share a transaction that the first write begins.

SQLAlchemy and Buildbot's components call commit() and rollback() on it as on any other connection.
Here these end a piece of work; the transaction goes on until the pool's thread ends it.  Reads
before the first write run outside of it, which under Postgres's READ COMMITTED makes no difference.
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

from litebot.master.db.postgres.commit_marker import NO_MARKER
from litebot.master.db.postgres.commit_marker import CommitMarkers
from litebot.master.db.postgres.server import AWAY_SQLSTATES

READ_STATEMENT = re.compile(r"\s*(?:SELECT|SHOW|VALUES)\b", re.IGNORECASE)
# What a SELECT may do besides reading.  A pattern too many only costs a transaction.
SIDE_EFFECT = re.compile(
    r"\bFOR\s+(?:UPDATE|SHARE|NO\s+KEY|KEY)\b|\bINTO\b|advisory|nextval|setval|set_config|pg_notify",
    re.IGNORECASE,
)

SAVEPOINT = b"SAVEPOINT piece"
NEXT_SAVEPOINT = b"RELEASE piece; SAVEPOINT piece"
ROLLBACK_TO_SAVEPOINT = b"ROLLBACK TO piece"


@lru_cache(2000)
def only_reads(statement: str) -> bool:
    """Whether a statement needs no transaction."""
    return READ_STATEMENT.match(statement) is not None and SIDE_EFFECT.search(statement) is None


class Cursor(psycopg.Cursor[Any]):
    """A cursor whose connection begins what is needed before each statement."""

    def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Cursor:
        """Like psycopg's."""
        with self._prepared(query):
            super().execute(query, params, **kwargs)
        return self

    def executemany(self, query: Any, params_seq: Any, **kwargs: Any) -> None:
        """Like psycopg's."""
        with self._prepared(query):
            super().executemany(query, params_seq, **kwargs)

    @contextmanager
    def _prepared(self, query: Any) -> Iterator[None]:
        conn = self.connection
        assert isinstance(conn, Connection)
        try:
            conn.prepare_for(query)
            conn.waiting_since = time.monotonic()
            yield
        except psycopg.Error as error:
            conn.record_error(error)
            raise
        finally:
            conn.waiting_since = None


class AutocommitInTransaction(Exception):
    """A piece of work asked for autocommit when the transaction had already begun."""


class SharedConnection(psycopg.Connection[Any]):
    """A connection that several SQLAlchemy connections share; only finish() closes it."""

    def close(self) -> None:
        """Called when SQLAlchemy returns it; it stays open for the next user."""

    def finish(self) -> None:
        """Close the connection."""
        super().close()


class Connection(SharedConnection):
    """See the module.

    `batch_error` is the error that ends the whole batch of work, if there was one; `marker` is that
    of the transaction, from `markers`.
    """

    markers: CommitMarkers  # set by the writer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = Cursor
        self.batch_error: Exception | None = None
        self.marker = NO_MARKER
        self.waiting_since: float | None = None  # when the statement without an answer was sent
        self._is_autocommit = False
        self._begun = False
        self._has_kept_work = False  # the transaction holds committed work of earlier pieces
        self._has_savepoint = False
        self._must_release = False
        self._wrote = False
        self._outer_wrote: list[bool] = []  # for each outer user, whether it wrote

    # for a piece of work

    def check_out(self) -> Connection:
        """Return it for nested use; close() must be called before the outer user goes on."""
        self._outer_wrote.append(self._wrote)
        self._wrote = False
        return self

    def close(self) -> None:
        if self._outer_wrote:
            self._wrote = self._outer_wrote.pop() or self._wrote

    def prepare_for(self, query: Any) -> None:
        """Begin the transaction or a savepoint, if this statement of a piece of work needs it."""
        if self._is_autocommit:
            return
        writes = not (isinstance(query, str) and only_reads(query))
        if not self._begun:
            if not writes:
                return
            self._begun, self.marker = True, NO_MARKER
            self.marker = self.markers.begin(self._run_statements)
        elif self._has_kept_work and not self._has_savepoint:
            self._run_statements(NEXT_SAVEPOINT if self._must_release else SAVEPOINT)
            self._has_savepoint, self._must_release = True, False
        self._wrote = self._wrote or writes

    @property
    def autocommit(self) -> bool:
        """Whether each statement commits by itself, as VACUUM must: SQLAlchemy's AUTOCOMMIT.

        A piece of work that sets it must be the only one of its batch, and must not have written
        before.
        """
        return self._is_autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        if value and self._begun and self.batch_error is None:
            self.batch_error = AutocommitInTransaction()
            raise psycopg.ProgrammingError("the transaction has begun")
        self._is_autocommit = value

    @property
    def isolation_level(self) -> IsolationLevel | None:
        """None, the server's default; SQLAlchemy sets it with autocommit, to no effect."""
        return None

    @isolation_level.setter
    def isolation_level(self, value: IsolationLevel | int | None) -> None:
        pass

    def record_error(self, error: psycopg.Error) -> None:
        """Remember an error that affects more than its own statement."""
        may_retry = isinstance(error, (DeadlockDetected, SerializationFailure))
        if self.batch_error is None and (
            self.is_lost or may_retry or error.sqlstate in AWAY_SQLSTATES
        ):
            self.batch_error = error

    @property
    def is_lost(self) -> bool:
        """Whether the connection can't be used any more."""
        return self.closed or self.broken

    def commit(self) -> None:
        """Keep what a piece of work has done so far."""
        if not self._wrote:
            return
        if self._has_failed:  # the server would roll back the whole transaction
            raise psycopg.InternalError("a statement has failed; its transaction is rolled back")
        self._has_kept_work = True
        self._wrote = False
        self._must_release, self._has_savepoint = self._has_savepoint, False

    def rollback(self) -> None:
        """Undo what a piece of work did since its last commit()."""
        if not self._begun or not (self._wrote or self._has_failed):
            return
        self._wrote = False
        try:
            if self._has_kept_work:
                # The savepoint stays, for the statements that follow.
                self._run_statements(ROLLBACK_TO_SAVEPOINT)
            else:
                self._run_statements(b"ROLLBACK")
                self._begun = False
        except psycopg.Error as error:
            self.record_error(error)
            raise

    @property
    def _has_failed(self) -> bool:
        return self.info.transaction_status == TransactionStatus.INERROR

    # for the whole transaction

    @property
    def has_begun(self) -> bool:
        """Whether a transaction has begun."""
        return self._begun

    def commit_transaction(self) -> None:
        """Commit the transaction; it is on disk when this returns.  Raises psycopg.Error."""
        if self._run_statements(b"COMMIT").command_status != b"COMMIT":
            raise psycopg.InternalError("the server rolled it back instead")
        self._reset()

    def roll_back_transaction(self) -> None:
        """Roll the transaction back.  Raises psycopg.Error."""
        if self._begun:
            self._run_statements(b"ROLLBACK")
        self._reset()

    def _reset(self) -> None:
        self.batch_error, self.marker = None, NO_MARKER
        self._begun = self._has_kept_work = self._wrote = False
        self._has_savepoint = self._must_release = False

    def _run_statements(self, statements: bytes) -> PGresult:
        """Run statements without parameters in one round trip, and return the last result.

        This calls libpq itself, because it runs for every piece of work: a cursor of psycopg takes
        three times as long, and a pipeline costs more than the round trips that it saves.
        """
        self.waiting_since = time.monotonic()
        try:
            result = self.pgconn.exec_(statements)
        finally:
            self.waiting_since = None
        if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            state = result.error_field(DiagnosticField.SQLSTATE)
            try:
                kind = psycopg.OperationalError if state is None else lookup(state.decode())
            except KeyError:  # Postgres does not define it: a trigger or a pooler does
                kind = psycopg.DatabaseError
            raise kind(result.error_message.decode(errors="replace"))
        return result
