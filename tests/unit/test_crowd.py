"""What the gate passes on, and to whom."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from buildbot.plugins import util
from twisted.internet.task import Clock

from litebot.master.auth import admins_act
from litebot.master.crowd.gate import Acceptor
from litebot.master.crowd.line import ACCEPTED
from litebot.master.crowd.line import LARGEST
from litebot.master.crowd.line import MOST
from litebot.master.crowd.line import Line
from litebot.master.crowd.line import Offer
from litebot.master.crowd.plain import anybody_may_read
from litebot.master.crowd.plain import asks_plainly
from litebot.master.crowd.plain import is_plain
from support.stand_in import Log
from support.turning import Mistake

CURL = b"Host: ci.example.org\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b"GET /api/v2/builds HTTP/1.1",
        b"GET /api/v2/builds?order=-buildid&limit=20&results__eq=2 HTTP/1.1",
        b"GET /api/latest/builders/17/builds/4/steps HTTP/1.0",
        b"GET /api/v2/ HTTP/1.1",
        b"GET /api/v2/no/such-thing HTTP/1.1",
        b"GET /api/v2/builds?state_string=forceschedulers%20%41 HTTP/1.1",
    ],
)
def test_what_is_plain(line: bytes) -> None:
    assert is_plain(line + b"\r\n" + CURL + b"\r\n")
    assert is_plain(line + b"\r\n\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"HEAD /api/v2/builds HTTP/1.1",
        b"POST /api/v2/builds HTTP/1.1",
        b"GET / HTTP/1.1",
        b"GET /ws HTTP/1.1",
        b"GET /api/v2 HTTP/1.1",
        b"GET http://ci.example.org/api/v2/builds HTTP/1.1",
        b"GET //api/v2/builds HTTP/1.1",
        b"GET /api/v2/forceschedulers HTTP/1.1",
        b"GET /api/v2/builders/1/forceschedulers?limit=1 HTTP/1.1",
        b"GET /api/v2/%66orceschedulers HTTP/1.1",
        b"GET /api/v2/builds HTTP/2.0",
        b"GET /api/v2/builds",
        b" GET /api/v2/builds HTTP/1.1",
        b"GET /api/v2/builds  HTTP/1.1",
        b"GET /api/v2/builds?\xff HTTP/1.1",
    ],
)
def test_lines_that_are_not_plain(line: bytes) -> None:
    assert not is_plain(line + b"\r\n" + CURL + b"\r\n")


@pytest.mark.parametrize(
    "header",
    [
        b"Cookie: TWISTED_SESSION=x\r\n",
        b"cookie:x\r\n",
        b"Authorization: Basic x\r\n",
        b"Origin: https://ci.example.org\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Upgrade: websocket\r\n",
        b"Expect: 100-continue\r\n",
        b"X: a\r\n folded: b\r\n",
        b"X: a\nCookie: b\r\n",
        b"X\0: a\r\n",
        b"Cookie : a\r\n",
        b"no colon\r\n",
    ],
)
def test_headers_that_are_not_plain(header: bytes) -> None:
    line = b"GET /api/v2/builds HTTP/1.1\r\n"
    for headers in (header + CURL, CURL + header):
        assert not is_plain(line + headers + b"\r\n")


def test_only_one_whole_request_is_plain() -> None:
    request = b"GET /api/v2/builds HTTP/1.1\r\n" + CURL + b"\r\n"
    assert is_plain(request)
    assert not is_plain(request + request)
    assert not is_plain(request + b"x")
    assert not any(is_plain(request[:end]) for end in range(len(request)))


class Rule(util.AnyControlEndpointMatcher):
    """One that is not Buildbot's."""


class Rules(util.Authz):
    """As well."""


ANY = [
    util.AnyControlEndpointMatcher(role="a"),
    util.StopBuildEndpointMatcher(role="a", builder="b"),
    util.ForceBuildEndpointMatcher(role="a"),
    util.RebuildBuildEndpointMatcher(role="a"),
    util.EnableSchedulerEndpointMatcher(role="a"),
]


