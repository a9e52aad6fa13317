"""A proxy between a master and its Postgres server or a worker, to make the network fail."""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

CHUNK_BYTES = 65536
SLOW_BYTES = 8192
# The server's message that a transaction was committed: CommandComplete.
COMMITTED = b"C\0\0\0\x0bCOMMIT\0"
# BackendKeyData has the pid of the server's process, which PgBouncer replaces with another number.
KEY = re.compile(rb"K\0\0\0\x0c.{4}", re.DOTALL)
MADE_UP = b"K\0\0\0\x0c\x7f\0\0\1"


class Proxy:
    """Listens on `port` of 127.0.0.1 and forwards to a server.

    `target` is the path of the server's socket, or a port of 127.0.0.1.

    `connections` counts those accepted.  With `makes_up_pids`, the pids of the server's processes
    are replaced, as PgBouncer does.  `bytes_a_second` limits the speed of each direction.
    """

    def __init__(self, target: Path | int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.connections = 0
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._forgotten: list[tuple[socket.socket, socket.socket]] = []
        self._open = True
        self._flows = threading.Event()
        self._flows.set()
        self._lose_answers = 0
        self._answer = COMMITTED
        self.lost_answer = threading.Event()
        self.makes_up_pids = False
        self.bytes_a_second: float | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, user: str, name: str) -> str:
        """Return the URL of a database behind the proxy, for litebot.toml; needs no password."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{name}?sslmode=disable"

    # what a test does to the network

    def cut(self) -> None:
        """Close all connections, and refuse new ones."""
        self._open = False
        with self._lock:
            for pair in self._pairs:
                self._end(*pair)

    def mend(self) -> None:
        """Accept new connections, and forward what was frozen."""
        self._open = True
        self._flows.set()

    def freeze(self) -> None:
        """Accept connections and data, but forward nothing."""
        self._flows.clear()

    def forget(self) -> None:
        """Forward again on new connections, but never again on the existing ones."""
        with self._lock:
            self._forgotten += self._pairs
            self._pairs.clear()
        self._flows.set()

    def leave(self) -> None:
        """Close the connections on the side of the clients only; the server does not notice."""
        with self._lock:
            self._forgotten += self._pairs
            self._pairs.clear()
            for client, _server in self._forgotten:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def lose_next_answer_to_commit(self) -> None:
        """Close a connection instead of forwarding that its next transaction was committed."""
        self.lose_next_answer(COMMITTED)

    def lose_next_answer(self, holding: bytes) -> None:
        """Close a connection instead of forwarding the next answer that contains `holding`."""
        self._answer = holding
        self._lose_answers = 1

    def close(self) -> None:
        """Close the server's socket and all connections."""
        self._server.close()
        self.cut()
        self._flows.set()
        for pair in self._forgotten:
            self._end(*pair)

    # how it works

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if not self._open:
                client.close()
                continue
            self.connections += 1
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            pair = (client, server)
            with self._lock:
                self._pairs.append(pair)
            for source, sink in (pair, pair[::-1]):
                arguments = (pair, source, sink)
                threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _connect(self) -> socket.socket:
        if isinstance(self._target, int):
            return socket.create_connection(("127.0.0.1", self._target))
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(self._target))
        except OSError:
            server.close()
            raise
        return server

    def _pump(
        self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket
    ) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                self._flows.wait()
                with self._lock:
                    if pair not in self._pairs:
                        return
                if self._lose_answers and source is pair[1] and self._answer in data:
                    self._lose_answers -= 1
                    self.lost_answer.set()
                    break
                if self.makes_up_pids and source is pair[1]:
                    data = KEY.sub(lambda _: MADE_UP, data, count=1)
                self._send(sink, data)
        with self._lock:
            known = pair in self._pairs
        if known:
            self._end(*pair)

    def _send(self, sink: socket.socket, data: bytes) -> None:
        while self.bytes_a_second is not None and data:
            sink.sendall(data[:SLOW_BYTES])
            time.sleep(min(len(data), SLOW_BYTES) / self.bytes_a_second)
            data = data[SLOW_BYTES:]
        sink.sendall(data)

    def _end(self, *sockets: socket.socket) -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
