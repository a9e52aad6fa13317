"""Wrong logins on the page: they keep nobody waiting, have to wait themselves, and are counted."""

from __future__ import annotations

import base64
import http.client
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import parse_qs
from urllib.parse import urlencode
from urllib.parse import urlsplit

import pytest

from support.attacks import honest_visitor
from support.commands import succeeded
from support.commands import wait_for
from support.master import Master
from support.timing import require_less

Answer = tuple[int, int | None, float]


@pytest.fixture(scope="module")
def running(module_master: Master) -> Master:
    module_master.start()
    for name in ("ada", "bob", "eve"):
        typed = "correct horse\n"
        succeeded(module_master.run("user", "add", "--password-stdin", name, input=typed))
    return module_master


def login(master: Master, name: str, password: str, source: str = "127.0.0.1") -> Answer:
    """Try to log in; return the status, the Retry-After, and how long it took."""
    pair = base64.b64encode(f"{name}:{password}".encode()).decode()
    connection = http.client.HTTPConnection(
        "127.0.0.1", master.ports[0], timeout=60, source_address=(source, 0)
    )
    began = time.monotonic()
    try:
        connection.request("GET", "/auth/login", headers={"Authorization": f"Basic {pair}"})
        reply = connection.getresponse()
        reply.read()
        after = reply.headers.get("Retry-After")
        return reply.status, int(after) if after else None, time.monotonic() - began
    finally:
        connection.close()


def test_a_name_that_is_tried_has_to_wait_where_it_is_tried(running: Master) -> None:
    answers = [login(running, "bob", f"wrong{n}") for n in range(7)]
    assert [status for status, _, _ in answers] == [401] * 5 + [429] * 2
    after = answers[-1][1]
    assert after == 1
    assert login(running, "bob", "correct horse")[0] == 429
    assert login(running, "bob", "correct horse", "127.0.0.2")[0] == 302
    assert login(running, "ada", "correct horse")[0] == 302
    time.sleep(after)
    assert login(running, "bob", "wrong")[0] == 401
    assert login(running, "bob", "wrong")[1] == 2
    time.sleep(2)
    assert login(running, "bob", "correct horse")[0] == 302
    assert login(running, "bob", "wrong")[0] == 401  # it begins anew
    status = running.status()
    assert status["refused"]["wrong login"] >= 7
    assert status["refused"]["too many wrong logins"] >= 4
    assert status["last_refused"]["wrong login"] == "'bob' from 127.0.0.1"
    assert "refused: wrong login: 'bob' from 127.0.0.1" in running.log
    shown = running.run("status").stdout
    assert "times: wrong login (last: 'bob' from 127.0.0.1)" in shown


@pytest.mark.parametrize("name", ["user{n}", "eve"])
def test_wrong_logins_keep_nobody_waiting(running: Master, name: str) -> None:
    """A thousand of them, of names that do not exist, or of one that does."""
    before = len(running.log)
    done = threading.Event()

    def attack(n: int) -> int:
        return 0 if done.is_set() else login(running, name.format(n=n), "wrong")[0]

    with ThreadPoolExecutor(16) as pool, honest_visitor(running) as waited:
        attackers = [pool.submit(attack, n) for n in range(1000)]
        time.sleep(0.3)
        for source in ("127.0.0.1", "127.0.0.3"):
            status, _, took = login(running, "ada", "correct horse", source)
            assert status == 302
            require_less(took, 3)  # it is 0.2 s on a machine that does nothing else
        done.set()
        statuses = Counter(attacker.result() for attacker in attackers)
    assert statuses.keys() <= {0, 401, 429}
    require_less(max(waited), 2)
    assert len(running.log) - before < 5000


def test_who_has_gone_is_not_checked(running: Master) -> None:
    pair = base64.b64encode(b"ada:wrong").decode()
    request = f"GET /auth/login HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {pair}\r\n\r\n"
    for number in range(10, 60):  # from so many addresses, none of which has to wait
        connection = socket.create_connection(
            ("127.0.0.1", running.ports[0]), 20, (f"127.0.1.{number}", 0)
        )
        connection.sendall(request.encode())
        connection.close()
    status, _, took = login(running, "ada", "correct horse", "127.0.2.1")
    assert status == 302
    require_less(took, 3)


@pytest.mark.parametrize(
    ("name", "password"), [("ada", "x" * 10_000), ("a" * 3000, "x"), ("", ""), ("\0", "\n" * 10)]
)
def test_what_can_be_no_login(running: Master, name: str, password: str) -> None:
    before = len(running.log)
    assert login(running, name, password, "127.0.3.1")[0] == 401
    assert "Traceback" not in running.log[before:]


@pytest.mark.parametrize(
    "auth",
    [
        'util.UserPasswordAuth({"ada": "correct horse"})',
        'util.HTPasswdAuth("htpasswd")',
        "Custom()",
    ],
)
def test_other_auths_of_buildbot(master: Master, auth: str) -> None:
    (master.basedir / "htpasswd").write_text("ada:correct horse\n")
    master.configure(
        f"""
        class Custom(util.CustomAuth):
            def check_credentials(self, username, password):
                return (username, password) == (b"ada", b"correct horse")
        c["www"] = {{"auth": {auth}}}
        """
    )
    master.start()
    assert [login(master, "ada", "wrong")[0] for _ in range(6)] == [401] * 5 + [429]
    assert login(master, "ada", "correct horse")[0] == 429
    visitor = master.visitor()
    wait_for(lambda: visitor.login("ada", "correct horse") == 302, "the login", 3)
    assert visitor.control("workers/1", "unpause", reason="test").status == 200


def test_codes_of_oauth_leave_threads_to_others(master: Master) -> None:
    """The server that knows them does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        auth = f'util.GitHubAuth("id", "secret", serverURL="{url}")'
        master.configure(f'c["www"] = {{"auth": {auth}}}')
        master.start()

        def ask(n: int) -> None:
            visitor = master.visitor()
            began = visitor.request("GET", "/auth/login").headers["Location"]
            (state,) = parse_qs(urlsplit(began).query)["state"]
            visitor.timeout_s = 3
            with suppress(OSError):
                visitor.request("GET", f"/auth/login?{urlencode({'code': n, 'state': state})}")

        with ThreadPoolExecutor(40) as pool, honest_visitor(master) as waited:
            list(pool.map(ask, range(40)))
            # a list without a limit is read in a thread
            began = time.monotonic()
            assert master.rest("builds") is not None
            require_less(time.monotonic() - began, 1)
    require_less(max(waited), 2)
    assert master.status()["refused"]["too many logins by OAuth"] > 0
