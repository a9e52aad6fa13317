"""A master's session on Postgres: one connection, in a thread, for as long as the master runs.

It holds the master's lock, sends events to the other masters and receives theirs, and finds out
which of them are dead.  The database work of builds does not use it, so builds can't delay it.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from typing import Protocol

import psycopg
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure

from litebot.errors import StoreError
from litebot.errors import StoreFailed
from litebot.master.cluster.events import DROPPED
from litebot.master.cluster.events import Event
from litebot.master.cluster.events import Events
from litebot.master.cluster.peers import Peers
from litebot.master.cluster.peers import Suspects
from litebot.master.cluster.peers import taken_over
from litebot.master.db import postgres
from litebot.master.db.pool import Outage
from litebot.master.db.postgres.server import LONGEST_WAIT_S
from litebot.master.db.postgres.server import Identity
from litebot.master.db.postgres.server import Server
from litebot.master.db.postgres.server import cut_off
from litebot.master.db.postgres.server import end_former
from litebot.master.db.postgres.server import identify
from litebot.master.db.postgres.server import is_usable_after
from litebot.master.db.postgres.server import one_line
from litebot.master.db.postgres.server import reconnect_delays

Conn = psycopg.Connection[Any]

POLL_EVERY_S = 1.0
# The table is also read without a NOTIFY, which can be lost together with its connection.
READ_EVERY_S = 5.0
PRUNE_EVERY_S = 60.0
# The minimum time between two batches of events.
SEND_EVERY_S = 0.01
# How long to wait for the lock if a former process of this master still holds it, or another master
# that found this one dead.
OWN_LOCK_S = 10.0
OWN_LOCK_RETRY_S = 0.1
TAKE_OVER_RETRY_S = 5.0
# After this long without a failure the delays before a retry start over.
RESET_DELAYS_AFTER_S = 5 * LONGEST_WAIT_S
RELEASE_WITHIN_S = 5.0
# Allows for masters that notice a loss later than others, and for what a master asks the server
# when it is back.
MARGIN_S = 3.0

# With these the server releases the lock in time when a machine or a network has vanished.
KEEPALIVE_SETTINGS = """
    SELECT set_config('tcp_keepalives_idle', '2', false),
        set_config('tcp_keepalives_interval', '1', false),
        set_config('tcp_keepalives_count', '3', false),
        set_config('tcp_user_timeout', '5000', false)
"""


def grace_s(server: Server) -> float:
    """Return for how long after it has connected a master declares no other one dead.

    After a server was restarted or replaced, all masters come back one by one.  The last one comes
    after it has waited for its retry, and has tried every address in vain.
    """
    return LONGEST_WAIT_S + server.longest_connect_s() + MARGIN_S


class Listener(Protocol):
    """What a session reports to.  All methods are called on the reactor's thread."""

    def on_events(self, events: list[Event]) -> None:
        """Take events of other masters, in order."""

    def on_gap(self) -> None:
        """Note that some events of other masters are lost, or may be."""

    def on_dead(self, masterid: int, holder: int) -> defer.Deferred[Any]:
        """Take over from a dead master.

        The server's process `holder` holds its lock until the Deferred fires.
        """

    def on_failure(self, error: StoreError) -> None:
        """Note that the session can't go on; called once.

        The error is TakenOver if another master found this one dead.
        """

    def on_outage(self, outage: Outage | None) -> None:
        """Note an `outage` of the session that begins, or None at its end."""


