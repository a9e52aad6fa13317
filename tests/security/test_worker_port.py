"""What those who have not logged in may take of a master on its port for workers."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.attacks import honest_visitor
from support.attacks import is_open
from support.commands import wait_for
from support.fuzz import resident_mb
from support.master import Master
from support.pb_peer import PbPeer
from support.pb_peer import close_all
from support.pb_peer import connect
from support.ports import free_ports
from support.remote import remote_worker
from support.timing import require_less

LIST, STRING = b"\x80", b"\x82"
ROOT = (b"message", 1, b"root")
LOGINS, SECONDS = 20, 3
TOO_MUCH = "too much data before a worker login"
CHANGES = """
from buildbot.plugins import changes
sender = changes.PBChangeSource(user="sender", passwd="pw")
c["change_source"] = [*c.get("change_source", []), sender]
"""


@pytest.fixture(scope="module")
def running(module_master: Master) -> Master:
    """A master with a remote worker, which may have few connections that have not logged in."""
    module_master.set("limits", "worker_logins", LOGINS)
    module_master.set("limits", "login_seconds", SECONDS)
    module_master.configure('c["workers"].append(worker.Worker("remote", "workerpw"))' + CHANGES)
    module_master.start()
    return module_master


@pytest.fixture(autouse=True)
def all_closed() -> Iterator[None]:
    yield
    close_all()


def refused(master: Master, reason: str) -> int:
    found: int = master.status()["refused"].get(reason, 0)
    return found


def is_connected(master: Master) -> bool:
    (found,) = [w for w in master.rest("workers")["workers"] if w["name"] == "remote"]
    return bool(found["connected_to"])


@pytest.fixture
def worker_logs_in(running: Master, tmp_path: Path) -> Callable[[], float]:
    """Call it to have a real worker log in; returns how long that took."""

    def log_in() -> float:
        began = time.monotonic()
        with remote_worker(tmp_path / f"w{began}", f"127.0.0.1:{running.ports[1]}"):
            wait_for(lambda: is_connected(running), "the worker to log in")
            took = time.monotonic() - began
        wait_for(lambda: not is_connected(running), "the worker to be gone")
        return took

    return log_in


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(b"\x01" + LIST, id="nested"),
        pytest.param(b"\x7f\x7f" + LIST, id="nested long lists"),
        pytest.param(b"\x00" + LIST, id="empty lists"),
        pytest.param(b"\x01" + STRING + b"x", id="strings"),
        pytest.param(b"\x7f\x7f\x27" + STRING, id="a long string"),
        pytest.param(b"1", id="no type"),
    ],
)
def test_much_before_a_login(running: Master, attack: bytes) -> None:
    before = resident_mb(running.pid)
    with honest_visitor(running) as waited:
        for _ in range(20):
            connection = connect(running.ports[1])
            try:
                connection.sendall(attack * (1_000_000 // len(attack)))
                connection.settimeout(10)
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass
            connection.close()
    require_less(max(waited), 1)
    assert resident_mb(running.pid) - before < 64
    reasons = running.status()["refused"]
    assert reasons.keys() & {TOO_MUCH, "malformed worker login"}


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param([*ROOT, b"loginAnonymous", 1, [b"tuple"], [b"dictionary"]], id="anonymous"),
        pytest.param([*ROOT, b"nothing", 1, [b"tuple"], [b"dictionary"]], id="no login"),
        pytest.param([b"decref", 12], id="decref"),
        pytest.param([b"cachemessage", 1, 2, b"x", 1, [], []], id="cachemessage"),
        pytest.param([b"answer", 1, [b"module", b"os"]], id="answer"),
        pytest.param([b"x" * 2000], id="unknown"),
        pytest.param([], id="empty"),
        pytest.param([[[]]], id="no name"),
        pytest.param([b"version", 7], id="version"),
        pytest.param(
            [b"message", 1, b"root", b"login", 1, [b"tuple", b"n" * 1000], [b"dictionary"]],
            id="a long name",
        ),
    ],
)
def test_what_is_no_login_ends_the_connection_and_fills_no_log(
    running: Master, expression: list[object]
) -> None:
    before = len(running.log)
    for _ in range(20):
        peer = PbPeer(running.ports[1])
        peer.say(*expression)
        peer.hear_end()
    assert len(running.log) - before < 1000
    assert "Traceback" not in running.log[before:]


def test_idle_connections_are_closed(running: Master, worker_logs_in: Callable[[], float]) -> None:
    connections = [connect(running.ports[1]) for _ in range(300)]
    wait_for(lambda: sum(map(is_open, connections)) <= LOGINS, "most to be closed", 5)
    require_less(worker_logs_in(), 10)
    wait_for(lambda: not any(map(is_open, connections)), "all to be closed", SECONDS + 2)
    assert refused(running, "slow worker login") > 0
    assert refused(running, "too many connections of workers that have not logged in") > 200


def test_others_are_closed_before_a_visitor_from_elsewhere(running: Master) -> None:
    honest = [connect(running.ports[1], f"127.0.0.{number}") for number in range(2, 7)]
    crowd = [connect(running.ports[1], "127.0.0.99") for _ in range(3 * LOGINS)]
    wait_for(lambda: sum(map(is_open, crowd)) <= LOGINS, "most to be closed", 5)
    assert all(map(is_open, honest))
    for connection in (*honest, *crowd):
        connection.close()


def test_many_workers_at_once_get_in(running: Master) -> None:
    """As after a restart; no login takes as long as a connection has."""
    peers = [PbPeer(running.ports[1]) for _ in range(3 * LOGINS)]
    for peer in peers:
        peer.login(b"sender", b"pw")
    for peer in peers:
        assert is_open(peer.socket)
        peer.socket.close()


def test_a_login_may_last(running: Master) -> None:
    """Who has logged in may stay, and may send much."""
    peer = PbPeer(running.ports[1])
    peer.login(b"sender", b"pw")
    time.sleep(SECONDS + 1)
    assert is_open(peer.socket)
    for _ in range(10):
        peer.say(b"didNotUnderstand", b"x" * 20_000)
    time.sleep(0.5)
    assert is_open(peer.socket)
    peer.socket.close()


def test_wrong_logins_are_counted_and_have_to_wait(
    running: Master, worker_logs_in: Callable[[], float]
) -> None:
    before = len(running.log)

    def try_it(name: bytes) -> float:
        began = time.monotonic()
        peer = PbPeer(running.ports[1])
        with pytest.raises((ValueError, EOFError)):
            peer.login(name, b"wrong")
        peer.socket.close()
        return time.monotonic() - began

    took = [try_it(b"sender") for _ in range(7)]
    require_less(max(took[:5]), 0.5)
    assert took[5] > 0.5
    assert took[6] > 1.5
    require_less(worker_logs_in(), 10)
    for _ in range(300):
        try_it(b"nobody\n%d" % _)
    assert len(running.log) - before < 3000
    assert "Traceback" not in running.log[before:]
    status = running.status()
    assert status["refused"]["wrong worker login"] >= 307
    assert "from 127.0.0.1" in status["last_refused"]["wrong worker login"]
    assert "wrong worker login: 'sender' from 127.0.0.1" in running.log


def test_a_right_login_ends_the_waiting(running: Master) -> None:
    def login(password: bytes) -> None:
        PbPeer(running.ports[1], "127.0.0.50").login(b"sender", password)

    for _ in range(5):
        with pytest.raises(ValueError, match="UnauthorizedLogin"):
            login(b"wrong")
    login(b"pw")
    began = time.monotonic()
    with pytest.raises(ValueError, match="UnauthorizedLogin"):
        login(b"wrong")
    require_less(time.monotonic() - began, 0.5)


# workers over WebSocket


@pytest.fixture(scope="module")
def msgpack(created: Master, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    """A master for workers over WebSocket."""
    master = created.copy(tmp_path_factory.mktemp("msgpack") / "ci")
    (port,) = free_ports(1)
    master.set("limits", "worker_logins", LOGINS)
    master.set("limits", "login_seconds", SECONDS)
    master.set("workers", "port", port)
    master.configure(
        f"""
        c["protocols"] = {{"msgpack_experimental_v7": {{"port": {port}}}}}
        c["workers"] = [worker.Worker("remote", "workerpw")]
        c["builders"][0].workernames = ["remote"]
        """
    )
    master.start()
    yield master
    master.end()


def test_websocket_much_before_a_login(msgpack: Master) -> None:
    before, refused_before = resident_mb(msgpack.pid), refused(msgpack, TOO_MUCH)
    with honest_visitor(msgpack) as waited:
        for _ in range(20):
            connection = connect(msgpack.ports[1])
            try:
                for _ in range(10):
                    connection.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000)
                connection.settimeout(10)
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass
            connection.close()
    require_less(max(waited), 1)
    assert resident_mb(msgpack.pid) - before < 64
    assert refused(msgpack, TOO_MUCH) == refused_before + 20


def test_websocket_idle_and_wrong(msgpack: Master, tmp_path: Path) -> None:
    connections = [connect(msgpack.ports[1]) for _ in range(100)]
    wait_for(lambda: sum(map(is_open, connections)) <= LOGINS, "most to be closed", 5)
    pair = base64.b64encode(b"remote:wrong").decode()
    request = (
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Basic {pair}\r\n\r\n"
    )
    for _ in range(3):
        connection = connect(msgpack.ports[1])
        connection.sendall(request.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")
        connection.close()
    assert refused(msgpack, "wrong worker login") == 3
    where = f"127.0.0.1:{msgpack.ports[1]}"
    options = ("--protocol=msgpack_experimental_v7",)
    with remote_worker(tmp_path / "remote", where, *options):
        wait_for(lambda: is_connected(msgpack), "the worker to log in")
    wait_for(lambda: not any(map(is_open, connections)), "all to be closed", SECONDS + 2)
