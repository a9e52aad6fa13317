"""What one visitor may take of a master with /ws and /sse, and what he may hear there."""

from __future__ import annotations

import http.client
import json
import re
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import suppress
from typing import Any

import pytest

from litebot.users import UserFile
from support.attacks import connections
from support.attacks import descriptors
from support.attacks import honest_visitor
from support.attacks import is_open
from support.commands import wait_for
from support.fuzz import resident_mb
from support.master import Master
from support.timing import require_less
from support.visitor import Visitor
from support.websocket import CLOSE
from support.websocket import PING
from support.websocket import PONG
from support.websocket import TEXT
from support.websocket import WebSocket
from support.websocket import frame

SUBSCRIPTIONS, ANSWER_S = 30, 2
FLOOD_S = 1.5


@pytest.fixture(scope="module")
def running(module_master: Master) -> Master:
    """A master that lets a page have few subscriptions, and a reader be slow for a short time."""
    module_master.set("limits", "subscriptions", SUBSCRIPTIONS)
    module_master.set("limits", "answer_seconds", ANSWER_S)
    module_master.configure('c["www"] = {"change_hook_dialects": {"base": True}}')
    module_master.start()
    return module_master


@pytest.fixture
def page(running: Master) -> Iterator[WebSocket]:
    with WebSocket(running.ports[0]) as page:
        yield page


def refused(master: Master, reason: str) -> int:
    found: int = master.status()["refused"].get(reason, 0)
    return found


def test_a_page_hears_of_a_change_once(running: Master, page: WebSocket) -> None:
    for number, path in enumerate(("changes/*/new", "changes/*/*", "*/*/new", "*/*/*")):
        assert page.call("startConsuming", path, number)["code"] == 200
    running.change(comments="heard")
    heard = page.receive()
    assert heard is not None
    assert re.fullmatch(r"changes/\d+/new", heard["k"])
    assert heard["m"]["comments"] == "heard"
    running.change(comments="heard again")
    keys = set()
    while True:
        heard = page.receive()
        assert heard is not None
        if heard["k"].startswith("changes/"):
            assert heard["m"]["comments"] == "heard again"
            break
        keys.add(heard["k"])
    assert page.call("stopConsuming", "changes/*/new")["code"] == 200
    assert page.call("stopConsuming", "changes/*/new")["code"] == 400
    assert page.call("ping")["msg"] == "pong"


def test_subscriptions_of_one_page(running: Master, page: WebSocket) -> None:
    codes = [page.call("startConsuming", f"builds/{n}/new", n)["code"] for n in range(100)]
    assert codes == [200] * SUBSCRIPTIONS + [429] * (100 - SUBSCRIPTIONS)
    assert page.call("startConsuming", "builds/1/new")["code"] == 200
    assert page.call("stopConsuming", "builds/1/new")["code"] == 200
    assert page.call("startConsuming", "builds/1000/new")["code"] == 200
    assert refused(running, "too many subscriptions") > 0


def test_subscriptions_of_all_visitors(running: Master) -> None:
    with ExitStack() as stack:
        honest = stack.enter_context(WebSocket(running.ports[0], source="127.0.0.2"))
        assert honest.call("startConsuming", "changes/*/new")["code"] == 200
        pages = [stack.enter_context(WebSocket(running.ports[0])) for _ in range(25)]
        for page in pages:
            for n in range(SUBSCRIPTIONS):
                page.send({"_id": n, "cmd": "startConsuming", "path": f"builds/{n}/new"})
        wait_for(lambda: not all(is_open(page.socket) for page in pages), "some to be closed")
        assert honest.call("startConsuming", "builds/*/new")["code"] == 200
        assert refused(running, "too many subscriptions of all visitors") > 0


