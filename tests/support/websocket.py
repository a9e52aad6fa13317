"""A WebSocket of a page, on a plain socket, so that it can do what no browser does."""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import suppress
from typing import Any
from typing import Self

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class WebSocket:
    """A connection to /ws; `status` is that of the answer to the handshake."""

    def __init__(
        self,
        port: int,
        *,
        source: str = "127.0.0.1",
        receive_bytes: int = 0,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(20)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))
        lines = [
            *("GET /ws HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket"),
            *("Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            received = self.socket.recv(4096)
            assert received, answer
            answer += received
        head, self._received = answer.split(b"\r\n\r\n", 1)
        self.status = int(head.split()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send_frame(self, payload: bytes, opcode: int = TEXT) -> None:
        self.socket.sendall(frame(payload, opcode))

    def send(self, message: Any) -> None:
        self.send_frame(json.dumps(message).encode())

    def call(self, cmd: str, path: str | None = None, _id: int = 1) -> dict[str, Any]:
        """Send a command and return the answer to it."""
        self.send({"_id": _id, "cmd": cmd, **({"path": path} if path is not None else {})})
        while True:
            answer = self.receive()
            assert answer is not None, "closed"
            if answer.get("_id") == _id:
                return answer

    def receive(self) -> dict[str, Any] | None:
        """Return the next message, or None if the connection was closed."""
        while True:
            opcode, payload = self.receive_frame()
            if opcode == TEXT:
                message: dict[str, Any] = json.loads(payload)
                return message
            if opcode == PING:
                with suppress(ConnectionError):
                    self.send_frame(payload, PONG)
            elif opcode in (CLOSE, None):
                return None

    def receive_frame(self) -> tuple[int | None, bytes]:
        """Return opcode and payload of the next frame; the opcode is None at the end."""
        head = self._exactly(2)
        if len(head) < 2:
            return None, b""
        size = head[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self._exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._exactly(8))
        return head[0] & 0x0F, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            try:
                received = self.socket.recv(65536)
            except ConnectionError:
                received = b""
            if not received:
                return b""
            self._received += received
        taken, self._received = self._received[:size], self._received[size:]
        return taken


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a masked frame."""
    mask = os.urandom(4)
    if len(payload) < 126:
        size = bytes([0x80 | len(payload)])
    elif len(payload) < 65536:
        size = struct.pack("!BH", 0x80 | 126, len(payload))
    else:
        size = struct.pack("!BQ", 0x80 | 127, len(payload))
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(
        len(payload), "big"
    )
    return bytes([0x80 | opcode]) + size + mask + masked
