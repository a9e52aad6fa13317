"""The names under which the page may be asked for: those that a stranger can't own."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from litebot.master.web.hosts import configured
from litebot.master.web.hosts import host_of
from litebot.master.web.hosts import port_of
from support.master import Master

FORM = "application/x-www-form-urlencoded"
PATHS = ("/", "/api/v2/builders", "/config", "/robots.txt", "/nothing", "/auth/login", "/avatar")


@pytest.mark.parametrize(
    ("netloc", "host", "port"),
    [
        ("CI.example.org", "ci.example.org", None),
        ("ci.example.org.:8010", "ci.example.org", 8010),
        ("[::1]:8010", "::1", 8010),
        ("[::1]", "::1", None),
        ("127.0.0.1:1", "127.0.0.1", 1),
        (" a:b ", "a:b", None),
        ("[", "[", None),
        ("[::1].a", "[::1].a", None),
        (":80", "", 80),
    ],
)
def test_a_host_and_its_port(netloc: str, host: str, port: int | None) -> None:
    assert (host_of(netloc), port_of(netloc)) == (host, port)


def test_hosts_of_origins() -> None:
    origins = ("http://[[]::1]:8010", "https://*.Example.org", "http://a.lan:*", "*")
    found = configured("https://ci.ex\u00e4mple.org:8443/", origins)
    assert found == ("ci.xn--exmple-cua.org", "::1", "*.example.org", "a.lan", "*")


@pytest.fixture(scope="module")
def running(module_master: Master) -> Iterator[Master]:
    """A master with a url of its own and an open hook."""
    module_master.set("web", "url", "https://ci.example.org/")
    module_master.configure(
        """
        c["www"] = {
            "change_hook_dialects": {"base": True},
            "allowed_origins": ["https://ci.example.org", "https://*.tools.example.org"],
        }
        """
    )
    module_master.start()
    yield module_master
    module_master.stop()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8010", "localhost.evil.example"])
@pytest.mark.parametrize("path", PATHS)
def test_a_strangers_name_is_refused(running: Master, host: str, path: str) -> None:
    reply = running.visitor().request("GET", path, Host=host, Origin=f"http://{host}")
    assert reply.status == 421
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    text = reply.body.decode()
    assert f"not known under the name {host}" in text
    assert f'[web]\n    url = "http://{host}/"' in text
    assert "litebot reconfig" in text
    assert "https://ci.example.org/" in text


@pytest.mark.parametrize(
    "host",
    [
        *("ci.example.org", "CI.example.org:443", "ci.example.org.", "a.tools.example.org"),
        *("127.0.0.1", "127.0.0.1:9999", "[::1]:8010", "192.0.2.7:8010", "[2001:db8::1]"),
        *("localhost", "localhost:9999", "ci.localhost:1", socket.gethostname()),
    ],
)
def test_names_of_the_master_are_taken(running: Master, host: str) -> None:
    assert running.visitor().request("GET", "/", Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evilci.example.org", "ci.example.org.evil.example", "tools.example.org"),
        *("127.0.0.1.evil.example", "127.1", "[::1", "[::1].evil.example", "ci.example.org@evil"),
        *("<b>x</b>", "evil.example:x", "*"),
    ],
)
def test_others_are_not(running: Master, host: str) -> None:
    reply = running.visitor().request("GET", "/", Host=host)
    assert reply.status in (400, 421)
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


def test_a_page_of_such_a_name_can_not_act(running: Master) -> None:
    """As a browser sends it when evil.example leads to this machine."""
    admin, host = running.login(), "evil.example:8010"
    call = {"jsonrpc": "2.0", "id": 1, "method": "unpause", "params": {"reason": "test"}}
    kind = {"Content_Type": "application/json", "Host": host, "Origin": f"http://{host}"}
    for path in ("/api/v2/workers/1", "/api/v2/forceschedulers/force-hello"):
        assert admin.request("POST", path, json.dumps(call), **kind).status == 421
    for path in ("/ws", "/sse/listen/builds/*/*"):
        assert admin.request("GET", path, Host=host, Origin=f"http://{host}").status == 421
    counted = running.status()["refused"]
    assert counted["unknown host"] > 0
    assert "litebot: refused: unknown host: evil.example" in running.log


def test_a_request_without_a_host_is_answered(running: Master) -> None:
    """As health checks ask."""
    with socket.create_connection(("127.0.0.1", running.ports[0]), timeout=20) as connection:
        connection.sendall(b"GET /api/v2/builders HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"200"


def send(running: Master, method: str = "POST", **headers: str) -> int:
    """Send a change to the hook; return the status."""
    form = urlencode({"author": "ada", "comments": "x", "project": "p"})
    path, body = "/change_hook/base", form
    if method == "GET":
        path, body = f"{path}?{form}", ""
    return running.visitor().request(method, path, body, Content_Type=FORM, **headers).status


def test_a_hook_is_sent_to_under_any_name(running: Master) -> None:
    assert send(running, Host="build.internal:8010") == 200
    assert send(running, Host="ci.example.org") == 200
    assert send(running, Origin="https://a.tools.example.org") == 200
    assert send(running, "GET") == 200


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {"Host": "evil.example", "Origin": "http://evil.example"}, 421),
        ("POST", {"Origin": "http://evil.example"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("GET", {"Host": "evil.example"}, 421),
        ("GET", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("GET", {"Sec_Fetch_Site": "same-site"}, 403),
    ],
)
def test_a_page_of_another_site_sends_nothing_to_a_hook(
    running: Master, method: str, headers: dict[str, str], status: int
) -> None:
    before = running.rest("changes")["changes"]
    assert send(running, method, **headers) == status
    assert running.rest("changes")["changes"] == before


def test_a_name_counts_from_the_reconfig_on(master: Master) -> None:
    master.set("web", "listen", "0.0.0.0")
    master.start()
    host = f"ci.lan:{master.ports[0]}"
    refused = master.visitor().request("GET", "/", Host=host)
    assert refused.status == 421
    assert f'url = "http://{host}/"' in refused.body.decode()
    master.set("web", "url", f"http://{host}/")
    master.reconfig()
    assert master.visitor().request("GET", "/", Host=host).status == 200

    master.configure('c["buildbotURL"] = "http://other.lan/"')
    master.reconfig()
    refused = master.visitor().request("GET", "/", Host=host)
    assert refused.status == 421
    assert f'master.cfg\n\n    c["buildbotURL"] = "http://{host}/"' in refused.body.decode()


def test_every_origin_allowed_is_every_host(master: Master) -> None:
    master.configure('c["www"] = {"allowed_origins": ["*"]}')
    master.start()
    assert master.visitor().request("GET", "/", Host="any.example").status == 200
