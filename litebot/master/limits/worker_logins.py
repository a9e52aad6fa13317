"""What a connection to the port for workers may do before it has logged in.

This holds for all who use that port: workers of either protocol, `buildbot sendchange`, `try` and
`user`.  Once a connection has logged in it may send what Buildbot lets it send.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from twisted.internet import task

from litebot.master.limits.addresses import address_of
from litebot.master.limits.failures import Failures
from litebot.master.limits.refusals import printable

# A login takes less than a second.  Connections that are no older are not counted, so that many
# workers which come at once, as after a restart, all get in; but never more than MOST_AT_ONCE times
# as many as may stay.
YOUNG_S = 1.0
MOST_AT_ONCE = 4
# Decoding takes quadratic time, so it is done in pieces; what was decoded is looked at after each.
PIECE_BYTES = 512
FREE_TRIES = 5
LONGEST_PAUSE_S = 8.0
LONGEST_NAME = 256


class WorkerLogins:
    """The connections that have not logged in, and the wrong logins, of all ports for workers."""

    def __init__(self, master: Any) -> None:
        self._master = master
        self._open: dict[LimitedLogin, float] = {}  # when each came, the oldest first
        self._failures = Failures(master.reactor, FREE_TRIES, LONGEST_PAUSE_S)
        self._next_look: Any = None

    @property
    def _limits(self) -> Any:
        return self._master.settings.limits

    def enter(self, connection: LimitedLogin) -> None:
        """Count a new connection, and give it `login_seconds` to log in."""
        reactor = self._master.reactor
        self._open[connection] = reactor.seconds()
        connection.timer = reactor.callLater(self._limits.login_seconds, connection.expire)
        if len(self._open) > MOST_AT_ONCE * self._limits.worker_logins:
            self._refuse_surplus(list(self._open), MOST_AT_ONCE * self._limits.worker_logins)
        if self._next_look is None:
            self._next_look = reactor.callLater(YOUNG_S, self._look)

    def leave(self, connection: LimitedLogin) -> None:
        """Count a connection no more: it has logged in, or is lost."""
        self._open.pop(connection, None)
        if connection.timer is not None and connection.timer.active():
            connection.timer.cancel()
        if not self._open and self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _look(self) -> None:
        now = self._master.reactor.seconds()
        self._next_look = self._master.reactor.callLater(YOUNG_S, self._look)
        old = [c for c, since in self._open.items() if now - since >= YOUNG_S and not c.waits]
        self._refuse_surplus(old, self._limits.worker_logins)

    def _refuse_surplus(self, connections: list[LimitedLogin], limit: int) -> None:
        """Close what is beyond `limit`: each time the oldest of the address that has most."""
        by_address: dict[str, list[LimitedLogin]] = defaultdict(list)
        for connection in reversed(connections):
            by_address[connection.address].append(connection)
        for _ in range(len(connections) - limit):
            oldest = max(by_address.values(), key=len).pop()
            oldest.refuse("too many connections of workers that have not logged in")

    def refused(self, reason: str, address: str) -> None:
        """Count and log a refusal."""
        self._master.refusals.note(reason, f"from {address}")

    async def may_try(self, connection: LimitedLogin, name: str) -> None:
        """Wait until this name may be tried from this address, and count the try."""
        key = (name[:LONGEST_NAME], connection.address)
        while (pause := self._failures.wait_s(key)) > 0 and not connection.is_lost:
            await task.deferLater(self._master.reactor, pause, lambda: None)
        self._failures.add(key)

    def failed(self, connection: LimitedLogin, name: str) -> None:
        """Count and log a wrong name or password."""
        shown = printable(name, 64)
        self._master.refusals.note("wrong worker login", f"{shown!r} from {connection.address}")

    def succeeded(self, connection: LimitedLogin, name: str) -> None:
        """Lift the limits from a connection that has logged in."""
        self._failures.forget((name[:LONGEST_NAME], connection.address))
        connection.has_logged_in = True
        self.leave(connection)


class LimitedLogin:
    """Put before the class of a protocol, limits what it receives until it has logged in.

    `most_bytes` is all that it may receive.  What `waits` is the master's turn, so such a
    connection is not one too many, and has as long as the master takes.
    """

    worker_logins: WorkerLogins
    transport: Any
    most_bytes = 4096

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.has_logged_in = False
        self.waits = False
        self.is_lost = False
        self.address = ""
        self.timer: Any = None
        self._received = 0

    def connectionMade(self) -> None:
        """Begin to count; a peer that is gone without a word is found by TCP's keepalive."""
        self.address = address_of(self.transport.getPeer())
        if (keep := getattr(self.transport, "setTcpKeepAlive", None)) is not None:
            keep(True)
        self.worker_logins.enter(self)
        super().connectionMade()  # type: ignore[misc]

    def connectionLost(self, reason: Any) -> None:
        """Stop to count."""
        self.is_lost = True
        self.worker_logins.leave(self)
        super().connectionLost(reason)  # type: ignore[misc]

    def dataReceived(self, data: bytes) -> None:
        """Pass on what is received, piece by piece and not too much of it before the login."""
        position = 0
        while not self.has_logged_in and not self.is_lost and position < len(data):
            piece = data[position : position + PIECE_BYTES]
            position += PIECE_BYTES
            self._received += len(piece)
            if self._received > self.most_bytes:
                return self.refuse("too much data before a worker login")
            try:
                super().dataReceived(piece)  # type: ignore[misc]
            except Exception:
                if self.has_logged_in:
                    raise
                return self.refuse("malformed worker login")
            if self.is_unusual():
                return self.refuse("malformed worker login")
        if self.has_logged_in and not self.is_lost and position < len(data):
            super().dataReceived(data[position:])  # type: ignore[misc]
        return None

    def is_unusual(self) -> bool:
        """Return whether what has been decoded so far is none of a login."""
        return False

    def expire(self) -> None:
        """Close a connection that has not logged in in time."""
        if not self.waits:
            self.refuse("slow worker login")

    def refuse(self, reason: str) -> None:
        """Close the connection at once."""
        if not self.is_lost:
            self.is_lost = True
            self.worker_logins.leave(self)
            self.worker_logins.refused(reason, self.address)
            self.transport.abortConnection()
