"""Cookies of sessions: their names, who sends them back, and that an ended one stays ended."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs
from urllib.parse import urlencode
from urllib.parse import urlsplit

import pytest

from support.commands import succeeded
from support.commands import wait_for
from support.master import Master
from support.master import on_both
from support.master import watching
from support.postgres import Postgres
from support.several import Site
from support.visitor import Reply
from support.visitor import Visitor


def cookies_of(reply: Reply) -> dict[str, str]:
    """The last Set-Cookie of each name, with its attributes in lower case."""
    headers = reply.headers.get_all("Set-Cookie", [])
    return {header.partition("=")[0]: header.lower() for header in headers}


def log_in(master: Master, **headers: str) -> Reply:
    visitor = master.visitor()
    pair = base64.b64encode(f"admin:{master.password}".encode()).decode()
    return visitor.request("GET", "/auth/login", Authorization=f"Basic {pair}", **headers)


def user_of(visitor: Visitor, **headers: str) -> str | None:
    """Who the page says is logged in, or None."""
    text = visitor.request("GET", "/config", **headers).json["user"]
    return None if text.get("anonymous") else text["username"]


def copy_of(visitor: Visitor) -> Visitor:
    """A thief who has the visitor's cookies."""
    thief = Visitor(visitor.port)
    thief._cookies = dict(visitor._cookies)
    return thief


@pytest.fixture(scope="module")
def running(module_master: Master) -> Iterator[Master]:
    module_master.start()
    yield module_master
    module_master.stop()


def test_a_cookie_has_the_port_in_its_name(running: Master) -> None:
    reply = log_in(running)
    assert reply.status == 302
    name = f"TWISTED_SESSION_{running.ports[0]}"
    cookies = cookies_of(reply)
    assert set(cookies) == {name}
    assert "httponly" in cookies[name]
    assert "samesite=lax" in cookies[name]
    assert "; secure" not in cookies[name]


def test_two_masters_on_a_host_leave_each_other_alone(running: Master, master: Master) -> None:
    master.start()
    browser = Visitor(running.ports[0])
    assert browser.login("admin", running.password) == 302
    browser.port = master.ports[0]
    assert user_of(browser) is None
    assert browser.login("admin", master.password) == 302
    assert user_of(browser) == "admin"
    browser.request("GET", "/auth/logout")
    assert user_of(browser) is None
    browser.port = running.ports[0]
    assert user_of(browser) == "admin"


@on_both
def test_a_logout_ends_the_session_on_the_server(master: Master) -> None:
    master.start()
    visitor, other = master.login(), master.login()
    thief, elsewhere = copy_of(visitor), copy_of(other)
    assert user_of(thief) == "admin"
    assert visitor.request("GET", "/auth/logout").status == 302
    assert user_of(visitor) is None
    assert user_of(thief) is None
    assert thief.control("workers/1", "unpause").status == 403
    assert user_of(elsewhere) == "admin"
    master.kill()
    master.start()
    assert user_of(thief) is None
    assert user_of(elsewhere) == "admin"
    master.reconfig()
    assert user_of(thief) is None
    rows = master.rows(
        "SELECT name FROM object_state WHERE objectid ="
        " (SELECT id FROM objects WHERE name = 'ended sessions')"
    )
    assert len(rows) == 1
    for secret in thief._cookies.values():
        assert secret not in str(rows)


@on_both
def test_the_ends_of_old_sessions_are_forgotten(master: Master) -> None:
    master.configure(
        """
        import datetime
        c["www"] = {"cookie_expiration_time": datetime.timedelta(seconds=2)}
        """
    )
    master.start()
    master.login().request("GET", "/auth/logout")
    query = (
        "SELECT value_json FROM object_state WHERE objectid ="
        " (SELECT id FROM objects WHERE name = 'ended sessions')"
    )
    (old,) = master.rows(query)

    def another() -> bool:
        master.login().request("GET", "/auth/logout")
        return old not in master.rows(query)

    wait_for(another, "the old session to be forgotten")


def test_nobody_fills_the_database_by_logging_out(running: Master) -> None:
    for _ in range(3):
        visitor = running.visitor()
        assert visitor.request("GET", "/auth/logout").status == 302
        assert visitor.request("GET", "/auth/logout").status == 302
    query = "SELECT count(*) FROM object_state s JOIN objects o ON o.id = s.objectid"
    assert running.rows(f"{query} WHERE o.name = 'ended sessions'") == [(0,)]


def test_a_new_password_logs_out(running: Master) -> None:
    add = ("add", "--password-stdin", "bob")
    succeeded(running.run("user", *add, input="correct horse\n"))
    bob = running.login("bob", "correct horse")
    assert user_of(bob) == "bob"
    succeeded(running.run("user", "passwd", "--password-stdin", "bob", input="battery staple\n"))
    assert user_of(bob) is None
    bob = running.login("bob", "battery staple")
    succeeded(running.run("user", "remove", "bob"))
    assert user_of(bob) is None


def test_whoever_is_removed_has_no_role_of_an_authz_either(master: Master) -> None:
    master.configure(
        """
        c["www"] = {
            "authz": util.Authz(
                allowRules=[util.AnyControlEndpointMatcher(role="admins")],
                roleMatchers=[util.RolesFromUsername(roles=["admins"], usernames=["bob"])],
            ),
        }
        """
    )
    master.start()
    succeeded(master.run("user", "add", "--password-stdin", "bob", input="correct horse\n"))
    bob = master.login("bob", "correct horse")
    assert bob.control("workers/1", "unpause", reason="x").status == 200
    succeeded(master.run("user", "remove", "bob"))
    assert bob.control("workers/1", "unpause", reason="x").status == 403


