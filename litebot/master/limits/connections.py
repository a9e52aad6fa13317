"""How many connections a port has at the same time, how long each may wait, and who makes room.

A port asks `Connections` before it accepts one.  Where it has as many as it may, one that waits for
its peer is closed for the new one.  So who opens many and sends nothing closes only their own, and
a visitor who has something to ask is let in.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from collections.abc import Collection
from enum import IntEnum
from itertools import islice
from typing import Any

from twisted.protocols.policies import ProtocolWrapper

from litebot.master.limits.refusals import Refusals

TICK_S = 1.0
# A peer that has taken nothing of an answer for so long may have to make room.
STALLED_S = 5.0
# How many connections are accepted in one turn of the reactor.  Nothing of them is read before
# its end, so many more would push each other out.
ACCEPTED_AT_ONCE = 50
# Of so many that could make room the one is found that does; a flood has many.
COMPARED = 20
# So many times as many connections as another address one may not keep from it.
UNFAIR = 4
# Where Linux has the state of a connection, and the count of bytes that the peer has acknowledged.
# Source: struct tcp_info in /usr/include/linux/tcp.h, and /usr/include/netinet/tcp.h
STATE_AT, BYTES_ACKED_AT = 0, 120
TCP_INFO_BYTES = 256
CLOSED, CLOSE_WAIT = 7, 8


class Phase(IntEnum):
    """What a connection does."""

    CLOSING = 0  # it was refused something, and is read until its peer has the answer
    IDLE = 1  # between requests
    HEADERS = 2  # of a request are arriving
    BODY = 3
    ANSWER = 4  # a request is answered; this includes events, which have no end


class Connection:
    """A connection that a port has.

    `check(now)` is called once a second: it ends what takes too long in its phase.
    """

    def __init__(
        self, transport: Any, address: str, now: float, check: Callable[[float], None]
    ) -> None:
        self.address = address
        self.phase = Phase.IDLE
        self.since = now  # when it became idle, or its request began to arrive
        self.body_bytes = 0  # what has arrived of the body of its request
        self.check = check
        self._transport = transport
        lowest = transport
        while isinstance(lowest, ProtocolWrapper):  # such as TLS
            lowest = lowest.transport
        self._lowest: Any = lowest
        self.is_taking = False  # whether something waited for the peer, at the last look
        self._taken = -1
        self._taken_at = now

    @property
    def port(self) -> Any:
        """The port of Twisted's that has accepted it, or None if it was no port of TCP."""
        server = getattr(self._lowest, "server", None)
        return server if hasattr(server, "numberAccepts") else None

    @property
    def is_open(self) -> bool:
        return bool(self._lowest.connected)

    def note_taken(self, now: float) -> float:
        """Look what the peer has taken; return for how many seconds it has taken nothing.

        0 if there is nothing to take.
        """
        waiting, taken = self._unacknowledged()
        self.is_taking = bool(waiting)
        if not waiting or taken != self._taken:
            self._taken, self._taken_at = taken, now
        return now - self._taken_at

    def _unacknowledged(self) -> tuple[int, int]:
        """How many bytes wait for the peer, and a number that changes whenever it takes some."""
        try:
            handle: socket.socket = self._lowest.getHandle()
            (waiting,) = struct.unpack("i", fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4)))
            if not waiting:
                return 0, 0
            (taken,) = struct.unpack_from("Q", self._tcp_info(), BYTES_ACKED_AT)
            return waiting, taken
        except (AttributeError, OSError, ValueError, struct.error):
            return 0, 0  # it is closed, or no socket of TCP

    def has_left(self) -> bool:
        """Whether the peer has closed it; the reactor does not see that while it reads nothing."""
        try:
            return self._tcp_info()[STATE_AT] in (CLOSED, CLOSE_WAIT)
        except (AttributeError, OSError, ValueError):
            return False

    def _tcp_info(self) -> bytes:
        handle: socket.socket = self._lowest.getHandle()
        return handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)

    def has_unread(self) -> bool:
        """Whether something of the peer has come that has not been read."""
        try:
            unread = fcntl.ioctl(self._lowest.getHandle(), termios.FIONREAD, bytes(4))
        except (AttributeError, OSError, ValueError):
            return False
        return unread != bytes(4)

    def may_make_room(self, now: float) -> bool:
        """Whether it waits for its peer: for a request, or for the peer to take an answer."""
        return self.phase < Phase.ANSWER or now - self._taken_at > STALLED_S

    def abort(self) -> None:
        """Close it at once, whatever waits to be sent."""
        if self.is_open:
            self._transport.abortConnection()


