"""Attacks a master in every way that the limits at its doors are for, all at the same time.

`python -m support.siege WEB_PORT WORKER_PORT [ATTACK…]` makes these attacks, or all, until its
standard input ends. It has a process of its own, so that it does not take turns with those who
measure what it does.
"""

from __future__ import annotations

import base64
import itertools
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from support.websocket import WebSocket

MB = 1_000_000
READERS, IDLE, SLOW, SUBSCRIPTIONS = 10, 1100, 100, 20_000
# Each attack is made again so long after it has ended.
PAUSE_S = 1.0
ANSWER_S = 30.0
NESTED = b"\x7f" + b"\x01\x80" * (MB // 2)

_hosts = itertools.count()


def host() -> str:
    """Return another address of the loopback network each time."""
    number = next(_hosts) % 60_000
    return f"127.1.{number // 250}.{number % 250 + 1}"


def connect(port: int, source: str, *, receive_bytes: int | None = None) -> socket.socket:
    peer = socket.socket()
    if receive_bytes is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    peer.settimeout(ANSWER_S)
    peer.bind((source, 0))
    peer.connect(("127.0.0.1", port))
    return peer


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def send(port: int, sent: bytes, source: str = "") -> None:
    """Send something, and take all of the answer."""
    with connect(port, source or host()) as peer:
        peer.sendall(sent)
        while peer.recv(1 << 16):
            pass


class Siege:
    """The attacks; each is a method that attacks once."""

    def __init__(self, web: int, workers: int) -> None:
        self.web = web
        self.workers = workers
        self.attacks: list[Callable[[], None]] = [
            *(self.large_form, self.large_multipart, self.large_call, self.endless_body),
            *([self.long_list] * READERS),
            *([self.slow_reader] * READERS),
            *(self.idle_connections, self.idle_workers, self.slow_headers, self.slow_bodies),
            *(self.subscriptions, self.nested_login, self.wrong_logins, self.long_lines),
            self.malformed,
        ]

    def large_form(self) -> None:
        kind = "Content-Type: application/x-www-form-urlencoded"
        send(self.web, head("POST /", kind, f"Content-Length: {50 * MB}") + b"a=b&" * 12_500_000)

    def large_multipart(self) -> None:
        kind = "Content-Type: multipart/form-data; boundary=b"
        part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
        send(self.web, head("POST /", kind, f"Content-Length: {7 * MB}") + part * (7 * MB // 53))

    def large_call(self) -> None:
        kind = "Content-Type: application/json"
        body = b'{"jsonrpc": "2.0", "id": 1, "method": "force", "params": {"a": [' + b"[1]," * MB
        line = "POST /api/v2/forceschedulers/force"
        send(self.web, head(line, kind, f"Content-Length: {len(body)}") + body)

    def endless_body(self) -> None:
        send(self.web, head("POST /", f"Content-Length: {10**13}") + b"x" * MB)

    def long_list(self) -> None:
        send(self.web, head("GET /api/v2/builds", "Connection: close"))

    def slow_reader(self) -> None:
        with connect(self.web, host(), receive_bytes=4096) as peer:
            peer.sendall(head("GET /api/v2/logs/1/raw"))
            while peer.recv(1000):
                time.sleep(0.5)

    def idle_connections(self) -> None:
        self._hold(self.web, IDLE, b"")

    def idle_workers(self) -> None:
        self._hold(self.workers, IDLE, b"")

    def slow_headers(self) -> None:
        self._hold(self.web, SLOW, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")

    def slow_bodies(self) -> None:
        self._hold(self.web, SLOW, head("POST /", "Content-Length: 1000000"))

    def _hold(self, port: int, count: int, sent: bytes) -> None:
        """Open connections, and send a byte on each in a second until none is left."""
        source = host()
        peers = []
        for _ in range(count):
            with suppress(OSError):
                peers.append(connect(port, source))
                peers[-1].sendall(sent)
        while peers:
            time.sleep(1)
            for peer in list(peers):
                try:
                    if sent:
                        peer.sendall(b"x")
                    peer.setblocking(False)
                    if peer.recv(4096) == b"":
                        raise ConnectionError
                except BlockingIOError:
                    peer.setblocking(True)
                except OSError:
                    peer.close()
                    peers.remove(peer)

    def subscriptions(self) -> None:
        with WebSocket(self.web, source=host()) as page:
            for number in range(SUBSCRIPTIONS):
                page.send({"_id": number, "cmd": "startConsuming", "path": f"builds/{number}/*"})
            while page.receive() is not None:
                pass

    def nested_login(self) -> None:
        send(self.workers, NESTED)

    def wrong_logins(self) -> None:
        for number in range(1000):
            pair = base64.b64encode(f"ada{number}:wrong".encode()).decode()
            send(self.web, head("GET /auth/login", f"Authorization: Basic {pair}", CLOSE))

    def long_lines(self) -> None:
        send(self.web, head("GET /change_hook/" + "x" * 15_000, CLOSE))

    def malformed(self) -> None:
        for path in ("/%00", "/api/v2/builds?order=%ff", "/sse/listen/[", "/auth/login?x=[["):
            send(self.web, head(f"GET {path}", CLOSE, "Origin: http://[", "Cookie: TWISTED=x"))


CLOSE = "Connection: close"


def main() -> None:
    """Attack until standard input ends; print how often each attack was made."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    siege = Siege(int(sys.argv[1]), int(sys.argv[2]))
    names = sys.argv[3:]
    counts: dict[str, int] = {}

    def repeat(attack: Callable[[], None]) -> None:
        while True:
            with suppress(OSError, AssertionError):  # it was refused
                attack()
            counts[attack.__name__] = counts.get(attack.__name__, 0) + 1
            time.sleep(PAUSE_S)

    attacks = [each for each in siege.attacks if not names or each.__name__ in names]
    for attack in attacks:
        threading.Thread(target=repeat, args=[attack], daemon=True).start()
    sys.stdin.read()
    print("\n".join(f"{name}: {count}" for name, count in sorted(counts.items())), flush=True)


if __name__ == "__main__":
    main()