@pytest.mark.parametrize(
    "message",
    [
        b"{",
        b"",
        b"\xff\xfe",
        b"1",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 30_000,
        b'{"a":' * 10_000,
        b"9" * 60_000,
        b"NaN",
        b"{}",
        b'{"_id": {"a": []}, "cmd": "ping"}',
        b'{"_id": [' + b"[" * 900 + b"]" * 900 + b'], "cmd": "ping"}',
        b'{"_id": "%b", "cmd": "ping"}' % (b"x" * 1000),
        b'{"_id": 1}',
        b'{"_id": 1, "cmd": 5}',
        b'{"_id": 1, "cmd": ["ping"]}',
        b'{"_id": 1, "cmd": {}}',
        b'{"_id": 1, "cmd": "nothing"}',
        b'{"_id": 1, "cmd": "startConsuming"}',
        b'{"_id": 1, "cmd": "startConsuming", "path": 1}',
        b'{"_id": 1, "cmd": "startConsuming", "path": ["builds", null]}',
        b'{"_id": 1, "cmd": "startConsuming", "path": "%b"}' % (b"a/" * 100),
        b'{"_id": 1, "cmd": "startConsuming", "path": "%b"}' % (b"a" * 10_000),
        b'{"_id": 1, "cmd": "stopConsuming", "path": {}}',
        b'{"_id": 1, "cmd": "stopConsuming", "path": "%b"}' % (b"a" * 10_000),
    ],
)
def test_what_is_no_message_is_answered(running: Master, message: bytes) -> None:
    before = len(running.log)
    for opcode in (TEXT, 2):
        with WebSocket(running.ports[0]) as page:
            page.send_frame(message, opcode)
            answer = page.receive()
            if answer is None:  # it is not UTF-8, which ends a connection
                assert message == b"\xff\xfe"
                continue
            assert answer["code"] in (400, 404), answer
            assert len(json.dumps(answer)) < 1000
            assert page.call("ping")["code"] == 200
    assert len(running.log) - before < 1000
    assert "Traceback" not in running.log[before:]


def test_a_ping_with_other_keys_is_answered(page: WebSocket) -> None:
    page.send({"_id": 7, "cmd": "ping", "more": 1})
    answer = page.receive()
    assert answer is not None
    assert answer["_id"] == 7


def test_a_huge_message(running: Master) -> None:
    before = resident_mb(running.pid)
    with ExitStack() as stack:
        for _ in range(20):
            page = stack.enter_context(WebSocket(running.ports[0]))
            with suppress(ConnectionError):
                page.socket.sendall(frame(b"x" * 10_000_000))
            assert page.receive() is None
    assert resident_mb(running.pid) - before < 64
    assert refused(running, "too large a message of a page") == 20