class Session:
    """The session of a master on Postgres, which reports to `listener`.

    `masterid` and `name` are those of this master in the table masters.  `outage` says since when
    the session is cut off, or the server refuses something, and why; it is None while all is well.
    """

    outage: Outage | None = None

    def __init__(
        self,
        server: Server,
        reactor: Any,
        masterid: int,
        name: str,
        suspects: Suspects,
        listener: Listener,
    ) -> None:
        self.name = name
        self._listener = listener
        self._server = server
        self._reactor = reactor
        self._events = Events(masterid)
        self._peers = Peers(masterid, name, suspects)
        self._thread: threading.Thread | None = None
        self._conn: Conn | None = None
        self._identity: Identity | None = None  # of the connection
        self._close_lock = threading.Lock()  # held while the connection is closed or cut off
        self._commands: deque[Callable[[Conn], object]] = deque()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._woken = False
        self._ending = False
        self._ended: defer.Deferred[None] = defer.Deferred()
        self._connections = 0
        self._delivering = False
        self._has_unread_events = True
        self._takeover_retry_at: dict[int, float] = {}  # for each dead master
        self._due_at = {"poll": 0.0, "read": 0.0, "prune": 0.0}
        self._sent_at = 0.0
        self._is_failing = False
        self._failed_at = 0.0
        self._delays = reconnect_delays()

    # on the reactor's thread

    def start(self) -> defer.Deferred[None]:
        """Connect, and take the lock of this master.

        Fails with StoreError if another master of its name has it, or the server refuses.
        """
        started: defer.Deferred[None] = defer.Deferred()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="session", daemon=True
        )
        self._thread.start()
        return started

    def stop(self) -> defer.Deferred[None]:
        """Send the remaining events and release the lock, within RELEASE_WITHIN_S."""
        if self._thread is None:
            return defer.succeed(None)
        self._ending = True
        self._wake()
        timer = self._reactor.callLater(RELEASE_WITHIN_S, self._cut_off)
        self._ended.addBoth(lambda _: timer.cancel() if timer.active() else None)
        return self._ended

    def started_as(self, startid: int) -> None:
        """Set the id of this start in litebot_starts."""
        self._peers.startid = startid

    def send(self, key: tuple[str, ...], message: Any) -> None:
        """Send an event to the other masters, if there are any."""
        self._events.add(key, message)
        if not self._peers.is_alone:
            self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._wake_sender.send(b".")

    def _cut_off(self) -> None:
        """Cut off the connection, which does not answer."""
        with self._close_lock:
            if self._conn is not None and not self._conn.closed:
                cut_off(self._conn)

    def _deliver(self, events: list[Event]) -> None:
        try:
            self._listener.on_events([event for event in events if event.key != DROPPED])
            if any(event.key == DROPPED for event in events):
                log.msg("events of other masters are lost; reading the database instead")
                self._report_gap()
        except Exception:
            log.err(None, "while delivering events of other masters")
        finally:
            self._delivering = False
            self._wake()

    def _report_gap(self) -> None:
        try:
            self._listener.on_gap()
        except Exception:
            log.err(None, "while reading the database after events were lost")

    def _found_dead(self, masterid: int, holder: int, connection: int) -> None:
        d: defer.Deferred[Any] = defer.maybeDeferred(self._listener.on_dead, masterid, holder)
        d.addErrback(lambda failure: failure.trap(StoreFailed))
        d.addErrback(lambda f: log.err(f, f"while taking over from master {masterid}"))
        d.addBoth(
            lambda _: self._commands.append(partial(self._release_lock, masterid, connection))
        )
        d.addBoth(lambda _: self._wake())

    def _outage_began(self, outage: Outage) -> None:
        log.msg(f"the session on {self._server.shown} fails: {outage.words}; trying again")
        self._set_outage(outage)

    def _outage_ended(self) -> None:
        if self.outage is not None:
            lasted_s = time.time() - self.outage.since
            log.msg(f"the session on {self._server.shown} is back after {lasted_s:.1f} s")
            self._set_outage(None)

    def _set_outage(self, outage: Outage | None) -> None:
        self.outage = outage
        self._listener.on_outage(outage)

    def _has_ended(self) -> None:
        self._woken = True  # the thread must not be woken any more
        self._wake_receiver.close()
        self._wake_sender.close()
        self._ended.callback(None)

    # in its own thread

    def _run(self, started: defer.Deferred[None]) -> None:
        on_reactor = self._reactor.callFromThread
        try:
            self._open()
        except psycopg.Error as error:
            on_reactor(started.errback, postgres.refusal(self._server.url, error))
        except Exception:
            on_reactor(started.errback, Failure())
        else:
            on_reactor(started.callback, None)
            self._run_connected()
        self._close()
        on_reactor(self._has_ended)

    def _run_connected(self) -> None:
        on_reactor = self._reactor.callFromThread
        try:
            while not self._ending:
                try:
                    assert self._conn is not None
                    self._work(self._conn)
                    self._note_success()
                    self._wait(self._conn)
                except psycopg.Error as error:
                    self._note_failure(error)
                    if not is_usable_after(self._conn, error):
                        self._connect_again()
                    self._pause()
            if self._conn is not None:
                self._peers.poll(self._conn)  # another master may just have started
                if not self._peers.is_alone:
                    self._events.send(self._conn)
        except psycopg.Error as error:
            on_reactor(
                log.msg, f"while ending the session on {self._server.shown}: {one_line(error)}"
            )
        except Exception as raised:
            if not isinstance(raised, StoreError):
                on_reactor(log.err, Failure(), "in the session on the database")
                raised = StoreError(f"the session on {self._server.shown} failed: {raised!r}")
            on_reactor(self._listener.on_failure, raised)

    def _open(self) -> None:
        """Connect and take the lock.  Raises psycopg.Error, StoreError and TakenOver."""
        self._conn = conn = self._server.connect(psycopg.Connection)
        conn.execute(KEEPALIVE_SETTINGS)
        self._connections += 1
        give_up_at = time.monotonic() + OWN_LOCK_S
        self._peers.check_own(conn)
        if self._identity is not None:
            # A proxy may not have told the server that the former connection is closed.
            end_former(conn, self._identity)
        self._identity = identify(conn)
        while not self._peers.lock(conn, self._peers.masterid):
            if self._ending:
                raise psycopg.OperationalError("the master stops")
            if time.monotonic() > give_up_at:
                raise self._lock_error()
            time.sleep(OWN_LOCK_RETRY_S)
            self._peers.check_own(conn)
        self._peers.check_own(conn)  # whoever had the lock may have taken over
        self._peers.connected(conn, grace_s(self._server))
        self._events.listen(conn)
        conn.add_notify_handler(self._notified)
        self._takeover_retry_at.clear()
        self._has_unread_events = True
        self._due_at["poll"] = 0.0

    def _lock_error(self) -> StoreError:
        """Return the error for a lock that stays with another master."""
        if self._peers.startid is not None:
            return taken_over(self.name, "another master of its name")
        return StoreError(
            f"{self._server.shown} has a running master named {self.name} already, or another"
            " master is taking over its work; a name is a host's and a basedir's, and each master"
            " needs its own"
        )

    def _close(self) -> None:
        with self._close_lock:
            if self._conn is not None:
                self._conn.close()
                self._conn = None

    def _note_success(self) -> None:
        if self._is_failing:
            self._is_failing = False
            self._reactor.callFromThread(self._outage_ended)

    def _note_failure(self, error: psycopg.Error) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._reactor.callFromThread(self._outage_began, Outage(one_line(error)))

    def _pause(self) -> None:
        """Wait before a retry, longer each time if it fails repeatedly.

        A connection that still exists keeps the lock meanwhile; if it is lost, the wait ends.
        """
        if time.monotonic() - self._failed_at > RESET_DELAYS_AFTER_S:
            self._delays = reconnect_delays()
        until = time.monotonic() + next(self._delays)
        with suppress(psycopg.Error):
            while not self._ending and (wait_s := until - time.monotonic()) > 0:
                self._wait(self._conn, wait_s)
        self._failed_at = time.monotonic()

    def _connect_again(self) -> None:
        """Connect again, however long that takes.  Raises StoreError and TakenOver."""
        while True:
            self._close()
            if self._ending:
                return
            try:
                self._open()
                return
            except psycopg.Error as error:
                self._note_failure(error)
                self._close()
                self._pause()

    def _work(self, conn: Conn) -> None:
        """Do everything that is due now.  Raises psycopg.Error, StoreError and TakenOver."""
        while self._commands:
            self._commands[0](conn)
            self._commands.popleft()
        if self._is_due("poll", POLL_EVERY_S):
            waiting = len(self._events.outgoing)
            if identify(conn) != self._identity:
                raise self._server.pooler_error()
            self._peers.check_own(conn)
            dead = self._peers.poll(conn)
            if self._peers.is_alone:
                self._events.drop(waiting)
            if self._peers.departed:  # perhaps while it was cut off and could not send its events
                self._reactor.callFromThread(self._report_gap)
            for masterid in dead:
                self._begin_takeover(conn, masterid)
        if not self._delivering and (self._is_due("read", READ_EVERY_S) or self._has_unread_events):
            self._has_unread_events = False
            events, self._has_unread_events = self._events.read(conn)
            if events:
                self._delivering = True
                self._reactor.callFromThread(self._deliver, events)
        if self._is_due("prune", PRUNE_EVERY_S):
            self._events.prune(conn)
        # Sending comes last: if it fails, everything else has been done.
        if self._events.has_unsent and not self._peers.is_alone:
            time.sleep(max(0.0, self._sent_at + SEND_EVERY_S - time.monotonic()))
            self._events.send(conn)
            self._sent_at = time.monotonic()

    def _is_due(self, what: str, every_s: float) -> bool:
        now = time.monotonic()
        if now < self._due_at[what]:
            return False
        self._due_at[what] = now + every_s
        return True

    def _wait(self, conn: Conn | None, timeout_s: float | None = None) -> None:
        """Wait until there is something to do, or for `timeout_s`.  Raises psycopg.Error."""
        if conn is not None:
            conn.pgconn.consume_input()
            while (notify := conn.pgconn.notifies()) is not None:
                self._has_unread_events |= self._is_from_another(notify.be_pid)
        if conn is not None and timeout_s is None:
            if self._has_unread_events and not self._delivering:
                return
            due = [
                at for what, at in self._due_at.items() if what != "read" or not self._delivering
            ]
            timeout_s = max(0.0, min(due) - time.monotonic())
        poll = select.poll()
        poll.register(self._wake_receiver, select.POLLIN)
        if conn is not None:
            poll.register(conn.fileno(), select.POLLIN)
        poll.poll(None if timeout_s is None else timeout_s * 1000 + 1)
        with suppress(BlockingIOError):
            self._wake_receiver.recv(4096)
        self._woken = False

    def _notified(self, notify: psycopg.Notify) -> None:
        self._has_unread_events |= self._is_from_another(notify.pid)

    def _is_from_another(self, pid: int) -> bool:
        return self._identity is None or pid != self._identity.pid

    def _begin_takeover(self, conn: Conn, masterid: int) -> None:
        """Take the lock of a dead master, and have its work taken over."""
        if time.monotonic() < self._takeover_retry_at.get(masterid, 0.0):
            return
        assert self._identity is not None
        if self._peers.lock(conn, masterid):
            self._takeover_retry_at[masterid] = float("inf")
            try:
                self._peers.end_connections(conn, masterid)
            except psycopg.Error:
                self._commands.append(partial(self._release_lock, masterid, self._connections))
                raise
            holder = self._identity.pid
            self._reactor.callFromThread(self._found_dead, masterid, holder, self._connections)

    def _release_lock(self, masterid: int, connection: int, conn: Conn) -> None:
        if connection == self._connections:
            self._peers.unlock(conn, masterid)
            self._takeover_retry_at[masterid] = time.monotonic() + TAKE_OVER_RETRY_S