def test_a_forged_cookie_is_nobodys(running: Master) -> None:
    visitor = running.visitor()
    for value in ("x", "a.b.c", "eyJhbGciOiJub25lIn0.eyJ1c2VyX2luZm8iOnt9fQ.", ""):
        visitor._cookies = {f"TWISTED_SESSION_{running.ports[0]}": value}
        assert user_of(visitor) is None


def test_the_name_of_twisted_does_not_count(running: Master) -> None:
    visitor = running.login()
    (token,) = visitor._cookies.values()
    visitor._cookies = {"TWISTED_SESSION": token}
    assert user_of(visitor) is None


# behind TLS


@pytest.mark.parametrize(
    ("host", "name", "secure"),
    [
        ("ci.example.org", "__Host-TWISTED_SESSION_443", True),
        ("CI.example.org:443", "__Host-TWISTED_SESSION_443", True),
        # A proxy that asks under its own name for the master.
        ("127.0.0.1:8010", "TWISTED_SESSION_443", True),
        ("localhost", "TWISTED_SESSION_443", True),
        # These are asked without TLS, past the proxy.
        ("192.0.2.7:8010", "TWISTED_SESSION_443", False),
        ("ci.example.org:8010", "TWISTED_SESSION_443", False),
    ],
)
def test_a_cookie_is_sent_over_tls_alone_behind_an_https_url(
    https: Master, host: str, name: str, secure: bool
) -> None:
    reply = log_in(https, Host=host)
    assert reply.status == 302
    (cookie,) = cookies_of(reply).items()
    assert cookie[0] == name
    assert ("; secure" in cookie[1]) == secure
    assert "path=/" in cookie[1]
    assert "domain" not in cookie[1]
    visitor = https.visitor()
    visitor._cookies = {
        h.partition("=")[0]: h.partition("=")[2].partition(";")[0]
        for h in reply.headers.get_all("Set-Cookie", [])
    }
    assert user_of(visitor, Host=host) == "admin"


@pytest.fixture(scope="module")
def https(created: Master, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    """A master behind a proxy with TLS."""
    with watching() as watch:
        master = watch(created.copy(tmp_path_factory.mktemp("https") / "ci"))
        master.set("web", "url", "https://ci.example.org/")
        master.start()
        yield master


# logins by OAuth

FAKE_REQUESTS = """
import json

class Response:
    content = b'{"access_token": "t"}'
    def raise_for_status(self): pass
    def json(self):
        return dict.fromkeys(("username", "name", "email", "avatar_url"), "ada")

class Session:
    def get(self, url): return Response() if url.endswith("/user") else Groups()

class Groups(Response):
    def json(self): return []

def post(*args, **kwargs): return Response()
"""


@pytest.fixture(scope="module")
def oauth(created: Master, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    """A master whose users log in at a GitLab that takes everybody for Ada."""
    folder: Path = tmp_path_factory.mktemp("oauth")
    (folder / "requests.py").write_text(FAKE_REQUESTS, encoding="utf-8")
    with watching() as watch:
        master = watch(created.copy(folder / "ci"))
        master.configure(
            """
            c["www"] = {"auth": util.GitLabAuth("https://gitlab.example", "id", "secret")}
            """
        )
        master.start(env={**os.environ, "PYTHONPATH": str(folder)})
        yield master


def begin(visitor: Visitor) -> dict[str, list[str]]:
    reply = visitor.request("GET", "/auth/login?redirect=/builders")
    assert reply.status == 302
    parts = urlsplit(reply.headers["Location"])
    assert (parts.netloc, parts.path) == ("gitlab.example", "/oauth/authorize")
    return parse_qs(parts.query)


def complete(visitor: Visitor, state: str) -> Reply:
    return visitor.request("GET", f"/auth/login?{urlencode({'code': 'c', 'state': state})}")


def test_a_login_ends_where_it_began(oauth: Master) -> None:
    visitor = oauth.visitor()
    query = begin(visitor)
    base = f"http://127.0.0.1:{oauth.ports[0]}/"
    assert query["redirect_uri"] == [f"{base}auth/login"]
    reply = complete(visitor, query["state"][0])
    assert (reply.status, reply.headers["Location"]) == (302, base)
    assert user_of(visitor) == "ada"


def test_two_logins_at_once_end_well(oauth: Master) -> None:
    """As of two tabs that a browser opens again."""
    visitor = oauth.visitor()
    for state in [begin(visitor)["state"][0] for _ in range(2)]:
        assert complete(visitor, state).status == 302


def test_a_login_that_began_elsewhere_is_refused(oauth: Master) -> None:
    evil, victim = oauth.visitor(), oauth.visitor()
    state = begin(evil)["state"][0]
    begin(victim)
    for given in (state, "", "redirect=%2Fbuilders", "secret="):
        reply = complete(victim, given)
        assert reply.status == 403, given
        assert b"this login did not begin at" in reply.body
    assert user_of(victim) is None
    assert complete(oauth.visitor(), "secret=").status == 403


# several masters


def test_a_logout_counts_on_all_masters_of_a_database(
    postgres: Postgres, watch: Callable[[Master], Master], tmp_path: Path
) -> None:
    """They are behind one address, as a balancer of load has it."""
    config = 'c["buildbotURL"] = "http://localhost/"; builder("b", shell("true"))'
    site = Site(postgres, tmp_path, watch, config)
    one, two = site.started("one", "two")
    browser = one.login()
    browser.port = two.ports[0]
    assert user_of(browser) == "admin"
    thief = copy_of(browser)
    browser.request("GET", "/auth/logout")
    for master in (two, one):
        thief.port = master.ports[0]
        wait_for(lambda: user_of(thief) is None, "the session to be ended everywhere")