@pytest.mark.parametrize(
    ("authz", "expected"),
    [
        (util.Authz(), True),
        (admins_act(), True),
        (util.Authz(allowRules=ANY, roleMatchers=[util.RolesFromEmails(a=["b@c"])]), True),
        (util.Authz(allowRules=[*ANY, util.AnyEndpointMatcher(role="a")]), False),
        (util.Authz(allowRules=[Rule(role="a")]), False),
        (Rules(), False),
        (None, False),
    ],
)
def test_who_may_read(authz: Any, *, expected: bool) -> None:
    assert anybody_may_read(authz) is expected


@pytest.mark.parametrize("rule", ANY)
@pytest.mark.parametrize("path", [("builds", "1"), ("buildrequests", "1"), ("schedulers", "1")])
def test_rules_of_actions_let_everybody_read(world: Any, rule: Any, path: tuple[str, ...]) -> None:
    authz = util.Authz(allowRules=[rule])
    authz.setMaster(world.master)
    assert world.call(authz.assertUserAllowed, path, "GET", {}, {"anonymous": True}) is None


def test_an_offer_is_read_as_it_was_written() -> None:
    offer = Offer("/srv/ci/state.sqlite", "http://ci/", {"json_cache_seconds": 1.5}, 2)
    assert Offer.from_json(offer.to_json()) == offer


class End:
    """One end of a line."""

    def __init__(self, end: socket.socket) -> None:
        self.received: list[tuple[bytes, bytes, list[int]]] = []
        self.has_ended = False
        self.line = Line(end, self, lambda *message: self.received.append(message), self._note)

    def _note(self) -> None:
        self.has_ended = True

    def addReader(self, line: Line) -> None:
        """As a reactor."""

    def removeReader(self, line: Line) -> None:
        """As a reactor."""


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    ends = [End(each) for each in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
    yield ends[0], ends[1]
    for end in ends:
        end.line.close()
        for _, _, fds in end.received:
            for fd in fds:
                os.close(fd)


def test_a_line_carries_bytes_and_descriptors(ends: tuple[End, End]) -> None:
    one, other = ends
    here, there = socket.socketpair()
    with here, there:
        one.line.send(ACCEPTED, b"GET /", [there.fileno()] * MOST)
        one.line.send(ACCEPTED, b"x" * (LARGEST - 1))
        other.line.doRead()
        (kind, data, fds), (_, long, none) = other.received
        assert (kind, data, len(fds)) == (ACCEPTED, b"GET /", MOST)
        assert (len(long), none) == (LARGEST - 1, [])
        assert not any(os.get_inheritable(fd) for fd in fds)
        os.write(fds[-1], b"answer")
        assert here.recv(10) == b"answer"


def send_many(end: End) -> None:
    for _ in range(10_000):
        end.line.send(ACCEPTED, b"x" * 1000)


def test_a_line_that_is_full_says_so(ends: tuple[End, End]) -> None:
    one, other = ends
    with pytest.raises(BlockingIOError):
        send_many(one)
    other.line.doRead()
    assert len(other.received) > 10
    one.line.send(ACCEPTED)


def test_each_end_hears_of_the_end(ends: tuple[End, End]) -> None:
    one, other = ends
    one.line.send(ACCEPTED, b"last")
    one.line.close()
    one.line.close()
    other.line.doRead()
    assert [data for _, data, _ in other.received] == [b"last"]
    assert other.has_ended
    assert not one.has_ended
    with pytest.raises(OSError, match="Bad file descriptor"):
        other.line.send(ACCEPTED)


def test_a_fault_in_one_message_does_not_end_a_line(ends: tuple[End, End], logged: Log) -> None:
    one, other = ends

    def fail(*_message: Any) -> None:
        raise Mistake

    take, other.line._received = other.line._received, fail
    one.line.send(ACCEPTED, b"first")
    other.line.doRead()
    other.line._received = take
    one.line.send(ACCEPTED, b"second")
    other.line.doRead()
    assert [data for _, data, _ in other.received] == [b"second"]
    assert logged.take() == [Mistake]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /api/v2/builds HTTP/1.1\r\n\r\n", True),
        (b"GET /api/v2/builds HTTP/1.1\r\n", False),
        (b"POST /api/v2/builds HTTP/1.1\r\n\r\n", False),
        (b"", False),
        (None, False),
    ],
)
def test_what_has_come_is_looked_at_and_not_read(sent: bytes | None, *, expected: bool) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.setblocking(False)
        if sent:
            here.sendall(sent)
        elif sent is None:
            here.close()
        assert asks_plainly(there) is expected
        if sent:
            assert there.recv(1000) == sent


