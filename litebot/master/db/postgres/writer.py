"""Runs batches of work on the one connection that writes, and commits each batch exactly once.

Everything here happens in the pool's thread.  When the connection is lost the writer connects
again, however long that takes.  Then the batch either was committed, or it is run again: the marker
that the transaction left in the database tells which (see `commit_marker`).  Before the marker is
read, the server's process of the lost connection is ended.  So a callable may be run several times,
and only its last result counts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import errors
from sqlalchemy.pool import NullPool
from twisted.python.failure import Failure

from litebot.errors import StoreError
from litebot.errors import StoreFailed
from litebot.master.db import postgres
from litebot.master.db.pool import Outage
from litebot.master.db.pool import Work
from litebot.master.db.postgres import DIALECT_URL
from litebot.master.db.postgres.commit_marker import NO_MARKER
from litebot.master.db.postgres.commit_marker import CommitMarkers
from litebot.master.db.postgres.connection import AutocommitInTransaction
from litebot.master.db.postgres.connection import Connection
from litebot.master.db.postgres.server import AWAY_SQLSTATES
from litebot.master.db.postgres.server import Identity
from litebot.master.db.postgres.server import Server
from litebot.master.db.postgres.server import Traffic
from litebot.master.db.postgres.server import cut_off
from litebot.master.db.postgres.server import end_former
from litebot.master.db.postgres.server import identify
from litebot.master.db.postgres.server import one_line
from litebot.master.db.postgres.server import reconnect_delays
from litebot.master.db.postgres.server import refuse_shared
from litebot.master.db.postgres.server import traffic
from litebot.master.db.postgres.sql import PostgresSql

# How long a connection may take to disappear after it was ended.
GONE_WITHIN_S = 5.0

# Called before the first batch on every connection but the first, in the transaction of the batch.
Hook = Callable[[sa.engine.Connection], None]


@dataclass(frozen=True)
class PendingStatement:
    """A statement that was sent and not answered yet: its connection, and when it was sent.

    `since` is a time of time.monotonic().
    """

    identity: Identity
    since: float


class ConnectionLost(Exception):
    """The connection is lost or unusable; `__cause__` tells why."""


class RetryBatch(Exception):
    """The transaction was rolled back; it may succeed later, or in smaller batches."""


# The server made this transaction fail so that another one can go on, or a piece of work wants to
# run outside of any.
RETRYABLE = (errors.DeadlockDetected, errors.SerializationFailure, AutocommitInTransaction)


class Writer:
    """See the module.  `report_outage` is called, in this thread, each time the server fails."""

    def __init__(self, server: Server, report_outage: Callable[[Outage], None]) -> None:
        self.engine = sa.create_engine(
            DIALECT_URL, creator=self._check_out_handle, poolclass=NullPool, use_native_hstore=False
        )
        self.before_batch_after_reconnect: Hook | None = None
        self._server = server
        self._report_outage = report_outage
        self._handle: Connection | None = None
        self._connection: sa.engine.Connection | None = None
        self._sql: PostgresSql | None = None
        self._identity: Identity | None = None  # of the connection
        self._hook_is_due = False  # it has not been called on this connection
        self._markers = CommitMarkers()
        self._in_doubt: int | None = None  # the marker of a transaction that may be committed
        self._thread_id: int | None = None
        self._given_up = threading.Event()

    # from any thread

    def give_up(self) -> None:
        """Soon fail the batch that runs or that waits for the server."""
        self._given_up.set()
        self.cut_off()

    def cut_off(self) -> None:
        """Make the current connection fail as if the server had closed it."""
        handle = self._handle
        if handle is not None:
            cut_off(handle)

    @property
    def pending_statement(self) -> PendingStatement | None:
        """The statement that waits for an answer, or None."""
        handle, identity = self._handle, self._identity
        since = handle.waiting_since if handle is not None else None
        return (
            PendingStatement(identity, since)
            if identity is not None and since is not None
            else None
        )

    @property
    def traffic(self) -> Traffic | None:
        """The bytes transferred so far on the connection, or None if that is unknown."""
        handle = self._handle
        return traffic(handle) if handle is not None else None

    # in the pool's thread

    def open(self) -> None:
        """Connect for the first time.  Raises StoreError, with a remedy, if that fails."""
        self._thread_id = threading.get_ident()
        with postgres.translated_errors(self._server.url):
            self._connect()
            assert self._handle is not None
            with suppress(psycopg.Error):  # the server may accept no other connection
                refuse_shared(self._server, self._handle)
        self._hook_is_due = False

    def close(self) -> None:
        """Close the connection."""
        self._discard_connection()
        self.engine.dispose()

    def run(self, batch: Sequence[Work]) -> None:
        """Run the batch in one transaction; when that is on disk, each work has its result.

        Raises StoreFailed after give_up() and where nobody can tell whether a lost transaction was
        committed, and what the hook raises.
        """
        self._thread_id = threading.get_ident()
        delays = reconnect_delays()
        while True:
            try:
                if self._connect_and_check_commit():
                    break
                self._run(batch)
                break
            except RetryBatch as retry:
                if len(batch) > 1:  # a smaller batch holds fewer locks that others need
                    for work in batch:
                        self.run([work])
                    break
                if isinstance(retry.__cause__, AutocommitInTransaction):
                    break  # the work wrote before it asked for autocommit; its result tells
                self._given_up.wait(next(delays))
            except ConnectionLost as lost:
                self._discard_connection()
                self._report_outage(Outage(one_line(lost.__cause__ or lost)))
                if self._given_up.wait(next(delays)):
                    raise StoreFailed(
                        f"{self._server.shown} is away: {one_line(lost.__cause__ or lost)}",
                        "litebot start BASEDIR, when it is back",
                    ) from lost

    def _run(self, batch: Sequence[Work]) -> None:
        handle = self._handle
        assert handle is not None
        try:
            try:
                self._run_each(handle, batch)
            except sa.exc.SQLAlchemyError:  # raised by the hook, or by undoing a piece of work
                self._raise_batch_error(handle)
                raise
        except psycopg.Error as error:
            raise ConnectionLost from error
        self._hook_is_due = False

    def _run_each(self, handle: Connection, batch: Sequence[Work]) -> None:
        if self._hook_is_due and self.before_batch_after_reconnect is not None:
            self.before_batch_after_reconnect(self._sqlalchemy_connection())
            self._clean_up_connection(keep=True)
            self._raise_batch_error(handle)
        for work in batch:
            work.result = self._result(work)
            if handle.batch_error is None:
                self._clean_up_connection()
            self._raise_batch_error(handle)
        self._commit(handle, batch)

    def _commit(self, handle: Connection, batch: Sequence[Work]) -> None:
        if not handle.has_begun:
            return
        self._in_doubt = handle.marker
        try:
            handle.commit_transaction()
        except psycopg.Error as error:
            handle.record_error(error)
            if not handle.is_lost and error.sqlstate not in AWAY_SQLSTATES:
                self._in_doubt = None
            self._raise_batch_error(handle)
            handle.roll_back_transaction()
            for work in batch:  # a deferred constraint failed at the commit
                work.result = Failure(error)
        self._in_doubt = None

    def _result(self, work: Work) -> Any:
        """Return the result of one piece of work, or its Failure."""
        try:
            if work.on == "sql":
                assert self._sql is not None
                return self._sql.run(work.callable, *work.args)
            return work.run(self.engine if work.on == "engine" else self._sqlalchemy_connection())
        except BaseException:  # the other pieces must get their results
            return Failure()

    def _clean_up_connection(self, *, keep: bool = False) -> None:
        """Undo what a piece of work did not commit and what it set; commit first if `keep`."""
        conn = self._connection
        if conn is not None and not conn.closed:
            if keep:
                conn.commit()
            conn.rollback()
            if conn.get_execution_options():
                conn.close()

    def _raise_batch_error(self, handle: Connection) -> None:
        """Raise the error that ends the batch, if there is one."""
        batch_error = handle.batch_error
        if batch_error is None and not handle.is_lost:
            return
        if isinstance(batch_error, StoreError):
            handle.roll_back_transaction()
            raise batch_error
        may_retry = isinstance(batch_error, RETRYABLE)
        if may_retry and not handle.is_lost:
            handle.roll_back_transaction()
            raise RetryBatch from batch_error
        raise ConnectionLost from batch_error

    # the connection

    def _check_out_handle(self) -> Connection:
        if self._handle is None or threading.get_ident() != self._thread_id:
            raise psycopg.ProgrammingError(
                "the master's database connection belongs to its own thread; use master.db.pool.do"
            )
        return self._handle.check_out()

    def _sqlalchemy_connection(self) -> sa.engine.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self.engine.connect()
        return self._connection

    def _connect_and_check_commit(self) -> bool:
        """Connect if necessary, and return whether the lost connection had committed the batch.

        Raises ConnectionLost, and StoreFailed if that can't be known.
        """
        if self._given_up.is_set():
            raise ConnectionLost from StoreError("the master has given up")
        marker = self._in_doubt
        if marker == NO_MARKER:
            raise StoreFailed(
                f"the connection to {self._server.shown} was lost at a commit, and without the"
                " tables of this litebot nobody can tell whether that was done",
                "give the command again",
            )
        try:
            if self._handle is None:
                self._connect()
            assert self._handle is not None
            was_committed = marker is not None and self._markers.was_committed(marker, self._handle)
        except (psycopg.Error, StoreError) as error:
            raise ConnectionLost from error
        self._in_doubt = None
        return was_committed

    def _connect(self) -> None:
        handle = self._server.connect(Connection)
        try:
            self._end_former(handle)
            self._identity = identify(handle)
        except BaseException:
            handle.finish()
            raise
        handle.markers = self._markers
        self._handle = handle
        self._sql = PostgresSql(handle, self._sqlalchemy_connection)
        self._hook_is_due = True

    def _end_former(self, handle: Connection) -> None:
        """End the server's process of the lost connection.  Raises psycopg.Error."""
        waited_s = 0.0
        for wait_s in reconnect_delays():
            if self._identity is None or not end_former(handle, self._identity):
                return
            if waited_s > GONE_WITHIN_S:
                raise psycopg.OperationalError("the former connection can't be ended")
            self._given_up.wait(wait_s)
            waited_s += wait_s

    def _discard_connection(self) -> None:
        handle, self._handle = self._handle, None
        conn, self._connection = self._connection, None
        if conn is not None:
            with suppress(psycopg.Error, sa.exc.SQLAlchemyError):
                conn.invalidate()
        if handle is not None:
            handle.finish()
