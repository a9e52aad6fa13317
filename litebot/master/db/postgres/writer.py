"""Runs batches of work on the one connection that writes, each to its commit and each once.

Everything here happens in the pool's thread.  A connection that is lost is made anew, however long
that takes, and the batch goes on: it was committed, or it is run again.  Which of the two, a number
says that the transaction has left in the database: see `markers`.  Before one looks, what may be
left of the lost connection in the server is ended.  So a callable may be run several times, and
only its last result counts.
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
from litebot.master.db.postgres.commit_marker import NONE
from litebot.master.db.postgres.commit_marker import CommitMarkers
from litebot.master.db.postgres.connection import Connection
from litebot.master.db.postgres.connection import NotAlone
from litebot.master.db.postgres.server import AWAY
from litebot.master.db.postgres.server import Identity
from litebot.master.db.postgres.server import Server
from litebot.master.db.postgres.server import Traffic
from litebot.master.db.postgres.server import cut_off
from litebot.master.db.postgres.server import end_former
from litebot.master.db.postgres.server import identify
from litebot.master.db.postgres.server import refuse_shared
from litebot.master.db.postgres.server import traffic
from litebot.master.db.postgres.server import waits
from litebot.master.db.postgres.server import words_of
from litebot.master.db.postgres.sql import PostgresSql

# A connection that was ended may take a moment to be gone.
GONE_WITHIN_S = 5.0

# Called before the first batch on a connection that is not the first, in its transaction.
Hook = Callable[[sa.engine.Connection], None]


@dataclass(frozen=True)
class Asking:
    """A statement that has been sent: on which connection, and when (of time.monotonic())."""

    identity: Identity
    since: float


class Lost(Exception):
    """The connection is gone, or of no use; `__cause__` says why."""


class Again(Exception):
    """The transaction was rolled back, and may go well at another time or in smaller pieces."""


# The server has chosen a transaction to fail so that another one can go on; or a piece wants none.
AGAIN = (errors.DeadlockDetected, errors.SerializationFailure, NotAlone)


class Writer:
    """See the module.  `say` is told, in this thread, of each attempt that the server fails."""

    def __init__(self, server: Server, say: Callable[[Outage], None]) -> None:
        self.engine = sa.create_engine(
            DIALECT_URL, creator=self._for_sqlalchemy, poolclass=NullPool, use_native_hstore=False
        )
        self.before_batch_after_reconnect: Hook | None = None
        self._server = server
        self._say = say
        self._handle: Connection | None = None
        self._connection: sa.engine.Connection | None = None
        self._sql: PostgresSql | None = None
        self._identity: Identity | None = None  # of the connection
        self._new = False  # the hook has not been called on it
        self._markers = CommitMarkers()
        self._in_doubt: int | None = None  # the number of a transaction
        self._thread: int | None = None
        self._given_up = threading.Event()

    # from any thread

    def give_up(self) -> None:
        """Let what runs and what waits for the server fail, soon."""
        self._given_up.set()
        self.cut_off()

    def cut_off(self) -> None:
        """Make the connection fail that is in use, as if the server had closed it."""
        handle = self._handle
        if handle is not None:
            cut_off(handle)

    @property
    def asking(self) -> Asking | None:
        """The statement whose answer is waited for, if one is."""
        handle, identity = self._handle, self._identity
        since = handle.asked_at if handle is not None else None
        return Asking(identity, since) if identity is not None and since is not None else None

    @property
    def traffic(self) -> Traffic | None:
        """What has moved so far on the connection, where that is known."""
        handle = self._handle
        return traffic(handle) if handle is not None else None

    # in the pool's thread

    def open(self) -> None:
        """Connect for the first time.  Raises StoreError where that fails, with a remedy."""
        self._thread = threading.get_ident()
        with postgres.translated_errors(self._server.url):
            self._connect()
            assert self._handle is not None
            with suppress(psycopg.Error):  # there may be no room for another one
                refuse_shared(self._server, self._handle)
        self._new = False

    def close(self) -> None:
        """Close the connection."""
        self._drop()
        self.engine.dispose()

    def run(self, batch: Sequence[Work]) -> None:
        """Run all of it in one transaction, and set the results when that is on disk.

        Raises StoreError where it was given up, and what the hook raises.
        """
        self._thread = threading.get_ident()
        waiting = waits()
        while True:
            try:
                if self._outlived():
                    break
                self._run(batch)
                break
            except Again as again:
                if len(batch) > 1:  # a smaller one has fewer locks that others wait for
                    for work in batch:
                        self.run([work])
                    break
                if isinstance(again.__cause__, NotAlone):
                    break  # it has written before: its own fault, and its result says so
                self._given_up.wait(next(waiting))
            except Lost as lost:
                self._drop()
                self._say(Outage(words_of(lost.__cause__ or lost)))
                if self._given_up.wait(next(waiting)):
                    raise StoreFailed(
                        f"{self._server.shown} is away: {words_of(lost.__cause__ or lost)}",
                        "litebot start BASEDIR, when it is back",
                    ) from lost

    def _run(self, batch: Sequence[Work]) -> None:
        handle = self._handle
        assert handle is not None
        try:
            try:
                self._run_pieces(handle, batch)
            except sa.exc.SQLAlchemyError:  # of the hook, or while a piece is undone
                self._check(handle)
                raise
        except psycopg.Error as error:
            raise Lost from error
        self._new = False

    def _run_pieces(self, handle: Connection, batch: Sequence[Work]) -> None:
        if self._new and self.before_batch_after_reconnect is not None:
            self.before_batch_after_reconnect(self._connected())
            self._settle(keep=True)
            self._check(handle)
        for work in batch:
            work.result = self._result(work)
            if handle.trouble is None:
                self._settle()
            self._check(handle)
        self._commit(handle, batch)

    def _commit(self, handle: Connection, batch: Sequence[Work]) -> None:
        if not handle.begun:
            return
        self._in_doubt = handle.number
        try:
            handle.end()
        except psycopg.Error as error:
            handle.note(error)
            if not handle.is_lost and error.sqlstate not in AWAY:
                self._in_doubt = None
            self._check(handle)
            handle.undo()
            for work in batch:  # a check that is made at the end of a transaction
                work.result = Failure(error)
        self._in_doubt = None

    def _result(self, work: Work) -> Any:
        """The result of one piece of work, or its Failure."""
        try:
            if work.on == "sql":
                assert self._sql is not None
                return self._sql.run(work.callable, *work.args)
            return work.run(self.engine if work.on == "engine" else self._connected())
        except BaseException:  # whatever it is, those around it must get their answers
            return Failure()

    def _settle(self, *, keep: bool = False) -> None:
        """Undo what a piece of work did not commit, and what it set."""
        conn = self._connection
        if conn is not None and not conn.closed:
            if keep:
                conn.commit()
            conn.rollback()
            if conn.get_execution_options():
                conn.close()

    def _check(self, handle: Connection) -> None:
        """Raises what the batch can't survive."""
        trouble = handle.trouble
        if trouble is None and not handle.is_lost:
            return
        if isinstance(trouble, StoreError):
            handle.undo()
            raise trouble
        again = isinstance(trouble, AGAIN)
        if again and not handle.is_lost:
            handle.undo()
            raise Again from trouble
        raise Lost from trouble

    # the connection

    def _for_sqlalchemy(self) -> Connection:
        if self._handle is None or threading.get_ident() != self._thread:
            raise psycopg.ProgrammingError(
                "the master's database connection belongs to its own thread; use master.db.pool.do"
            )
        return self._handle.check_out()

    def _connected(self) -> sa.engine.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self.engine.connect()
        return self._connection

    def _outlived(self) -> bool:
        """See to it that there is a connection; whether the last one has committed the batch."""
        if self._given_up.is_set():
            raise Lost from StoreError("the master gives up")
        number = self._in_doubt
        if number == NONE:
            raise StoreFailed(
                f"{self._server.shown} was lost at a commit, and without the tables of this litebot"
                " it can't be told whether that was done",
                "give the command again",
            )
        try:
            if self._handle is None:
                self._connect()
            assert self._handle is not None
            outlived = number is not None and self._markers.was_committed(number, self._handle)
        except (psycopg.Error, StoreError) as error:
            raise Lost from error
        self._in_doubt = None
        return outlived

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
        self._sql = PostgresSql(handle, self._connected)
        self._new = True

    def _end_former(self, handle: Connection) -> None:
        """What the server still does for the connection that was lost is ended first."""
        waited_s = 0.0
        for wait_s in waits():
            if self._identity is None or not end_former(handle, self._identity):
                return
            if waited_s > GONE_WITHIN_S:
                raise psycopg.OperationalError("the former connection can't be ended")
            self._given_up.wait(wait_s)
            waited_s += wait_s

    def _drop(self) -> None:
        handle, self._handle = self._handle, None
        conn, self._connection = self._connection, None
        if conn is not None:
            with suppress(psycopg.Error, sa.exc.SQLAlchemyError):
                conn.invalidate()
        if handle is not None:
            handle.finish()
