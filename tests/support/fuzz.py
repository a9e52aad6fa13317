"""Hostile inputs for a master's doors: HTTP, WebSocket, the workers' port and the control socket.

Each is made of something valid by random changes.  A seed and a number give the same input again.
"""

from __future__ import annotations

import base64
import json
import os
import random
import socket
import struct
import threading
from collections.abc import Callable
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SENDERS = 8
ANSWER_S = 0.5
LARGEST_SENT = 120_000

# Parts that parsers stumble over.
WORDS: tuple[bytes, ...] = (
    *(b"%00", b"%", b"%zz", b"%ff", b"..", b"../../etc/passwd", b"//", b"\\", b"\x00", b"\xff\xfe"),
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\t",
        b" ",
        b";",
        b"&",
        b"=",
        b"?",
        b"#",
        b",",
        b":",
        b"'",
        b'"',
        b"`",
    ),
    *(b"[" * 3000, b"{" * 3000, b'{"a":' * 1500, b"(" * 3000, b"A" * 20_000, b"&a=b" * 3000),
    *(b"-1", b"0", b"9" * 30, b"1e999", b"NaN", b"null", b"true", b"[]", b"{}", b'""', b"\\ud800"),
    *(b"\\u0000", "ü\u202e😀".encode(), b"<script>alert(1)</script>", b"${7*7}", b"{{7*7}}"),
    *(b"--upload-pack=x", b"-oProxyCommand=x", b"ext::sh -c x", b"javascript:alert(1)"),
    *(
        b"http://[",
        b"http://[::1",
        b"file:///etc/passwd",
        b"*",
        b"__class__",
        b"self",
        b"eq",
        b"__contains",
    ),
)

PUSH = {
    "ref": "refs/heads/main",
    "after": "a" * 40,
    "repository": {"name": "r", "html_url": "http://r", "url": "http://r", "homepage": "http://r"},
    "commits": [
        {
            "id": "b" * 40,
            "message": "m",
            "timestamp": "2026-01-01T00:00:00Z",
            "url": "http://r/b",
            "author": {"name": "n", "email": "e@x"},
            "added": ["a"],
            "modified": [],
            "removed": [],
        }
    ],
}
FORCE = {"jsonrpc": "2.0", "id": 1, "method": "force", "params": {"builderid": 1, "branch": "x"}}
STOP = {"jsonrpc": "2.0", "id": 1, "method": "stop", "params": {"reason": "x"}}
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2luZm8iOnt9fQ.c2lnbmF0dXJl"
PATHS = (
    *("/", "/api/v2/", "/api/v2", "/api/v2/builders?limit=5&order=-name&field=name", "/config"),
    "/api/v2/builds?complete=false&started_at__gt=5&property=*&order=-number&offset=3&limit=9",
    "/api/v2/changes?branch__contains=a&when_timestamp__le=1&limit=3&offset=9223372036854775807",
    *("/api/v2/logs/1/contents?offset=0&limit=4", "/api/v2/logs/1/raw", "/api/v2/application.spec"),
    *("/api/v2/builds/1/steps/shell/logs/stdio/raw_inline", "/api/v2/builders/hello/builds/1"),
    *("/avatar?email=a%40b.c&size=32", "/auth/login?redirect=%2F", "/auth/logout", "/login"),
    *("/sse/listen/builds/*/*", "/sse/add/UUID/builds/*/*", "/sse/remove/UUID/x", "/ws"),
    *("/plugins/", "/plugins/badges/hello.svg", "/index.html", "/../../etc/passwd", "/metrics"),
)


@dataclass(frozen=True)
class Input:
    """What is sent to one door: `web`, `workers` or `control`."""

    number: int
    door: str
    data: bytes


