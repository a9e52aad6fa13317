"""A master's session on Postgres: one connection, in a thread, for as long as the master lives.

It holds the master's lock, tells other masters of events and hears theirs, and looks who of them is
dead.  It is not for the database work of builds, so nothing that these do can hold it up.
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

LOOK_FOR_DEAD_EVERY_S = 1.0
# A NOTIFY can be lost with the connection it was for.
READ_EVERY_S = 5.0
PRUNE_EVERY_S = 60.0
# How far apart two batches of events are at least.
SEND_EVERY_S = 0.01
# For how long a former self may still hold the lock, or who has found this master dead.
OWN_LOCK_S = 10.0
OWN_LOCK_RETRY_S = 0.1
TAKE_OVER_AGAIN_S = 5.0
# After how long without a failure the next one is tried again soon.
CALM_S = 5 * LONGEST_WAIT_S
LET_GO_WITHIN_S = 5.0
# How much sooner than others one may notice a loss, and what there is to ask when one is back.
MARGIN_S = 3.0

# For the server to let go of the lock in time where a machine or a network has gone.
VANISHED = """
    SELECT set_config('tcp_keepalives_idle', '2', false),
        set_config('tcp_keepalives_interval', '1', false),
        set_config('tcp_keepalives_count', '3', false),
        set_config('tcp_user_timeout', '5000', false)
