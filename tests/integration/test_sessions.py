"""Who counts as whom on the page: logins, sessions, and the pages that use them."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from litebot.users import UserFile
from support.commands import succeeded
from support.master import Master
from support.master import on_both
from support.visitor import Reply
from support.visitor import Visitor

# A name under which the page may be asked for without a url in litebot.toml.
NAME = socket.gethostname().lower()


@pytest.fixture(scope="module")
def running(module_master: Master) -> Master:
    """A master that listens on every address, without a url of its own in litebot.toml."""
    module_master.set("web", "listen", "0.0.0.0")
    note = f"note: {module_master.basedir}/litebot.toml: the page listens on every network and"
    assert note in module_master.start().stderr
    return module_master


@pytest.fixture
def bob(running: Master) -> Iterator[Visitor]:
    """An admin besides the first one, logged in."""
    add = ("add", "--password-stdin", "bob")
    succeeded(running.run("user", *add, input="correct horse\n"))
    yield running.login("bob", "correct horse")
    running.run("user", "remove", "bob")


def may_act(visitor: Visitor) -> bool:
    reply = visitor.control("workers/1", "unpause", reason="test")
    assert reply.status in (200, 403), reply.body
    return reply.status == 200


@on_both
def test_a_new_password_ends_the_sessions_of_the_old_one(running: Master, bob: Visitor) -> None:
    assert may_act(bob)
    typed = "battery staple\n"
    succeeded(running.run("user", "passwd", "--password-stdin", "bob", input=typed))
    assert not may_act(bob)
    assert may_act(running.login("bob", "battery staple"))
    assert may_act(running.login())


def test_a_new_user_of_an_old_name_has_no_session(running: Master, bob: Visitor) -> None:
    for command in (("remove", "bob"), ("add", "--password-stdin", "bob")):
        succeeded(running.run("user", *command, input="correct horse\n"))
    assert not may_act(bob)


def test_no_script_reads_the_cookie_and_no_other_site_sends_it(running: Master) -> None:
    visitor = running.visitor()
    cookies: list[str] = []
    request = visitor.request

    def keep(*args: str, **headers: str) -> Reply:
        reply = request(*args, **headers)
        cookies.extend(reply.headers.get_all("Set-Cookie", []))
        return reply

    visitor.request = keep  # type: ignore[method-assign, assignment]
    assert visitor.login("admin", running.password) == 302
    (cookie,) = SimpleCookie(cookies[0]).values()
    assert (cookie["httponly"], cookie["samesite"].lower()) == (True, "lax")


def test_a_login_leads_back_by_the_name_that_was_used(running: Master) -> None:
    visitor = running.login()
    reply = visitor.request("GET", "/auth/logout?redirect=/builders", Host=f"{NAME}:8010")
    assert reply.status == 302
    assert reply.headers["Location"] == "../#/builders"
    assert not may_act(visitor)


def test_an_unreadable_file_of_users_makes_nobody_an_admin(running: Master, bob: Visitor) -> None:
    path = running.basedir / "users"
    text = path.read_text(encoding="ascii")
    path.write_text(text + "eve\n", encoding="ascii")
    try:
        for visitor in (running.visitor(), bob):
            assert not may_act(visitor)
            assert visitor.rest("builders")
        reply = running.visitor().request(
            "GET", "/auth/login", Authorization="Basic Ym9iOmNvcnJlY3QgaG9yc2U="
        )
        assert reply.status in (401, 500)
        assert str(running.basedir).encode() not in reply.body
        assert f"litebot: {path}:3: malformed" in running.log
    finally:
        path.write_text(text, encoding="ascii")
    assert may_act(bob)


def test_a_visitor_may_ask_for_the_head_of_what_he_may_get(running: Master) -> None:
    body = running.visitor().request("GET", "/api/v2/builders").body
    reply = running.visitor().request("HEAD", "/api/v2/builders")
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["Content-Length"]) == len(body)


# pages of other sites


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        (f"{NAME}:{{port}}", f"http://{NAME}:{{port}}", True),
        (f"{NAME}:{{port}}", f"http://{NAME.upper()}:{{port}}", True),
        (f"{NAME}:{{port}}", "http://evil.example", False),
        (f"{NAME}:{{port}}", f"http://{NAME}:1", False),
        (f"{NAME}:{{port}}", "null", False),
        ("127.0.0.1:{port}", "http://localhost:{port}", True),
        ("127.0.0.1:{port}", None, True),
    ],
)
def test_pages_of_this_master_alone_talk_to_it(
    running: Master, host: str, origin: str | None, allowed: bool
) -> None:
    admin = running.login()
    port = running.ports[0]
    headers = {"Host": host.format(port=port)}
    if origin is not None:
        headers["Origin"] = origin.format(port=port)
    call = {"jsonrpc": "2.0", "id": 1, "method": "unpause", "params": {"reason": "test"}}
    acted = admin.request(
        "POST", "/api/v2/workers/1", json.dumps(call), Content_Type="application/json", **headers
    )
    assert acted.status == (200 if allowed else 400)
    assert status_of(port, "/sse/listen/builds/*/*", headers) == (200 if allowed else 403)
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    assert status_of(port, "/ws", {**headers, **upgrade}) == (101 if allowed else 403)


def status_of(port: int, path: str, headers: dict[str, str]) -> int:
    """Of a reply whose body need not end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


# an auth of one's own


def test_an_account_of_anywhere_is_no_admin_by_itself(master: Master) -> None:
    master.configure('c["www"] = {"auth": util.RemoteUserAuth(header="X-User")}')
    checked = succeeded(master.run("check-config"))
    said = "the auth RemoteUserAuth lets in people whom master.cfg does not name"
    assert f"note: {master.basedir}/master.cfg: {said}" in checked.stderr
    started = master.start()
    assert said in started.stderr
    assert said in master.log

    master.configure(
        """
        c["www"]["authz"] = util.Authz(
            allowRules=[util.AnyControlEndpointMatcher(role="admin")],
            roleMatchers=[util.RolesFromEmails(admin=["ada@example.org"])],
        )
        """
    )
    assert succeeded(master.run("check-config")).stderr == ""


def test_a_list_of_ones_own_is_of_admins(master: Master) -> None:
    master.configure('c["www"] = {"auth": util.UserPasswordAuth({"ada": "lovelace"})}')
    assert succeeded(master.run("check-config")).stderr == ""
    master.start()
    assert may_act(master.login("ada", "lovelace"))
    assert not may_act(master.visitor())


# many logins

LOGINS = """
    import sys
    from pathlib import Path
    from litebot.master.web.auth import FileAuth
    from twisted.cred.credentials import UsernamePassword
    from twisted.internet import defer, reactor, task

    auth, most = FileAuth(Path(sys.argv[1])), 0

    def look():
        global most
        most = max(most, len(reactor.getThreadPool().working))

    def start():
        looking = task.LoopingCall(look)
        looking.start(0.001)
        asked = [auth.requestAvatarId(UsernamePassword(b"ada", b"lovelace")) for _ in range(12)]
        d = defer.gatherResults(asked)
        d.addCallback(lambda names: print(len(names), most))
        d.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(start)
    reactor.run()
"""


def test_logins_leave_the_reactors_threads_to_others(tmp_path: Path) -> None:
    UserFile(tmp_path / "users").add("ada", "lovelace")
    program = [sys.executable, "-c", textwrap.dedent(LOGINS), str(tmp_path / "users")]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    answered, most = map(int, done.stdout.split())
    assert answered == 12
    assert most <= 2  # one checks, one may not have left its thread yet
