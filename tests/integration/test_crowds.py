"""A crowd is answered by the desk as the master would; all else goes on as ever."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from litebot.process import descendants
from support.commands import is_running
from support.commands import succeeded
from support.commands import wait_for
from support.master import Master
from support.visitor import Reply
from support.visitor import Visitor

A_VISIT_S = 0.02
LONG = 1_000_000  # lines, more than the system keeps of an answer that nobody reads

# The desk of a crowd that has gone goes soon, and one that failed is followed by another soon.
CONFIG = """
from litebot.master.crowd import gate
gate.STAYS_S = 1.0
gate.NOT_BEFORE_S = 1.0
gate.SILENT_S = 10.0
c["www"] = {"change_hook_dialects": {"base": True}}
"""

# What two answers to the same request may differ in.
OF_CONNECTIONS = ("connection", "date")
OF_TIME = re.compile(rb'"last_active": ?\d+')


class Impatient(Visitor):
    timeout_s = 1.0


def desks_of(master: Master) -> list[int]:
    """The pids of its desks."""
    return [pid for pid in descendants(master.pid) if b"crowd.desk" in command_line(pid)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it has just ended


def desk_of(master: Master) -> int:
    """The pid of its desk, of which it has one."""
    (desk,) = desks_of(master)
    return desk


def processor_s(pid: int) -> float:
    """The processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def crowd_at(master: Master, path: str = "/api/v2/builders") -> Iterator[list[int]]:
    """Have many come; begins when they go to the desk.  Yields the statuses of their answers,
    0 where there was none.
    """
    statuses: list[int] = []
    is_over = threading.Event()
    is_there = threading.Event()

    def come() -> None:
        while not is_over.wait(A_VISIT_S):
            try:
                reply = get(master, path)
            except (OSError, HTTPException):
                statuses.append(0)
                continue
            statuses.append(reply.status)
            if reply.headers["connection"] == "close":
                is_there.set()

    threads = [threading.Thread(target=come) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_for(is_there.is_set, "a crowd to go to the desk")
        yield statuses
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def get(master: Master, path: str, **headers: str) -> Reply:
    return master.visitor().request("GET", path, **headers)


def raw(master: Master, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """What comes back for these bytes, until the connection ends or nothing comes for a second."""
    with socket.create_connection(("127.0.0.1", master.ports[0]), 10) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)
        connection.settimeout(1.0)
        received = b""
        with suppress(TimeoutError):
            while data := connection.recv(65536):
                received += data
        return received


def answer(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    """What has to be the same in two answers."""
    headers = {k.lower(): v for k, v in reply.headers.items() if k.lower() not in OF_CONNECTIONS}
    return reply.status, headers, OF_TIME.sub(b"", reply.body)


@pytest.fixture(scope="module")
def running(module_master: Master) -> Master:
    """A master that has built something."""
    module_master.configure(CONFIG)
    module_master.define_builder("long", f"seq {LONG}")
    module_master.start()
    succeeded(module_master.force("hello"))
    succeeded(module_master.force("long"))
    assert module_master.change(revision="first") == 200
    return module_master


def test_the_desk_answers_as_the_master(running: Master) -> None:
    specs = running.rest("application.spec")["specs"]
    paths = [re.sub(r"[^/]*:\w+", "1", spec["path"]) for spec in specs]
    assert len(paths) > 100
    paths.remove("changes/1/properties_list")  # which Buildbot has forgotten to write
    paths += ["builds?limit=1", "builds?order=-buildid&field=buildid", "logs/1/raw", "logs/1"]
    paths += ["builds?limit=x", "builds?no=1", "no/such", "builds/4711", "builds/99999999999999999"]
    paths += ["changes?revision=first", "steps?name__contains=e", "builders/hello/builds"]
    kinds: list[dict[str, str]] = [{}, {"Accept": "application/json"}, {"Accept_Encoding": "gzip"}]
    asked = [(f"/api/v2/{path}", kinds[n % len(kinds)]) for n, path in enumerate(paths)]
    alone = [answer(get(running, path, **headers)) for path, headers in asked]
    assert {status for status, _, _ in alone} == {200, 400, 404}
    with crowd_at(running) as statuses:
        desk = desk_of(running)
        before_s = processor_s(desk)
        beside = [answer(get(running, path, **headers)) for path, headers in asked]
        assert processor_s(desk) > before_s + len(asked) * 0.0005
    for request, one, other in zip(asked, alone, beside, strict=True):
        assert one == other, request
    assert set(statuses) == {200}
    assert "Traceback" not in running.log


def test_it_is_the_desk_that_answers(running: Master) -> None:
    with crowd_at(running):
        desk = desk_of(running)
        assert os.getpriority(os.PRIO_PROCESS, desk) == 10
        os.kill(desk, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                Impatient(running.ports[0]).request("GET", "/api/v2/builds")
            assert running.change(revision="beside") == 200
            assert running.visitor().request("HEAD", "/api/v2/builds").status == 200
        finally:
            os.kill(desk, signal.SIGCONT)
        assert get(running, "/api/v2/builds").status == 200
        assert desk_of(running) == desk


def test_what_is_not_plain_is_answered_by_the_master(running: Master) -> None:
    with crowd_at(running):
        page = get(running, "/")
        assert b"<html" in page.body.lower()
        assert running.visitor().request("HEAD", "/api/v2/builds").status == 200
        assert running.rest("forceschedulers")["forceschedulers"] != []
        assert running.rest("builders/%68ello")["builders"][0]["name"] == "hello"
        admin = running.login()
        assert admin.rest("builders")["builders"] != []
        reply = admin.control("builders/hello", "no such method")
        assert reply.status == 400
        assert succeeded(running.force("hello")).returncode == 0
        assert running.change(comments="x" * 300_000) == 200
        head = b"Host: x\r\n\r\n"
        one = b"GET /api/v2/masters HTTP/1.1\r\n" + head
        assert raw(running, one).startswith(b"HTTP/1.1 200")
        assert raw(running, one[:20], one[20:], pause_s=0.3).startswith(b"HTTP/1.1 200")
        assert raw(running, one[:20], one[20:], pause_s=1.5).startswith(b"HTTP/1.1 200")
        long = one.replace(b"Host: x", b"X: " + b"x" * 15_000 + b"\r\nY: " + b"y" * 15_000)
        assert raw(running, long).startswith(b"HTTP/1.1 400")
        assert raw(running, b"rubbish\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert raw(running, b"", one, pause_s=1.5).startswith(b"HTTP/1.1 200")
        key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        upgrade = b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key + head
        assert raw(running, upgrade).startswith(b"HTTP/1.1 101")


def test_who_has_changed_something_sees_it(running: Master) -> None:
    with crowd_at(running):
        for number in range(30):
            assert running.change(revision=f"seen {number}") == 200
            found = running.rest("changes", order="-changeid", limit=1)["changes"]
            assert found[0]["revision"] == f"seen {number}"


def test_http_log_has_every_visit(running: Master) -> None:
    log = running.basedir / "http.log"
    path = "/api/v2/builders?limit=17"
    with crowd_at(running, path) as statuses:
        time.sleep(1)
    assert set(statuses) == {200}
    line = f'"GET {path} HTTP/1.1" 200 '
    wait_for(lambda: log.read_text().count(line) == len(statuses), "all lines in http.log")


def test_the_desk_goes_when_the_crowd_has(running: Master) -> None:
    with crowd_at(running):
        desk = desk_of(running)
    wait_for(lambda: not is_running(desk), "the desk to go")
    assert get(running, "/api/v2/builds").headers["connection"] is None
    assert "the process that answers crowds" not in running.log


@pytest.fixture
def closed_to_strangers(running: Master) -> Iterator[None]:
    """The configuration is such, while the running master has not read it yet."""
    config = running.basedir / "master.cfg"
    text = config.read_text(encoding="utf-8")
    running.configure(
        """
        c["www"]["auth"] = util.UserPasswordAuth({"a": "b"})
        c["www"]["authz"] = util.Authz([util.AnyEndpointMatcher(role="admins")])
        """
    )
    yield
    config.write_text(text, encoding="utf-8")
    running.reconfig()


@pytest.mark.usefixtures("closed_to_strangers")
def test_a_reconfig_is_obeyed(running: Master) -> None:
    with crowd_at(running) as statuses:
        desk = desk_of(running)
        running.reconfig()
        assert get(running, "/api/v2/builds").status == 403
        wait_for(lambda: not is_running(desk), "the desk to leave")
        time.sleep(1.5)
        assert get(running, "/api/v2/builds").status == 403
        assert desks_of(running) == []
    assert set(statuses) == {200, 403}


def test_a_long_answer_is_given_to_its_end(running: Master) -> None:
    (log,) = running.rest("builders/long/builds/1/steps/shell/logs")["logs"]
    path = f"/api/v2/logs/{log['logid']}/raw"
    with crowd_at(running):
        desk = desk_of(running)
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", running.ports[0]))
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        received = connection.recv(1000)
        running.reconfig()
        time.sleep(0.5)
        assert is_running(desk)
    with connection:
        while data := connection.recv(65536):
            received += data
    assert f"\n{LONG}\n".encode() in received
    wait_for(lambda: not is_running(desk), "the desk to leave")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_desk_that_fails_is_missed_by_few(running: Master, number: signal.Signals) -> None:
    with crowd_at(running) as statuses:
        desk = desk_of(running)
        os.kill(desk, number)
        wait_for(lambda: not is_running(desk), "the desk to end")
        time.sleep(0.2)
        statuses.clear()
        wait_for(lambda: len(statuses) > 100, "more visits")
    assert set(statuses) == {200}


def test_the_desk_ends_with_its_master(running: Master) -> None:
    with crowd_at(running):
        desk = desk_of(running)
    running.kill()
    wait_for(lambda: not is_running(desk), "the desk to end")
    running.start()
    with crowd_at(running):
        desk = desk_of(running)
    running.stop()
    assert not is_running(desk)