"""


def grace_s(server: Server) -> float:
    """For how long nobody is judged after a connection of one's own.

    After a server has restarted, or another one has taken its place, all come back one by one, the
    last of them when it has waited, and tried in vain what addresses there are.
    """
    return LONGEST_WAIT_S + server.longest_connect_s() + MARGIN_S


class Session:
    """`master.session` of a master on Postgres.

    `masterid` and `name` are this master's in the table masters.  What is called on the reactor's
    thread, where it is set: `on_events` with events of other masters, in order; `on_gap` where
    some of these are lost, or may be; `on_dead` with the id of a master whose lock is held until
    the Deferred that it returns fires, and the server's process that holds it; `on_failure` once,
    where it can't go on: with TakenOver where another master has found this one dead; `on_outage`
    with each `outage` that begins, and with None at its end.  That says since when the session is
    cut off or the server refuses something, and why.
    """

    on_events: Callable[[list[Event]], None] | None = None
    on_gap: Callable[[], None] | None = None
    on_dead: Callable[[int, int], defer.Deferred[Any]] | None = None
    on_failure: Callable[[StoreError], object] | None = None
    on_outage: Callable[[Outage | None], None] | None = None
    outage: Outage | None = None

    def __init__(
        self, server: Server, reactor: Any, masterid: int, name: str, suspects: Suspects
    ) -> None:
        self.name = name
        self._server = server
        self._reactor = reactor
        self._events = Events(masterid)
        self._peers = Peers(masterid, name, suspects)
        self._thread: threading.Thread | None = None
        self._conn: Conn | None = None
        self._identity: Identity | None = None  # of it
        self._guard = threading.Lock()  # of closing it
        self._asked: deque[Callable[[Conn], object]] = deque()
        self._wakes, self._waker = socket.socketpair()
        self._wakes.setblocking(False)
        self._woken = False
        self._ending = False
        self._ended: defer.Deferred[None] = defer.Deferred()
        self._connections = 0
        self._delivering = False
        self._has_news = True
        self._taking: dict[int, float] = {}  # and when it may be tried again
        self._due = {"look": 0.0, "read": 0.0, "prune": 0.0}
        self._sent_at = 0.0
        self._fails = False
        self._failed_at = 0.0
        self._waits = reconnect_delays()

    # on the reactor's thread

    def start(self) -> defer.Deferred[None]:
        """Connect, and take the lock of this master.

        Fails with StoreError where another master of its name has it, or the server refuses.
        """
        started: defer.Deferred[None] = defer.Deferred()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="session", daemon=True
        )
        self._thread.start()
        return started

    def stop(self) -> defer.Deferred[None]:
        """Send what waits and let go of the lock, within LET_GO_WITHIN_S."""
        if self._thread is None:
            return defer.succeed(None)
        self._ending = True
        self._wake()
        cut = self._reactor.callLater(LET_GO_WITHIN_S, self._cut)
        self._ended.addBoth(lambda _: cut.cancel() if cut.active() else None)
        return self._ended

    def started_as(self, startid: int) -> None:
        """Tell it the id of this start in litebot_starts."""
        self._peers.startid = startid

    def send(self, key: tuple[str, ...], message: Any) -> None:
        """Tell the other masters of an event, where there are any."""
        self._events.add(key, message)
        if not self._peers.is_alone:
            self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._waker.send(b".")

    def _cut(self) -> None:
        """End a connection that does not answer."""
        with self._guard:
            if self._conn is not None and not self._conn.closed:
                cut_off(self._conn)

    def _deliver(self, events: list[Event]) -> None:
        try:
            if self.on_events is not None:
                self.on_events([event for event in events if event.key != DROPPED])
            if any(event.key == DROPPED for event in events):
                log.msg("events of other masters are lost; looking at the database instead")
                self._note_gap()
        except Exception:
            log.err(None, "while delivering events of other masters")
        finally:
            self._delivering = False
            self._wake()

    def _note_gap(self) -> None:
        try:
            if self.on_gap is not None:
                self.on_gap()
        except Exception:
            log.err(None, "while looking for what events would have told")

    def _found_dead(self, masterid: int, holder: int, connection: int) -> None:
        d: defer.Deferred[Any] = defer.succeed(None)
        if self.on_dead is not None:
            d = defer.maybeDeferred(self.on_dead, masterid, holder)
        d.addErrback(lambda failure: failure.trap(StoreFailed))
        d.addErrback(lambda f: log.err(f, f"while taking over from master {masterid}"))
        d.addBoth(lambda _: self._asked.append(partial(self._let_go, masterid, connection)))
        d.addBoth(lambda _: self._wake())

    def _begins(self, outage: Outage) -> None:
        log.msg(f"the session on {self._server.shown} fails: {outage.words}; trying again")
        self._set_outage(outage)

    def _is_over(self) -> None:
        if self.outage is not None:
            lasted_s = time.time() - self.outage.since
            log.msg(f"the session on {self._server.shown} is back after {lasted_s:.1f} s")
            self._set_outage(None)

    def _set_outage(self, outage: Outage | None) -> None:
        self.outage = outage
        if self.on_outage is not None:
            self.on_outage(outage)

    def _has_ended(self) -> None:
        self._woken = True  # nobody is to be woken any more
        self._wakes.close()
        self._waker.close()
        self._ended.callback(None)

    # in its own thread

    def _run(self, started: defer.Deferred[None]) -> None:
        tell = self._reactor.callFromThread
        try:
            self._open()
        except psycopg.Error as error:
            tell(started.errback, postgres.refusal(self._server.url, error))
        except Exception:
            tell(started.errback, Failure())
        else:
            tell(started.callback, None)
            self._run_connected()
        self._close()
        tell(self._has_ended)

    def _run_connected(self) -> None:
        tell = self._reactor.callFromThread
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
                self._peers.poll(self._conn)  # one may just have come
                if not self._peers.is_alone:
                    self._events.send(self._conn)
        except psycopg.Error as error:
            tell(log.msg, f"while ending the session on {self._server.shown}: {one_line(error)}")
        except Exception as raised:
            if not isinstance(raised, StoreError):
                tell(log.err, Failure(), "in the session on the database")
                raised = StoreError(f"the session on {self._server.shown} failed: {raised!r}")
            if self.on_failure is not None:
                tell(self.on_failure, raised)

    def _open(self) -> None:
        """Connect and take the lock.  Raises psycopg.Error, StoreError, TakenOver."""
        self._conn = conn = self._server.connect(psycopg.Connection)
        conn.execute(VANISHED)
        self._connections += 1
        give_up_at = time.monotonic() + OWN_LOCK_S
        self._peers.check_own(conn)
        if self._identity is not None:  # a proxy may not have told the server that it is gone
            end_former(conn, self._identity)
        self._identity = identify(conn)
        while not self._peers.lock(conn, self._peers.masterid):
            if self._ending:
                raise psycopg.OperationalError("the master stops")
            if time.monotonic() > give_up_at:
                raise self._refused()
            time.sleep(OWN_LOCK_RETRY_S)
            self._peers.check_own(conn)
        self._peers.check_own(conn)  # by who had the lock
        self._peers.connected(conn, grace_s(self._server))
        self._events.listen(conn)
        conn.add_notify_handler(self._notified)
        self._taking.clear()
        self._has_news = True
        self._due["look"] = 0.0

    def _refused(self) -> StoreError:
        if self._peers.startid is not None:
            return taken_over(self.name, "another master of its name")
        return StoreError(
            f"{self._server.shown} has a running master named {self.name} already, or another"
            " master is taking over its work; a name is a host's and a basedir's, and each master"
            " needs its own"
        )

    def _close(self) -> None:
        with self._guard:
            if self._conn is not None:
                self._conn.close()
                self._conn = None

    def _note_success(self) -> None:
        if self._fails:
            self._fails = False
            self._reactor.callFromThread(self._is_over)

    def _note_failure(self, error: psycopg.Error) -> None:
        if not self._fails:
            self._fails = True
            self._reactor.callFromThread(self._begins, Outage(one_line(error)))

    def _pause(self) -> None:
        """Wait, longer and longer where it fails again and again.

        While there is a connection it holds the lock; where that is lost the wait is over.
        """
        if time.monotonic() - self._failed_at > CALM_S:
            self._waits = reconnect_delays()
        until = time.monotonic() + next(self._waits)
        with suppress(psycopg.Error):
            while not self._ending and (wait_s := until - time.monotonic()) > 0:
                self._wait(self._conn, wait_s)
        self._failed_at = time.monotonic()

    def _connect_again(self) -> None:
        """Raises StoreError, TakenOver."""
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
        """Do what is to be done now.  Raises psycopg.Error, StoreError, TakenOver."""
        while self._asked:
            self._asked[0](conn)
            self._asked.popleft()
        if self._is_due("look", LOOK_FOR_DEAD_EVERY_S):
            waiting = len(self._events.outgoing)
            if identify(conn) != self._identity:
                raise self._server.pooler_error()
            self._peers.check_own(conn)
            dead = self._peers.poll(conn)
            if self._peers.is_alone:
                self._events.drop(waiting)
            if self._peers.left:  # maybe while cut off, so with events that were not sent
                self._reactor.callFromThread(self._note_gap)
            for masterid in dead:
                self._take(conn, masterid)
        if not self._delivering and (self._is_due("read", READ_EVERY_S) or self._has_news):
            self._has_news = False
            events, self._has_news = self._events.read(conn)
            if events:
                self._delivering = True
                self._reactor.callFromThread(self._deliver, events)
        if self._is_due("prune", PRUNE_EVERY_S):
            self._events.prune(conn)
        # Comes last, so that where it fails all else is done nevertheless.
        if self._events.is_waiting and not self._peers.is_alone:
            time.sleep(max(0.0, self._sent_at + SEND_EVERY_S - time.monotonic()))
            self._events.send(conn)
            self._sent_at = time.monotonic()

    def _is_due(self, what: str, every_s: float) -> bool:
        now = time.monotonic()
        if now < self._due[what]:
            return False
        self._due[what] = now + every_s
        return True

    def _wait(self, conn: Conn | None, timeout_s: float | None = None) -> None:
        """Until there is something to do, or for so long.  Raises psycopg.Error."""
        if conn is not None:
            conn.pgconn.consume_input()
            while (notify := conn.pgconn.notifies()) is not None:
                self._has_news |= self._is_news(notify.be_pid)
        if conn is not None and timeout_s is None:
            if self._has_news and not self._delivering:
                return
            due = [at for what, at in self._due.items() if what != "read" or not self._delivering]
            timeout_s = max(0.0, min(due) - time.monotonic())
        poll = select.poll()
        poll.register(self._wakes, select.POLLIN)
        if conn is not None:
            poll.register(conn.fileno(), select.POLLIN)
        poll.poll(None if timeout_s is None else timeout_s * 1000 + 1)
        with suppress(BlockingIOError):
            self._wakes.recv(4096)
        self._woken = False

    def _notified(self, notify: psycopg.Notify) -> None:
        self._has_news |= self._is_news(notify.pid)

    def _is_news(self, pid: int) -> bool:
        return self._identity is None or pid != self._identity.pid

    def _take(self, conn: Conn, masterid: int) -> None:
        """Have the work of a dead master taken over."""
        if time.monotonic() < self._taking.get(masterid, 0.0):
            return
        assert self._identity is not None
        if self._peers.lock(conn, masterid):
            self._taking[masterid] = float("inf")
            try:
                self._peers.end_connections(conn, masterid)
            except psycopg.Error:
                self._asked.append(partial(self._let_go, masterid, self._connections))
                raise
            holder = self._identity.pid
            self._reactor.callFromThread(self._found_dead, masterid, holder, self._connections)

    def _let_go(self, masterid: int, connection: int, conn: Conn) -> None:
        if connection == self._connections:
            self._peers.unlock(conn, masterid)
            self._taking[masterid] = time.monotonic() + TAKE_OVER_AGAIN_S