@dataclass(frozen=True)
class Doors:
    """Where the doors of a master are."""

    web: int
    workers: int
    control: Path

    def connect(self, sent: Input) -> socket.socket:
        """Connect as one of many hosts: each input has an address of the loopback network."""
        if sent.door == "control":
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(ANSWER_S)
            connection.connect(str(self.control))
            return connection
        port = self.web if sent.door == "web" else self.workers
        host = f"127.{sent.number >> 16 & 255}.{sent.number >> 8 & 255}.{sent.number & 127 | 2}"
        return socket.create_connection(("127.0.0.1", port), ANSWER_S, source_address=(host, 0))


def made(seed: int, number: int) -> Input:
    """Return input `number` of a seed."""
    rng = random.Random(f"{seed}:{number}")
    door, make = rng.choices(KINDS, WEIGHTS)[0]
    return Input(number, door, _changed(make(rng), rng)[:LARGEST_SENT])


def _changed(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 4, 16, 64)))
        match rng.randrange(6):
            case 0 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:at] + data[at:end] * rng.choice((2, 3, 50)) + data[end:]
            case 3:
                data = data[:at]
            case _:
                data = data[:at] + rng.choice(WORDS) + data[end if rng.random() < 0.5 else at :]
    return data


def _request(
    rng: random.Random, method: str, path: str, body: bytes = b"", **headers: str
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1"]
    sent = {"Host": "localhost", **{k.replace("_", "-"): v for k, v in headers.items()}}
    if body:
        sent["Content-Length"] = str(len(body))
    if rng.random() < 0.3:
        sent["Cookie"] = f"TWISTED_SESSION={TOKEN}; TWISTED_SECURE_SESSION={TOKEN}; a=b"
    if rng.random() < 0.2:
        sent["Origin"] = rng.choice(("http://localhost", "http://evil.example", "null", "http://["))
    return "\r\n".join([*lines, *(f"{k}: {v}" for k, v in sent.items()), "", ""]).encode() + body


def _get(rng: random.Random) -> bytes:
    return _request(rng, rng.choice(("GET", "GET", "HEAD", "OPTIONS", "PUT")), rng.choice(PATHS))


def _login(rng: random.Random) -> bytes:
    pair = base64.b64encode(rng.choice((b"admin:wrong", b"x", b"admin:" + b"p" * 9000))).decode()
    return _request(rng, "GET", "/auth/login", Authorization=f"Basic {pair}")


def _control(rng: random.Random) -> bytes:
    path = rng.choice(
        ("/api/v2/forceschedulers/force-hello", "/api/v2/builds/1", "/api/v2/workers/1")
    )
    body = _changed(json.dumps(rng.choice((FORCE, STOP))).encode(), rng)
    return _request(rng, "POST", path, body, Content_Type="application/json")


def _hook(rng: random.Random) -> bytes:
    body = _changed(json.dumps(PUSH).encode(), rng)
    headers = rng.choice(
        (
            {"X_GitHub_Event": "push", "X_Hub_Signature_256": "sha256=" + "0" * 64},
            {"X_GitHub_Event": "push", "X_Hub_Signature": "sha1=" + "0" * 40},
            {"X_Gitlab_Event": "Push Hook", "X_Gitlab_Token": "wrong"},
        )
    )
    path = "/change_hook/" + rng.choice(("github", "gitlab", "base", "poller", "nothing", ""))
    return _request(rng, "POST", path, body, Content_Type="application/json", **headers)


def _form(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        body, kind = b"a=b&payload={}&c=%41", "application/x-www-form-urlencoded"
    else:
        body = (
            b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\nc\r\n--x--\r\n'
        )
        kind = "multipart/form-data; boundary=x"
    path = rng.choice(("/", "/auth/login", "/change_hook/github", "/api/v2/builds"))
    return _request(rng, "POST", path, _changed(body, rng), Content_Type=kind)


def _websocket(rng: random.Random) -> bytes:
    handshake = _request(
        rng,
        "GET",
        "/ws",
        Upgrade="websocket",
        Connection="Upgrade",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        Sec_WebSocket_Version="13",
    )
    commands: tuple[Any, ...] = (
        {"cmd": "startConsuming", "path": "builds/*/*", "_id": 1},
        {"cmd": "stopConsuming", "path": "builds/*/*", "_id": 1},
        *({"cmd": "ping", "_id": 1}, {"type": "x"}, [], 1, None, "x"),
    )
    frames = (
        _frame(_changed(json.dumps(rng.choice(commands)).encode(), rng), rng) for _ in range(4)
    )
    return handshake + b"".join(frames)


def _frame(payload: bytes, rng: random.Random) -> bytes:
    first = 0x80 | rng.choice((1, 1, 1, 1, 2, 8, 9, 0, 3))
    length = len(payload)
    if length < 126:
        head = struct.pack(">BB", first, 0x80 | length)
    else:
        head = struct.pack(">BBH", first, 0x80 | 126, length & 0xFFFF)
    mask = rng.randbytes(4)
    return head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


def _banana(value: Any) -> bytes:
    """Encode as Banana does.  Source: twisted/spread/banana.py"""
    if isinstance(value, (list, tuple)):
        return _number(len(value)) + b"\x80" + b"".join(map(_banana, value))
    if isinstance(value, int):
        return _number(abs(value)) + (b"\x81" if value >= 0 else b"\x83")
    data = value if isinstance(value, bytes) else str(value).encode()
    return _number(len(data)) + b"\x82" + data


def _number(value: int) -> bytes:
    digits = bytearray([value & 0x7F])
    while value := value >> 7:
        digits.append(value & 0x7F)
    return bytes(digits)


def _worker(rng: random.Random) -> bytes:
    login = [b"message", 1, b"root", b"login", 1, [b"tuple", [b"tuple", b"local"]], [b"dictionary"]]
    answer = [b"message", 2, 1, b"respond", 1, [b"tuple", b"x" * 16], [b"dictionary"]]
    messages: list[Any] = [[b"version", 6], login, answer, [b"decref", 1], [b"error", 1, b"x"], 5]
    sent = b"".join(map(_banana, rng.choices(messages, k=rng.randint(1, 5))))
    nested = rng.choice((b"", b"", b"\x01\x80" * rng.choice((10, 1000, 30_000))))
    return _banana(b"pb") + sent + nested


def _control_socket(rng: random.Random) -> bytes:
    calls: tuple[tuple[str, str, Any], ...] = (
        ("POST", "/build", {"builder": "no such", "reason": "x", "properties": {}}),
        ("POST", "/why", {"change": "no such"}),
        ("GET", "/follow?buildrequestid=99999999", {}),
        ("POST", "/drop-report", {"id": 99999999}),
        ("POST", "/refusals", {}),
        ("POST", "/sources", {}),
    )
    method, path, call = rng.choice(calls)
    return _request(rng, method, path, _changed(json.dumps(call).encode(), rng))


Maker = Callable[[random.Random], bytes]
KINDS: tuple[tuple[str, Maker], ...] = (
    ("web", _get),
    ("web", _login),
    ("web", _control),
    ("web", _hook),
    ("web", _form),
    ("web", _websocket),
    ("workers", _worker),
    ("control", _control_socket),
)
WEIGHTS = (6, 1, 3, 4, 2, 4, 4, 2)


def send(doors: Doors, inputs: Iterable[Input]) -> None:
    """Send inputs from several threads; return when all have been answered or given up."""
    waiting, lock = iter(inputs), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                sent = next(waiting, None)
            if sent is None:
                return
            with suppress(OSError):
                _send(doors, sent)

    threads = [threading.Thread(target=work) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _send(doors: Doors, sent: Input) -> None:
    with doors.connect(sent) as connection:
        connection.settimeout(ANSWER_S)
        connection.sendall(sent.data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def resident_mb(pid: int) -> float:
    """Return the memory that a process has in RAM, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6
