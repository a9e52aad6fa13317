"""Diagnoses a slow statement: the server works on it, is away, or its answer was lost.

A stopped server, or a network that drops packets, sends nothing, and the thread that waits for an
answer can't do anything else.  So another thread opens a second connection and asks the server.  If
the server waits for its client, it has not received the whole statement yet, or is sending its
answer, or has sent it and the answer was lost.  The last is so if no data move on the connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
from buildbot.util import twisted
from twisted.python import log
from twisted.python.failure import Failure

from litebot.master.db.pool import Outage
from litebot.master.db.postgres.server import Server
from litebot.master.db.postgres.server import is_refused_by_server
from litebot.master.db.postgres.server import one_line
from litebot.master.db.postgres.writer import PendingStatement
from litebot.master.db.postgres.writer import Writer

CHECK_AFTER_S = 4.0
# An answer counts as lost after no data have moved for this long.
IDLE_S = 2.0
SAMPLE_EVERY_S = 0.05

# The column `state` can't be used: it is not kept if track_activities is off.
WAIT_EVENT = """
SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s AND backend_start = %s
"""


class Watch:
    """Watches the statements of `writer` between begin() and end().

    `report_outage` is called on the reactor's thread with each outage that it finds.
    """

    def __init__(
        self, server: Server, writer: Writer, reactor: Any, report_outage: Callable[[Outage], None]
    ) -> None:
        self._server = server
        self._writer = writer
        self._reactor = reactor
        self._report_outage = report_outage
        self._thread = twisted.ThreadPool(minthreads=0, maxthreads=1, name="watch")
        self._timer: Any = None
        self._watching = False
        self._patience_s = CHECK_AFTER_S

    def start(self) -> None:
        """Start the thread; call it before all other methods."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; call it after all other methods."""
        self.end()
        self._thread.stop()

    def begin(self) -> None:
        """Begin to watch; a batch of work has started."""
        self._watching = True
        self._patience_s = CHECK_AFTER_S
        self._check_in(CHECK_AFTER_S)

    def end(self) -> None:
        """Stop watching; the batch has ended."""
        self._watching = False
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _check_in(self, seconds: float) -> None:
        self._timer = self._reactor.callLater(seconds, self._check)

    def _check(self) -> None:
        self._timer = None
        statement = self._writer.pending_statement
        waited_s = time.monotonic() - statement.since if statement is not None else 0.0
        if statement is None or waited_s < self._patience_s:
            self._check_in(self._patience_s - waited_s)
        else:
            self._thread.callInThreadWithCallback(self._has_diagnosed, self._diagnose, statement)

    def _diagnose(self, statement: PendingStatement) -> Outage | None:
        """In the thread, return the outage, or None if the server works on the statement."""
        try:
            conn = self._server.connect(psycopg.Connection)
            try:
                row = conn.execute(WAIT_EVENT, statement.identity).fetchone()
            finally:
                conn.close()
        except psycopg.Error as error:
            if is_refused_by_server(error):
                return None  # it may accept no more connections, and still be at work
            return Outage(f"it does not answer; {one_line(error)}")
        if row is not None and (row[0] != "Client" or self._is_moving(statement)):
            return None
        if self._writer.pending_statement == statement:  # otherwise the answer has come meanwhile
            # Something on the way may hold back the data, so each attempt allows more time.
            self._patience_s *= 2
            self._writer.cut_off()
            return Outage("it has answered, and the answer was lost")
        return None

    def _is_moving(self, statement: PendingStatement) -> bool:
        """In the thread, return whether the statement or its answer is still on its way."""
        before = self._writer.traffic
        until = time.monotonic() + IDLE_S
        while (
            before is not None
            and self._writer.pending_statement == statement
            and time.monotonic() < until
        ):
            time.sleep(SAMPLE_EVERY_S)
            if self._writer.traffic not in (before, None):
                return True
        return False

    def _has_diagnosed(self, success: bool, result: Any) -> None:
        self._reactor.callFromThread(self._deliver, result)

    def _deliver(self, result: Outage | Failure | None) -> None:
        if isinstance(result, Failure):
            log.err(result, "while checking on the database server")
        elif result is not None and self._watching:
            self._report_outage(result)
        if self._watching and self._timer is None:
            self._check_in(CHECK_AFTER_S)