def test_a_huge_message_in_parts(running: Master, page: WebSocket) -> None:
    part = bytearray(frame(b"x" * 30_000, TEXT))
    part[0] = TEXT  # more follows
    with suppress(ConnectionError):
        page.socket.sendall(part)
        part[0] = 0
        for _ in range(20):
            page.socket.sendall(part)
    assert page.receive() is None


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(frame(b"", PING), id="pings"),
        pytest.param(frame(b"{}"), id="nothing"),
        pytest.param(frame(b'{"_id":1,"cmd":"ping"}'), id="messages"),
        pytest.param(frame(b'{"_id":1,"cmd":"startConsuming","path":"*/*/*"}'), id="all"),
        pytest.param(frame(b'{"_id":1,"cmd":"startConsuming","path":"builds/x/y"}'), id="paths"),
        pytest.param(frame(b"", 10), id="pongs"),
    ],
)
def test_a_flood_of_small_messages(running: Master, flood: bytes) -> None:
    until = time.monotonic() + FLOOD_S
    with honest_visitor(running) as waited:
        while time.monotonic() < until:
            with WebSocket(running.ports[0]) as page:
                with suppress(OSError):
                    page.socket.settimeout(3)
                    page.socket.sendall(flood * (300_000 // len(flood)))
    require_less(max(waited), 2)
    require_less(statistics.median(waited), 0.5)


HANDSHAKE = [
    *("GET /ws HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"),
    *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"),
]
LISTEN = ["GET /sse/listen/builds/*/* HTTP/1.1", "Host: localhost"]


@pytest.mark.parametrize("lines", [HANDSHAKE, LISTEN], ids=["ws", "sse"])
def test_who_sends_much_with_the_request_and_leaves_is_forgotten(
    running: Master, lines: list[str]
) -> None:
    before = descriptors(running)
    with connections(running, 20, "\r\n".join([*lines, "", ""]).encode() + b"x" * 70_000) as peers:
        for peer in peers:
            with suppress(ConnectionError):
                peer.recv(20)
    wait_for(lambda: descriptors(running) <= before + 5, "the connections to be closed", 10)


def make_large_events(master: Master) -> None:
    visitor = master.visitor()
    for _ in range(30):
        body = f"author=a&project=p&comments={'x' * 500_000}"
        kind = "application/x-www-form-urlencoded"
        visitor.request("POST", "/change_hook/base", body, Content_Type=kind)


def test_who_takes_no_events_is_cut_off(running: Master) -> None:
    before = refused(running, "events that nobody reads")
    memory = resident_mb(running.pid)
    with ExitStack() as stack:
        slow = [WebSocket(running.ports[0], receive_bytes=4096) for _ in range(10)]
        for page in slow:
            stack.enter_context(page)
            assert page.call("startConsuming", "*/*/*")["code"] == 200
        stack.callback(slow_sse(running, "*/*/*").close)
        reading = stack.enter_context(WebSocket(running.ports[0]))
        assert reading.call("startConsuming", "changes/*/new")["code"] == 200
        heard = []
        thread = threading.Thread(target=lambda: heard.extend(read(reading, 30)))
        thread.start()
        make_large_events(running)
        thread.join()
        assert len(heard) == 30
        wait_for(lambda: refused(running, "events that nobody reads") >= before + 11, "the end")
        assert reading.call("ping")["code"] == 200
    assert resident_mb(running.pid) - memory < 100


def read(page: WebSocket, count: int) -> list[dict[str, Any] | None]:
    return [page.receive() for _ in range(count)]


def slow_sse(master: Master, path: str) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", master.ports[0]))
    connection.sendall(f"GET /sse/listen/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert b"200" in connection.recv(12)
    return connection


def test_who_answers_no_ping_is_cut_off(master: Master) -> None:
    """And who does, is not."""
    master.set("limits", "answer_seconds", ANSWER_S)
    master.set("limits", "idle_seconds", 1)
    master.start()
    with WebSocket(master.ports[0]) as silent, WebSocket(master.ports[0]) as reading:
        until = time.monotonic() + 5
        reading.socket.settimeout(0.5)
        while time.monotonic() < until:
            with suppress(TimeoutError):
                opcode, payload = reading.receive_frame()
                assert opcode == PING
                reading.send_frame(payload, PONG)
        assert reading.call("ping")["code"] == 200
        opcodes = []
        while (opcode := silent.receive_frame()[0]) is not None:
            opcodes.append(opcode)
        assert set(opcodes) <= {PING, CLOSE}


# /sse


class Stream:
    """A stream of /sse."""

    def __init__(self, visitor: Visitor, path: str, **headers: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", visitor.port, timeout=20)
        cookie = "; ".join(f"{k}={v}" for k, v in visitor._cookies.items())
        if cookie:
            headers["Cookie"] = cookie
        self._connection.request("GET", f"/sse/listen/{path}", headers=headers)
        self.reply = self._connection.getresponse()
        self.status = self.reply.status
        self.uuid = self.next()[1] if self.status == 200 else ""

    def next(self) -> tuple[str, str]:
        """Return name and data of the next event."""
        name = ""
        while True:
            line = self.reply.readline().decode().rstrip("\n")
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                return name, line.removeprefix("data: ")

    def close(self) -> None:
        self.reply.close()
        self._connection.close()


def test_streams_of_sse(running: Master) -> None:
    visitor = running.visitor()
    stream = Stream(visitor, "changes/*/new")
    running.change(comments="of the stream")
    name, data = stream.next()
    assert name == "event"
    assert json.loads(data)["message"]["comments"] == "of the stream"
    assert json.loads(data)["key"][0] == "changes"
    reply = visitor.request("GET", f"/sse/add/{stream.uuid}/builds/*/new?x=1&x=2")
    assert (reply.status, reply.body) == (200, b"ok")
    assert visitor.request("GET", f"/sse/remove/{stream.uuid}/builds/*/new").body == b"ok"
    assert visitor.request("GET", f"/sse/remove/{stream.uuid}/builds/*/new").status == 404
    for n in range(SUBSCRIPTIONS - 1):
        assert visitor.request("GET", f"/sse/add/{stream.uuid}/builds/{n}/new").status == 200
    assert visitor.request("GET", f"/sse/add/{stream.uuid}/builds/x/new").status == 429
    admin = running.login()
    assert admin.request("GET", f"/sse/add/{stream.uuid}/builds/1/new").status == 400
    stream.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("add", 400),
        ("add/x/builds/1/new", 400),
        ("remove/x/builds/1/new", 400),
        ("listen/%ff/new", 400),
        ("listen/" + "a/" * 100, 400),
        ("listen/" + "a" * 5000, 400),
    ],
)
def test_malformed_requests_of_sse(running: Master, path: str, status: int) -> None:
    before = len(running.log)
    assert running.visitor().request("GET", f"/sse/{path}").status == status
    assert running.visitor().request("POST", "/sse/listen/changes/*/new").status == 405
    assert running.visitor().request("HEAD", "/sse/listen/changes/*/new").status == 200
    assert "Traceback" not in running.log[before:]


# rules on reading


RULES = """
from buildbot.www.authz.endpointmatchers import EndpointMatcherBase, Match
from twisted.internet import defer

class Builds(EndpointMatcherBase):
    def match_BuildsEndpoint(self, epobject, epdict, options):
        return defer.succeed(Match(self.master))

    match_BuildEndpoint = match_BuildsEndpoint

class LoggedIn(util.RolesFromUsername):
    def getRolesFromUser(self, details):
        import pathlib
        names = pathlib.Path("readers").read_text().split()
        return ["readers"] if details.get("username") in names else []

c["www"] = {
    "change_hook_dialects": {"base": True},
    "auth": util.UserPasswordAuth({"reader": "pw"}),
    "authz": util.Authz(
        allowRules=[RULE, util.AnyControlEndpointMatcher(role="nobody")],
        roleMatchers=[LoggedIn(roles=[], usernames=[])],
    ),
}
"""


def with_rule(master: Master, rule: str) -> None:
    (master.basedir / "readers").write_text("reader")
    master.configure(RULES.replace("RULE", rule, 1))
    master.start()


def hears(visitor: Visitor, path: str) -> set[int]:
    """Return the codes with which /ws and /sse answer to a subscription."""
    headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in visitor._cookies.items())}
    codes = set()
    with WebSocket(visitor.port, headers=headers) as page:
        codes.add(page.status if page.status != 101 else page.call("startConsuming", path)["code"])
    stream = Stream(visitor, path)
    stream.close()
    return codes | {stream.status}


