"""Large bodies of requests: refused or read, they take neither the reactor nor the memory."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote
from urllib.parse import urlencode

import pytest

from support.attacks import MB
from support.attacks import connect
from support.attacks import exchange
from support.attacks import forget_memory
from support.attacks import honest_visitor
from support.attacks import memory_bytes
from support.attacks import status_of
from support.master import Master
from support.visitor import Reply

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=xyz"
SECRET = "between us"
CONFIG = """
c["www"] = {
    "change_hook_dialects": {
        "base": True,
        "bitbucket": True,
        "github": {"secret": %r},
        "gitlab": {"secret": %r},
    }
}
c["change_source"] = []
"""
ADA = {"name": "Ada", "email": "ada@example.org"}
COMMIT = {
    "id": "c0ffee",
    "message": "Ada was here",
    "timestamp": "2026-01-02T03:04:05Z",
    "url": "https://git.example.org/c0ffee",
    "author": ADA,
    "committer": ADA,
}
PUSH = {
    "ref": "refs/heads/main",
    "repository": {"name": "r", "html_url": "https://r", "full_name": "o/r"},
    "head_commit": COMMIT,
}


@pytest.fixture(scope="module")
def running(module_master: Master) -> Master:
    module_master.configure(CONFIG % (SECRET, SECRET))
    module_master.start()
    return module_master


def post(master: Master, path: str, body: bytes, kind: str, **headers: str) -> Reply:
    return master.visitor().request("POST", path, body, Content_Type=kind, **headers)


def multipart(fields: dict[str, bytes]) -> bytes:
    parts = [
        b'--xyz\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n' + value
        for name, value in fields.items()
    ]
    return b"\r\n".join([*parts, b"--xyz--\r\n"])


# too large


FIFTY_MB = {
    "form": ("/", b"a=1&b=2&" * (50 * MB // 8), FORM),
    "multipart": ("/", multipart({"a": b"x" * 50 * MB}), MULTIPART),
    "rest": ("/api/v2/forceschedulers/force", b"[" + b"1," * (25 * MB) + b"1]", JSON),
    "hook": ("/change_hook/base", b"author=a&comments=" + b"x" * 50 * MB, FORM),
}


@pytest.mark.parametrize("case", FIFTY_MB)
def test_a_body_that_is_too_large(running: Master, case: str) -> None:
    path, body, kind = FIFTY_MB[case]
    before = forget_memory(running)
    with honest_visitor(running):
        reply = post(running, path, body, kind)
    assert reply.status == 413
    assert (b"hook_body_mb" if case == "hook" else b" body_mb") in reply.body
    assert memory_bytes(running) < before + 20 * MB


@pytest.mark.parametrize("digits", [14, 18, 40, 5000])
def test_a_length_that_nobody_has(running: Master, digits: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * digits
    assert status_of(exchange(running, head + b"\r\nExpect: 100-continue\r\n\r\n")) == 413


def test_a_body_whose_length_is_not_told(running: Master) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * (1 << 16) + b"\r\n"
    reply = exchange(running, head + 200 * chunk)
    assert status_of(reply) == 413
    assert b"body_mb" in reply


def test_a_body_in_tiny_chunks(running: Master) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with honest_visitor(running):
        assert status_of(exchange(running, head + 1_000_000 * b"1\r\nx\r\n")) == 400
    few = 400 * b"1\r\nx\r\n" + b"0\r\n\r\n"
    end = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert status_of(exchange(running, end + few)) == 405


def at_once(count: int, what: Callable[[], None]) -> None:
    threads = [threading.Thread(target=what) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_bodies_at_once(running: Master) -> None:
    """None is complete, so that all are held at the same time."""
    head = b"POST /change_hook/base HTTP/1.1\r\nHost: localhost\r\nContent-Length: 25000000\r\n\r\n"
    statuses: list[int] = []
    all_sent = threading.Barrier(20)

    def send() -> None:
        with connect(running) as peer:
            with suppress(OSError):
                peer.sendall(head + b"x" * 24 * MB)
            all_sent.wait(60)
            peer.settimeout(1)
            try:
                statuses.append(status_of(peer.recv(1 << 12)))
            except TimeoutError:
                statuses.append(-1)  # it is still held
            except OSError:
                statuses.append(0)

    before = forget_memory(running)
    with honest_visitor(running):
        at_once(20, send)
    assert statuses.count(-1) <= 5
    assert 503 in statuses
    assert memory_bytes(running) < before + 64 * MB


# not too large, and a trap


TRAPS = {
    "fields": ("/change_hook/base", b"a=1&b=2&" * MB, FORM),
    "multipart fields": ("/change_hook/base", 50_000 * multipart({"a": b"1"}), MULTIPART),
    "lists": ("/change_hook/bitbucket", urlencode({"payload": "[[]," * MB}).encode(), FORM),
    "files": ("/change_hook/base", b"author=a&files=[" + b'"",' * MB + b'""]', FORM),
    "escapes": ("/change_hook/base", b"author=" + b"%00" * (8 * MB), FORM),
}


@pytest.mark.parametrize("case", TRAPS)
def test_a_trap_at_a_hook(running: Master, case: str) -> None:
    path, body, kind = TRAPS[case]
    before = forget_memory(running)
    with honest_visitor(running):
        assert post(running, path, body, kind).status == 400
    assert memory_bytes(running) < before + 64 * MB + len(body)


def test_nobody_reads_a_form_that_is_for_nobody(running: Master) -> None:
    with honest_visitor(running):
        assert post(running, "/", b"a=1&b=2&" * (MB - 1), FORM).status == 405
        assert post(running, "/nowhere", multipart({"a": b"x" * 7 * MB}), MULTIPART).status == 404


def test_strangers_are_refused_before_their_call_is_read(running: Master) -> None:
    with honest_visitor(running):
        reply = post(running, "/api/v2/workers/1", b"[" * 7 * MB, JSON)
    assert reply.status == 403
    assert "admin" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    "params",
    [b"{}," * (2 * MB), b"[" * 7 * MB, b'"\\u0041' + b"\\u0041" * MB + b'"'],
    ids=["objects", "nested", "text"],
)
def test_a_large_call_of_an_admin(running: Master, params: bytes) -> None:
    admin = running.login()
    call = b'{"jsonrpc": "2.0", "id": 1, "method": "pause", "params": {"reason": [' + params
    with honest_visitor(running):
        reply = admin.request("POST", "/api/v2/workers/1", call, Content_Type=JSON)
    assert reply.status == 400
    assert reply.json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "headers", "reason"),
    [
        ("/change_hook/github", {}, "no required signature"),
        ("/change_hook/github", {"X_Hub_Signature": "sha1=00"}, "Hash mismatch"),
        ("/change_hook/github", {"X_Hub_Signature": "md5=00"}, "Unknown hash type"),
        ("/change_hook/github", {"X_Hub_Signature": "00"}, "Wrong signature format"),
        ("/change_hook/gitlab", {}, "Invalid secret"),
        ("/change_hook/gitlab", {"X_Gitlab_Token": "x"}, "Invalid secret"),
        ("/change_hook/nope", {}, "has no change hook"),
    ],
)
def test_senders_are_known_before_their_payload_is_read(
    running: Master, path: str, headers: dict[str, str], reason: str
) -> None:
    with honest_visitor(running):
        reply = post(running, path, b"[" * 20 * MB, JSON, **headers)
    assert reply.status == 400
    assert reason in reply.body.decode()


# what is allowed


@pytest.mark.parametrize("kind", [FORM, MULTIPART])
def test_a_change_in_a_large_form(running: Master, kind: str) -> None:
    text = "ä+%&; = \r\n" * 50_000
    fields = {
        "author": "Ada",
        "comments": text,
        "files": json.dumps(["a", "b"]),
        "revision": f"r{len(kind)}",
    }
    body = urlencode(fields).encode()
    if kind == MULTIPART:
        body = multipart({name: value.encode() for name, value in fields.items()})
    assert post(running, "/change_hook/base", body, kind).status == 200
    (change,) = running.rest("changes", order="-changeid", limit=1)["changes"]
    assert (change["comments"], change["files"]) == (text, ["a", "b"])
    assert change["revision"] == f"r{len(kind)}"


@pytest.mark.parametrize("kind", [JSON, FORM])
def test_a_large_push_with_a_signature(running: Master, kind: str) -> None:
    text = f"{kind} " + "%22 \\u00e4 " * (1 << 18)
    text = json.dumps({**PUSH, "commits": [{**COMMIT, "message": text}]})
    body = text.encode() if kind == JSON else b"payload=" + quote(text).encode()
    mac = hmac.new(SECRET.encode(), body, hashlib.sha1).hexdigest()
    headers = {"X_Hub_Signature": f"sha1={mac}", "X_GitHub_Event": "push"}
    reply = post(running, "/change_hook/github", body, kind, **headers)
    assert (reply.status, reply.body) == (200, b"1 change found")
    (change,) = running.rest("changes", order="-changeid", limit=1)["changes"]
    assert change["comments"].startswith(kind)


def test_what_is_refused_is_counted_and_leaves_no_traceback(running: Master) -> None:
    before = running.status()["refused"].get("bodies that are too large", 0)
    test_a_length_that_nobody_has(running, 14)
    assert running.status()["refused"]["bodies that are too large"] == before + 1
    assert "Traceback" not in running.log