class Port:
    """A listening port that has no file descriptor left after some connections."""

    connected, disconnecting = True, False

    def __init__(self, reactor: Readers, accepts: int) -> None:
        self.reactor = reactor
        self.accepts = accepts
        self.socket = self
        self.waits_for_data = 0
        self.backlog = 50

    def setsockopt(self, _level: int, _option: int, value: int) -> None:
        self.waits_for_data = value

    def listen(self, backlog: int) -> None:
        self.backlog = backlog

    def accept(self) -> tuple[socket.socket, None]:
        if not self.accepts:
            raise OSError(errno.EMFILE, "Too many open files")
        self.accepts -= 1
        return socket.socket(), None

    def fileno(self) -> int:
        return 17

    def startReading(self) -> None:
        self.reactor.addReader(self)

    def stopReading(self) -> None:
        self.reactor.removeReader(self)


class Readers:
    """A reactor that goes by file descriptors, as that of epoll does."""

    callLater: Any

    def __init__(self) -> None:
        self.readers: dict[int, Any] = {}

    def addReader(self, reader: Any) -> None:
        self.readers.setdefault(reader.fileno(), reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.pop(reader.fileno(), None)


def test_a_port_without_descriptors_goes_on_as_ever() -> None:
    reactor = Readers()
    port: Any = Port(reactor, accepts=2)
    port.startReading()
    came: list[int] = []

    def take(acceptor: Acceptor, comers: list[socket.socket]) -> None:
        came.append(len(comers))
        for comer in comers:
            comer.close()
        acceptor.resume(0.0)

    acceptor = Acceptor(port, reactor, take, lambda: acceptor.close())
    assert reactor.readers == {17: acceptor}
    assert (port.waits_for_data, port.backlog) == (1, socket.SOMAXCONN)
    acceptor.doRead()
    assert came == [2]
    assert reactor.readers == {17: acceptor}
    acceptor.doRead()
    assert came == [2]
    assert reactor.readers == {17: port}
    assert port.waits_for_data == 0


def test_a_port_whose_system_can_not_wait_for_data() -> None:
    reactor = Readers()
    port: Any = Port(reactor, accepts=0)

    def refuse(*_: int) -> None:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    port.setsockopt = refuse
    port.startReading()
    acceptor = Acceptor(port, reactor, lambda *_: None, lambda: None)
    assert reactor.readers == {17: acceptor}
    acceptor.close()
    assert reactor.readers == {17: port}


def test_a_port_that_rests_when_it_is_given_back() -> None:
    reactor = Readers()
    port: Any = Port(reactor, accepts=1)
    port.startReading()
    clock = Clock()
    reactor.callLater = clock.callLater

    def take(acceptor: Acceptor, comers: list[socket.socket]) -> None:
        for comer in comers:
            comer.close()
        acceptor.resume(1.0)

    acceptor = Acceptor(port, reactor, take, lambda: None)
    acceptor.doRead()
    assert reactor.readers == {}
    acceptor.close()
    assert reactor.readers == {17: port}
    clock.advance(2.0)
    assert reactor.readers == {17: port}