@pytest.mark.parametrize("rule", ['Builds(role="readers")'])
def test_who_may_not_read_builds_hears_of_none(master: Master, rule: str) -> None:
    with_rule(master, rule)
    visitor, reader = master.visitor(), master.login("reader", "pw")
    assert visitor.request("GET", "/api/v2/builds").status == 403
    for path in ("builds/*/new", "builds/1/finished", "*/*/*", "builders/1/builds/*/new"):
        assert hears(visitor, path) == {403}, path
        assert hears(reader, path) == {200}, path
    assert hears(visitor, "changes/*/new") == {200}
    stream = Stream(visitor, "changes/*/new")
    assert visitor.request("GET", f"/sse/add/{stream.uuid}/builds/*/new").status == 403
    stream.close()
    # rights that are taken away
    headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in reader._cookies.items())}
    with WebSocket(reader.port, headers=headers) as page:
        assert page.call("startConsuming", "builds/*/new")["code"] == 200
        (master.basedir / "readers").write_text("somebody")
        assert page.call("startConsuming", "builds/*/*")["code"] == 403
        assert page.call("startConsuming", "changes/*/*")["code"] == 200


def test_who_may_read_nothing_hears_nothing(master: Master) -> None:
    with_rule(master, 'util.AnyEndpointMatcher(role="readers")')
    visitor, reader = master.visitor(), master.login("reader", "pw")
    for path in ("changes/*/new", "*/*/*", "control/builds/1/stop", "nothing/1/new"):
        assert hears(visitor, path) == {403}, path
        assert hears(reader, path) == {200}, path
    assert visitor.request("GET", "/sse/listen").status == 403


def test_an_invalid_cookie_fills_no_log(running: Master) -> None:
    before = len(running.log)
    visitor = running.visitor()
    visitor._cookies = {"TWISTED_SESSION": "x" * 4000}
    for _ in range(20):
        assert visitor.request("GET", "/api/v2/masters").status == 200
        assert hears(visitor, "builds/*/new") == {200}
    said = running.log[before:].splitlines()
    assert [line for line in said if "gitpoller: processing" not in line] == []


def test_a_removed_user_is_anonymous(running: Master) -> None:
    UserFile(running.basedir / "users").add("ada", "correct horse")
    assert hears(running.login("ada", "correct horse"), "builds/*/new") == {200}
