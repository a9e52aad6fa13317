"""A client of the workers' port that can send what no worker does."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from twisted.spread import banana
from twisted.spread import pb


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    _opened.append(socket.create_connection(("127.0.0.1", port), 20, (source, 0)))
    return _opened[-1]


def close_all() -> None:
    """Close all connections that connect() has made."""
    while _opened:
        _opened.pop().close()


_opened: list[socket.socket] = []


class PbPeer(banana.Banana):
    """A client of PB on a plain socket, which can send what no client does."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        super().__init__(isClient=True)
        self.socket = connect(port, source)
        self.transport: Any = self
        self.heard: list[Any] = []
        self.connectionMade()
        while not self.currentDialect:
            self.hear()
        self.say(b"version", 6)

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def loseConnection(self) -> None:
        self.socket.close()

    def connectionReady(self) -> None:
        pass

    def expressionReceived(self, lst: Any) -> None:
        self.heard.append(lst)

    def hear(self) -> None:
        """Read what has come; raises EOFError if the master has closed the connection."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        self.dataReceived(data)

    def hear_end(self) -> None:
        """Wait until the master closes the connection."""
        with suppress(EOFError):
            while True:
                self.hear()

    def say(self, *expression: Any) -> None:
        self.sendEncoded(list(expression))

    def call(self, number: int, target: Any, method: bytes, *arguments: Any) -> Any:
        """Call a method of the master's and return the answer; raises ValueError for an error."""
        self.say(b"message", number, target, method, 1, [b"tuple", *arguments], [b"dictionary"])
        while True:
            for heard in self.heard:
                if heard[:2] == [b"answer", number]:
                    return heard[2]
                if heard[:2] == [b"error", number]:
                    raise ValueError(heard[2])
            self.hear()

    def login(self, name: bytes, password: bytes, number: int = 1) -> None:
        """Log in; raises ValueError if the master refuses it."""
        answer = self.call(number, b"root", b"login", name)
        challenge, challenger = answer[1], answer[2]
        response = pb.respond(challenge, password)
        self.call(number + 1, challenger[1], b"respond", response, [b"None"])
