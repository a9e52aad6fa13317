"""Looks after a statement that takes long: the server is at work, or away, or has lost touch.

A server that is stopped, or a network that swallows what it is given, says nothing, and the thread
that waits for an answer can't look elsewhere.  So somebody else connects anew and asks.  A server
that waits for its client has not got all of the statement yet, or is telling its answer, or has
told it and the answer was lost: the last where nothing moves on the connection.
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
from litebot.master.db.postgres.server import refuses
from litebot.master.db.postgres.server import words_of
from litebot.master.db.postgres.writer import Asking
from litebot.master.db.postgres.writer import Writer

LOOK_AFTER_S = 4.0
# For how long nothing may move before an answer is taken for lost.
STILL_S = 2.0
SAMPLE_EVERY_S = 0.05

# And not the state, which is not kept where track_activities is off.
WAITS_FOR = """
SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s AND backend_start = %s
"""


class Watch:
    """Watches what `writer` waits for, between begin() and end().  `say` is told of outages."""

    def __init__(
        self, server: Server, writer: Writer, reactor: Any, say: Callable[[Outage], None]
    ) -> None:
        self._server = server
        self._writer = writer
        self._reactor = reactor
        self._say = say
        self._thread = twisted.ThreadPool(minthreads=0, maxthreads=1, name="watch")
        self._timer: Any = None
        self._watching = False
        self._patience_s = LOOK_AFTER_S

    def start(self) -> None:
        """Before all else."""
        self._thread.start()

    def stop(self) -> None:
        """After all else."""
        self.end()
        self._thread.stop()

    def begin(self) -> None:
        """Work begins."""
        self._watching = True
        self._patience_s = LOOK_AFTER_S
        self._look_in(LOOK_AFTER_S)

    def end(self) -> None:
        """It has ended."""
        self._watching = False
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _look_in(self, seconds: float) -> None:
        self._timer = self._reactor.callLater(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        asking = self._writer.asking
        waited_s = time.monotonic() - asking.since if asking is not None else 0.0
        if asking is None or waited_s < self._patience_s:
            self._look_in(self._patience_s - waited_s)
        else:
            self._thread.callInThreadWithCallback(self._has_asked, self._ask, asking)

    def _ask(self, asking: Asking) -> Outage | None:
        """In the thread: what is wrong, or None where the statement is being worked on."""
        try:
            conn = self._server.connect(psycopg.Connection)
            try:
                row = conn.execute(WAITS_FOR, asking.identity).fetchone()
            finally:
                conn.close()
        except psycopg.Error as error:
            if refuses(error):
                return None  # it may have no room for one more connection, and be at work
            return Outage(f"it does not answer; {words_of(error)}")
        if row is not None and (row[0] != "Client" or self._moves(asking)):
            return None
        if self._writer.asking == asking:  # else the answer has come meanwhile
            # Something between may hold what does not move here: it gets more time with each try.
            self._patience_s *= 2
            self._writer.cut_off()
            return Outage("it has answered, and the answer was lost")
        return None

    def _moves(self, asking: Asking) -> bool:
        """In the thread: whether the statement is still being sent, or its answer received."""
        before = self._writer.traffic
        until = time.monotonic() + STILL_S
        while before is not None and self._writer.asking == asking and time.monotonic() < until:
            time.sleep(SAMPLE_EVERY_S)
            if self._writer.traffic not in (before, None):
                return True
        return False

    def _has_asked(self, success: bool, result: Any) -> None:
        self._reactor.callFromThread(self._asked, result)

    def _asked(self, result: Outage | Failure | None) -> None:
        if isinstance(result, Failure):
            log.err(result, "while looking for the database server")
        elif result is not None and self._watching:
            self._say(result)
        if self._watching and self._timer is None:
            self._look_in(LOOK_AFTER_S)
