"""Connections to the page that take much and give nothing: visitors and builds do not notice."""

from __future__ import annotations

import os
import socket
import time

import pytest

from support.attacks import connect
from support.attacks import connections
from support.attacks import descriptors
from support.attacks import exchange
from support.attacks import forget_memory
from support.attacks import honest_visitor
from support.attacks import is_open
from support.attacks import memory_bytes
from support.attacks import read_to_end
from support.attacks import status_of
from support.commands import wait_for
from support.master import SUCCESS
from support.master import Master
from support.timing import require_less

HOST = b"Host: localhost\r\n"
GET = b"GET /api/v2/builders HTTP/1.1\r\n" + HOST
EVENTS = b"GET /sse/listen/builders/*/* HTTP/1.1\r\n" + HOST + b"\r\n"
MANY = 800  # not so many that this process would need more descriptors than select() takes
CAP = 256  # from one address
SHORT_S = 3


@pytest.fixture(scope="module")
def running(module_master: Master) -> Master:
    """A master with short limits of time, and builders."""
    for name in ("idle_seconds", "request_seconds", "answer_seconds"):
        module_master.set("limits", name, SHORT_S)
    module_master.define_builder("short", "true")
    module_master.define_builder("limit", "ulimit -n")
    module_master.start()
    return module_master


def refused(master: Master) -> dict[str, int]:
    found: dict[str, int] = master.status()["refused"]
    return found


# how many


def test_many_idle_connections_hinder_neither_builds_nor_visitors(running: Master) -> None:
    before = descriptors(running)
    with honest_visitor(running), connections(running, MANY):
        assert running.force("short").returncode == 0
        assert descriptors(running) < before + CAP + 50
    assert running.builds("short")[-1]["results"] == SUCCESS
    assert refused(running)["connections that made room for others"] > MANY - CAP - 100


@pytest.mark.parametrize(
    "sent",
    [
        GET,  # and nothing that ends the headers
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\nx",
    ],
    ids=["headers", "body"],
)
def test_slow_requests_do_not_keep_visitors_out(running: Master, sent: bytes) -> None:
    with honest_visitor(running), connections(running, MANY, sent):
        pass


def test_answers_without_end_leave_no_room_and_are_told_so(running: Master) -> None:
    with connections(running, CAP, EVENTS) as peers:
        assert all(status_of(peer.recv(1 << 12)) == 200 for peer in peers)
        reply = exchange(running, GET + b"\r\n")
        assert status_of(reply) == 503
        assert b"too many connections" in reply
    assert refused(running)["too many connections from one address"] >= 1
    wait_for(
        lambda: status_of(exchange(running, GET + b"Connection: close\r\n\r\n")) == 200, "room"
    )


def test_closed_websockets_make_room(running: Master) -> None:
    upgrade = (
        b"GET /ws HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    for _ in range(2):
        with connections(running, CAP - 20, upgrade) as peers:
            assert all(status_of(peer.recv(1 << 12)) == 101 for peer in peers)
        time.sleep(1.5)  # they are looked for once a second
    assert running.visitor().request("GET", "/api/v2/builders").status == 200


# how long


def closed_after(peer: socket.socket, dribble: bytes = b"") -> tuple[float, bytes]:
    """Send some bytes again and again until the end; return when it came, and the reply."""
    began, reply = time.monotonic(), b""
    peer.settimeout(0.3)
    while time.monotonic() - began < 4 * SHORT_S:
        try:
            if dribble:
                peer.sendall(dribble)
            if not (data := peer.recv(1 << 16)):
                break
            reply += data
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - began, reply


@pytest.mark.parametrize(
    ("sent", "dribble"),
    [
        (GET, b"X"),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n", b"x"),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["headers", "body", "chunks"],
)
def test_a_request_has_its_time(running: Master, sent: bytes, dribble: bytes) -> None:
    with connect(running) as peer:
        peer.sendall(sent)
        seconds, reply = closed_after(peer, dribble)
    assert seconds > SHORT_S - 1
    require_less(seconds, SHORT_S + 4)
    assert status_of(reply) == 408


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET + b"\r\n"], ids=["new", "line end", "asked"])
def test_an_idle_connection_is_closed(running: Master, sent: bytes) -> None:
    with connect(running) as peer:
        peer.sendall(sent)
        seconds, reply = closed_after(peer)
    assert seconds > SHORT_S - 1
    require_less(seconds, SHORT_S + 3)
    assert status_of(reply) == (200 if sent.startswith(b"GET") else 0)


def largest_asset(master: Master) -> bytes:
    """Return the path of the page's script, which has more bytes than the system keeps for us."""
    page = master.visitor().request("GET", "/").body
    return page.split(b'src="', 1)[1].split(b'"', 1)[0].removeprefix(b".").lstrip(b"/")


def test_who_takes_nothing_of_an_answer_is_left(running: Master) -> None:
    path = largest_asset(running)
    with connect(running, receive_bytes=4096) as peer:
        asked = b"GET /" + path + b" HTTP/1.1\r\n" + HOST + b"\r\n"
        peer.sendall(20 * asked)
        before = refused(running).get("an answer that was not taken", 0)
        wait_for(
            lambda: refused(running).get("an answer that was not taken", 0) > before,
            "the end of the connection",
            4 * SHORT_S,
        )


def test_who_takes_an_answer_slowly_gets_all_of_it(running: Master) -> None:
    path = largest_asset(running)
    found = bytearray()
    with connect(running, receive_bytes=1 << 14) as peer:
        peer.sendall(b"GET /" + path + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        began = time.monotonic()
        while data := peer.recv(1 << 13):
            found += data
            if time.monotonic() - began < 2 * SHORT_S:
                time.sleep(0.2)
    whole = running.visitor().request("GET", "/" + path.decode()).body
    assert found.endswith(whole[-1000:])
    assert len(found) > len(whole)


def test_events_stay_as_long_as_they_are_taken(running: Master) -> None:
    with connect(running) as peer:
        peer.sendall(EVENTS)
        assert status_of(peer.recv(1 << 12)) == 200
        time.sleep(2 * SHORT_S + 1)
        assert is_open(peer)


# at once


def test_many_requests_in_one_packet_are_answered_one_by_one(running: Master) -> None:
    count = 2000
    asked = b"GET /nope HTTP/1.1\r\n" + HOST + b"\r\n"
    with honest_visitor(running), connect(running) as peer:
        peer.sendall(count * asked)
        found = b""
        while found.count(b"HTTP/1.1 404") < count:
            data = peer.recv(1 << 16)
            assert data
            found += data


def test_a_flood_of_connections(running: Master) -> None:
    before = forget_memory(running)
    with honest_visitor(running):
        ends = time.monotonic() + 3
        while time.monotonic() < ends:
            with connect(running) as peer:
                peer.sendall(b"x" * 10_000)
    assert memory_bytes(running) < before + 64_000_000


def test_nothing_of_all_this_is_an_error(running: Master) -> None:
    assert "Traceback" not in running.log
    assert "Unhandled" not in running.log
    assert os.path.getsize(running.basedir / "twistd.log") < 1_000_000
    with connect(running) as peer:
        peer.sendall(GET + b"Connection: close\r\n\r\n")
        assert status_of(read_to_end(peer)) == 200