class Connections:
    """The connections of one port.

    `caps` returns how many it may have in all and from one address.  `answer_seconds` returns how
    long a peer may take nothing of what is sent to it.
    """

    def __init__(
        self,
        reactor: Any,
        refusals: Refusals,
        caps: Callable[[], tuple[int, int]],
        answer_seconds: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._refusals = refusals
        self._caps = caps
        self._answer_seconds = answer_seconds
        self._by_address: dict[str, dict[Connection, None]] = {}  # the oldest first
        self._count = 0
        self._is_ticking = False
        self._is_slowing = False

    def __len__(self) -> int:
        return self._count

    def admits(self, address: str) -> bool:
        """Return whether a connection from this address is accepted; make room for it if needed."""
        in_all, per_address = self._caps()
        here = self._by_address.get(address, ())
        if len(here) >= min(per_address, in_all) and not self._make_room(here):
            self._refusals.note("too many connections from one address", address)
            return False
        if self._count >= in_all and not self._make_room_in_all(len(here)):
            self._refusals.note("too many connections", address)
            return False
        return True

    def add(self, transport: Any, address: str, check: Callable[[float], None]) -> Connection:
        """Count a connection until it is removed, or is found closed."""
        connection = Connection(transport, address, self._reactor.seconds(), check)
        self._by_address.setdefault(address, {})[connection] = None
        self._count += 1
        if not self._is_ticking:
            self._is_ticking = True
            self._reactor.callLater(TICK_S, self._tick)
        if not self._is_slowing:
            self._is_slowing = True
            self._reactor.callLater(0, self._slow_down, connection.port)
        return connection

    def _slow_down(self, port: Any) -> None:
        """Have Twisted accept no more than ACCEPTED_AT_ONCE; it raises the number in a crowd."""
        self._is_slowing = False
        if port is not None:
            port.numberAccepts = min(port.numberAccepts, ACCEPTED_AT_ONCE)

    def remove(self, connection: Connection) -> None:
        """Count it no more.  Does nothing if it is not counted."""
        here = self._by_address.get(connection.address, {})
        if connection in here:
            del here[connection]
            self._count -= 1
            if not here:
                del self._by_address[connection.address]

    def body_bytes(self, address: str | None = None) -> int:
        """How many bytes of bodies are held for requests, of one address or of all."""
        which = list(self._by_address.values()) if address is None else [self.of(address)]
        return sum(connection.body_bytes for here in which for connection in here)

    def of(self, address: str) -> Collection[Connection]:
        return self._by_address.get(address, ())

    def _make_room_in_all(self, newcomers: int) -> bool:
        """Make room for an address that has so many connections, at the cost of those with most.

        Even one that is answered is closed where an address has many times as many.
        """
        fullest_first = sorted(self._by_address.values(), key=len, reverse=True)
        if any(self._make_room(each) for each in fullest_first):
            return True
        fullest = fullest_first[0]
        return len(fullest) > UNFAIR * (newcomers + 1) and self._make_room(fullest, of_any=True)

    def _make_room(self, here: Collection[Connection], *, of_any: bool = False) -> bool:
        """Close one of the oldest of `here` that has waited long for its peer, if any does."""
        now = self._reactor.seconds()
        all_waiting = (each for each in here if of_any or each.may_make_room(now))
        waiting = list(islice(all_waiting, COMPARED))
        if not waiting:
            return False
        waiting.sort(key=lambda each: (each.phase != Phase.CLOSING, each.since))
        # In a crowd a request may have come that the reactor has had no time to read.
        first = next((each for each in waiting if not each.has_unread()), waiting[0])
        self._refusals.note("connections that made room for others", first.address)
        first.abort()
        self.remove(first)
        return True

    def _tick(self) -> None:
        now, longest = self._reactor.seconds(), self._answer_seconds()
        for connection in [each for here in self._by_address.values() for each in here]:
            if not connection.is_open:  # as one that became a WebSocket, which then was closed
                self.remove(connection)
            elif connection.has_left():
                connection.abort()
                self.remove(connection)
            elif connection.note_taken(now) >= longest:
                self._refusals.note("an answer that was not taken", connection.address)
                connection.abort()
                self.remove(connection)
            else:
                connection.check(now)
        self._is_ticking = bool(self._count)
        if self._is_ticking:
            self._reactor.callLater(TICK_S, self._tick)
