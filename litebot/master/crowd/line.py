"""The line between a master and its desk, over which connections go."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.python import log
from zope.interface import implementer

# What a message begins with: its kind.  To the desk: connections to answer; to end after that.
ACCEPTED, LEAVE = b"A", b"L"
# To the master: the desk can be given some; it goes on; lines for http.log.
READY, ALIVE, LINES = b"R", b"A", b"H"

# The desk's end of it, as the master hands it over.
LINE_FD = 3

# Of a message: bytes, which a socket takes in one piece, and connections (the system's limit: 253).
LARGEST = 64 * 1024
MOST = 64

Received = Callable[[bytes, bytes, list[int]], None]


@dataclass(frozen=True)
class Offer:
    """What a master tells its desk: where the state file is, and what of its configuration counts.

    `family` is that of the connections (of the module socket).
    """

    state_file: str
    url: str
    www: dict[str, Any]
    family: int

    def to_json(self) -> str:
        """As the desk's argument."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Offer:
        """From that."""
        return cls(**json.loads(text))


@implementer(IReadDescriptor)
class Line:
    """One end, which it closes when the other is.

    `received` is called with the kind of a message, its bytes, and its file descriptors, which are
    the receiver's to close; `ended` when there will be no more.
    """

    def __init__(
        self, end: socket.socket, reactor: Any, received: Received, ended: Callable[[], None]
    ) -> None:
        self._socket = end
        self._reactor = reactor
        self._received = received
        self._ended = ended
        end.setblocking(False)
        reactor.addReader(self)

    def send(self, kind: bytes, data: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Raises BlockingIOError where the other end is behind, and OSError where it is not."""
        socket.send_fds(self._socket, [kind + data], fds)

    def close(self) -> None:
        """End it, without `ended`; may be called again."""
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            self._socket.close()

    def fileno(self) -> int:
        """For the reactor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """For the reactor."""
        return "crowd"

    def connectionLost(self, _reason: Any) -> None:
        """The reactor stops."""
        self.close()
        self._ended()

    def doRead(self) -> None:
        """Take what has come."""
        while self._socket.fileno() >= 0:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, LARGEST, MOST)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self.close()
                self._ended()
                return
            for fd in fds:
                os.set_inheritable(fd, False)
            try:
                self._received(data[:1], data[1:], fds)
            except Exception:  # of one message
                log.err(None, "on the line between a master and its desk")


def adopt(reactor: Any, connection: socket.socket, factory: Any) -> Any:
    """Have a factory's protocol go on with a connection; its transport, or None if it has gone."""
    try:
        with connection:
            connection.getpeername()
            return reactor.adoptStreamConnection(connection.fileno(), connection.family, factory)
    except Exception as error:
        if getattr(error, "errno", None) != errno.ENOTCONN:
            log.err(None, "while a connection was passed on")
        return None
