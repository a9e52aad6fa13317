"""Requests that nobody can understand: a 4xx, at most a short line in the log, no traceback."""

from __future__ import annotations

import random
import secrets

import pytest

from support.attacks import connect
from support.attacks import exchange
from support.attacks import status_of
from support.commands import wait_for
from support.master import Master

UNKNOWN_METHOD = 501
HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n"
MASK = b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def with_header(header: bytes, path: bytes = b"/api/v2/builders") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + CLOSE + header + b"\r\n\r\n"


REFUSED = {
    "NUL": MASK % b"/%00",
    "NUL in a folder": MASK % b"/assets/a%00.js",
    "absolute": MASK % b"http://localhost/",
    "authority": b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no path": MASK % b"builders",
    "no ASCII": b"GET /\xa0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no ASCII posted": b"POST /\xa0 HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "version": b"GET / HTTP/3.7\r\n" + HOST + b"\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "host no UTF-8": b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
    "header without name": with_header(b": x"),
    "header without colon": with_header(b"x"),
    "header no UTF-8": with_header(b"Idempotency-Key: \xff"),
    "origin no URL": with_header(b"Origin: http://["),
    "origin no URL at events": with_header(b"Origin: http://[", b"/sse/listen"),
    "origin no URL at ws": with_header(b"Origin: http://[", b"/ws"),
    "origin no UTF-8": with_header(b"Origin: \xff"),
    "two lengths": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "negative length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "chunk without length": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n\r\n"
    ),
    "many headers": b"GET / HTTP/1.1\r\n" + HOST + 3000 * b"a: b\r\n" + b"\r\n",
    "large headers": b"GET / HTTP/1.1\r\n" + HOST + 50 * (b"a: " + b"b" * 1000 + b"\r\n") + b"\r\n",
    "a large header": b"GET / HTTP/1.1\r\n" + HOST + b"a: " + b"b" * 1_000_000,
    "large query": MASK % (b"/api/v2/builders?" + 100_000 * b"a=1&"),
    "method": b"G\x00T / HTTP/1.1\r\n" + HOST + b"\r\n",
    "unknown method at REST": b"FOO /api/v2/builders HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
    "form": (
        b"POST / HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Length: 1\r\n"
        b"Content-Type: multipart/form-data\r\n\r\nx"
    ),
    "form of many": (
        b"POST / HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Length: 8000\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + 2000 * b"a=1&"
    ),
}
ANSWERED = {
    "percent": MASK % b"/%zz%",
    "percent at REST": MASK % b"/api/v2/builders?%zz=%",
    "token": with_header(b"Cookie: TWISTED_SESSION=x.y.z"),
    "token no ASCII": with_header(b"Cookie: TWISTED_SESSION=\xff\xfe"),
    "token nested": with_header(b"Cookie: TWISTED_SESSION=" + b"W1tb" * 3000 + b".e30.x"),
    "token at ws": with_header(b"Cookie: TWISTED_SESSION=x.y.z", b"/ws"),
    "cookies": with_header(b"Cookie: " + 7000 * b"a;"),
    "cookies of others": with_header(b"Cookie: a=\xe4"),
    "agent no UTF-8": with_header(b"User-Agent: \xe4"),
    "old": b"GET / HTTP/1.0\r\n\r\n",
    "ranges": with_header(b"Range: bytes=" + b"0-," * 5000, b"/"),
    "star": b"OPTIONS * HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
}


@pytest.fixture(scope="module")
def running(module_master: Master) -> Master:
    module_master.start()
    return module_master


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(running: Master, name: str) -> None:
    reply = exchange(running, REFUSED[name])
    assert 400 <= status_of(reply) < 500, reply[:200]
    _, _, body = reply.partition(b"\r\n\r\n")
    assert body, "the reason"
    assert "Traceback" not in running.log
    assert "Unhandled" not in running.log


@pytest.mark.parametrize("name", ANSWERED)
def test_what_is_not(running: Master, name: str) -> None:
    reply = exchange(running, ANSWERED[name])
    assert 200 <= status_of(reply) < 500, reply[:200]
    assert "Traceback" not in running.log
    assert "Unhandled" not in running.log


PATHS = (
    *(b"/", b"/api", b"/api/v2/", b"/api/v2/builders", b"/api/v2/builders/1", b"/config"),
    *(b"/sse/", b"/sse/add/x/y", b"/sse/remove/x", b"/avatar", b"/auth/login", b"/auth/logout"),
    *(b"/auth", b"/change_hook"),
    *(b"/ws", b"/assets/x.js", b"/plugins/waterfall_view", b"/change_hook/base", b"/nope", b"/*"),
)
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"DELETE", b"get", b"X")
NAMES = (
    *(b"Origin", b"Host", b"Cookie", b"Authorization", b"Accept", b"Accept-Encoding", b"Range"),
    *(b"Content-Type", b"Connection", b"Expect", b"If-Modified-Since", b"If-None-Match"),
    *(b"Upgrade", b"Sec-WebSocket-Version", b"Sec-WebSocket-Key", b"Transfer-Encoding"),
    *(b"X-Forwarded-For", b"Idempotency-Key", b"X-GitHub-Event", b"Content-Length"),
)
VALUES = (
    *(b"", b"x", b"\xff", b"http://[", b"[", b"a=b; c", b"=", b"Basic x", b"Basic \xff", b"*"),
    *(b"bytes=0-1,2-", b"bytes=x", b"websocket", b"13", b"-1", b"chunked", b"application/json"),
    *(b"multipart/form-data; boundary=", b"100-continue", b"9" * 30, b"gzip;q=x", b"Basic Og=="),
    *(b"localhost:x", b"a,b", b"Thu, 99 Foo", b"TWISTED_SESSION=a.b.c", b"%00", b"text/\xe4"),
)
PIECES = (b"%", b"%00", b"%ff", b"%2f..", b"//", b"?", b"&", b"=", b";", b"a", b"..", b"'", b"[]")


def request_of(rng: random.Random) -> bytes:
    path = rng.choice(PATHS)
    if rng.random() < 0.6:
        path += rng.choice((b"/", b"?", b"")) + b"".join(rng.choices(PIECES, k=rng.randrange(6)))
    body = rng.choice((b"", b"", b"{}", b"x=1", b"\xff", b"[" * 1000))
    headers = {name: rng.choice(VALUES) for name in rng.sample(NAMES, rng.randrange(5))}
    headers = {b"Host": b"localhost", b"Content-Length": b"%d" % len(body), **headers}
    lines = [rng.choice(METHODS) + b" " + path + b" " + rng.choice((b"HTTP/1.1", b"HTTP/1.0"))]
    lines += [name + b": " + value for name, value in headers.items()]
    # Whatever it is, the connection ends after the second request.
    last = b"GET /nope HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return b"\r\n".join([*lines, b"", body]) + last


def test_anything(running: Master) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(300):
        sent = request_of(rng)
        with connect(running) as peer:
            peer.sendall(sent)
            peer.settimeout(0.2)
            reply = b""
            try:
                while data := peer.recv(1 << 16):
                    reply += data
            except (TimeoutError, ConnectionError):
                pass  # such as events, which have no end
        assert status_of(reply) < 500 or status_of(reply) == UNKNOWN_METHOD, (sent, reply[:300])
        assert "Traceback" not in running.log, sent
        assert "Unhandled" not in running.log, sent
    wait_for(lambda: running.visitor().request("GET", "/").status == 200, "an answer")
