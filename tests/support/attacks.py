"""What a stranger does at a port, and what an honest visitor and the system see of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from support.master import Master
from support.timing import require_less

ANSWER_S = 20.0
LARGEST_REPLY_BYTES = 1 << 20
# What a visitor may wait while somebody attacks the master: nearly always, and on a machine that is
# busy with other tests at the most.
PATIENCE_S, LONGEST_S = 1.0, 5.0
NEARLY_ALWAYS = 0.9
MB = 1_000_000


def connect(master: Master, *, receive_bytes: int | None = None) -> socket.socket:
    """Connect to the page; `receive_bytes` is how much the system takes without being asked."""
    peer = socket.socket()
    if receive_bytes is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    peer.settimeout(ANSWER_S)
    peer.connect(("127.0.0.1", master.ports[0]))
    return peer


def read_to_end(peer: socket.socket) -> bytes:
    """Return what arrives until the connection is closed; at most LARGEST_REPLY_BYTES."""
    found = bytearray()
    with suppress(ConnectionError):
        while len(found) < LARGEST_REPLY_BYTES and (data := peer.recv(1 << 16)):
            found += data
    return bytes(found)


def exchange(master: Master, sent: bytes) -> bytes:
    """Send bytes on a new connection; return all of the answer."""
    with connect(master) as peer:
        with suppress(ConnectionError):
            peer.sendall(sent)
        return read_to_end(peer)


def status_of(reply: bytes) -> int:
    """Return the HTTP status of a raw reply; 0 if it is none."""
    words = reply.split(b"\r\n", 1)[0].split(b" ")
    return int(words[1]) if len(words) > 2 and words[0].startswith(b"HTTP/") else 0


@contextmanager
def connections(master: Master, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open so many connections, and send the same on each."""
    with ExitStack() as stack:
        peers = []
        for _ in range(count):
            peer = stack.enter_context(connect(master))
            with suppress(ConnectionError):
                peer.sendall(sent)
            peers.append(peer)
        yield peers


def is_open(peer: socket.socket) -> bool:
    """Return whether the other side has not closed a connection; drop what it has sent."""
    peer.setblocking(False)
    try:
        while data := peer.recv(1 << 16):
            pass
        return bool(data)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        peer.setblocking(True)


@contextmanager
def visits(master: Master) -> Iterator[list[float]]:
    """Have a visitor look at the builders again and again; fail if he is refused.

    Yields the seconds that each answer took.
    """
    waits: list[float] = []
    failures: list[str] = []
    is_over = threading.Event()

    def ask() -> None:
        while True:
            began = time.monotonic()
            try:
                status = master.visitor().request("GET", "/api/v2/builders").status
                if status != 200:
                    failures.append(f"status {status}")
            except (OSError, HTTPException) as error:
                failures.append(repr(error))
            waits.append(time.monotonic() - began)
            if is_over.wait(0.02):
                return

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield waits
    finally:
        is_over.set()
        thread.join()
    assert not failures, failures


@contextmanager
def honest_visitor(master: Master) -> Iterator[list[float]]:
    """Have such visits; fail if an answer takes too long."""
    with visits(master) as waits:
        yield waits
    waits.sort()
    require_less(waits[-1], LONGEST_S)
    require_less(waits[int(NEARLY_ALWAYS * (len(waits) - 1))], PATIENCE_S)


def memory_bytes(master: Master) -> int:
    """Return the most memory that the master has had since forget_memory(), in bytes."""
    status = Path(f"/proc/{master.pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def forget_memory(master: Master) -> int:
    """Begin to watch the master's memory; return what it has now, in bytes."""
    Path(f"/proc/{master.pid}/clear_refs").write_text("5", encoding="ascii")
    return memory_bytes(master)


def descriptors(master: Master) -> int:
    """Return how many file descriptors the master has open."""
    return len(list(Path(f"/proc/{master.pid}/fd").iterdir()))
