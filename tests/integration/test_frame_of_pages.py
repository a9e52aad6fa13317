"""The frame of litebot's own pages: who may see and change what, and what browsers are told."""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import succeeded
from support.master import Master
from support.pages import register_notes
from support.pages import send
from support.pages import token_in
from support.visitor import Visitor

NOTES = "/litebot/notes/x"
VERAS = "the password of vera"


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.fixture(scope="module")
def running(module_master: Master, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    register_notes(module_master, tmp_path_factory.mktemp("templates"))
    options = ("--role", "viewer", "--password-stdin", "vera")
    succeeded(module_master.run("user", "add", *options, input=VERAS))
    module_master.start()
    yield module_master
    module_master.stop()


@pytest.fixture
def admin(running: Master) -> Visitor:
    return running.login()


def notes(running: Master) -> bytes:
    return running.visitor().request("GET", NOTES).body


def test_everybody_may_look_and_gets_no_form_and_no_cookie(running: Master) -> None:
    reply = running.visitor().request("GET", NOTES)
    assert reply.status == 200
    assert b"&lt;script&gt;alert(1)" in reply.body
    assert b"<form" not in reply.body
    assert b"Log in" in reply.body
    assert "Set-Cookie" not in reply.headers


def test_an_admin_sends_a_form_and_is_led_to_a_page(running: Master, admin: Visitor) -> None:
    page = admin.request("GET", NOTES)
    reply = send(admin, NOTES, token_in(page), text="new")
    assert reply.status == 303
    # It works under every name of the host, and below every path of a proxy.
    assert reply.headers["Location"] == "../../litebot/notes/x"
    assert b"new by admin" in notes(running)


def test_a_form_that_is_wrong_is_shown_again_with_what_was_written(
    running: Master, admin: Visitor
) -> None:
    token = token_in(admin.request("GET", NOTES))
    reply = send(admin, NOTES, token, text='more than "ten"')
    assert reply.status == 422
    assert b'value="more than &#34;ten&#34;"' in reply.body
    assert b'aria-invalid="true"' in reply.body
    assert b"It has more than 10 letters." in reply.body


def test_nobody_but_an_admin_may_send_a_form(running: Master, admin: Visitor) -> None:
    token = token_in(admin.request("GET", NOTES))
    before = notes(running)
    anonymous = send(running.visitor(), NOTES, token, text="a")
    assert anonymous.status == 403
    assert b"auth/login?redirect=/litebot/notes/x" in anonymous.body
    viewer = running.login("vera", VERAS)
    assert b"<form" not in viewer.request("GET", NOTES).body
    refused = send(viewer, NOTES, token, text="a")
    assert refused.status == 403
    assert b"You need to have role &#39;admin&#39;" in refused.body
    assert notes(running) == before


@pytest.mark.parametrize("token", ["", "0" * 64, "ä"])
def test_a_form_needs_its_token(running: Master, admin: Visitor, token: str) -> None:
    admin.request("GET", NOTES)
    before = notes(running)
    reply = send(admin, NOTES, token, text="a")
    assert reply.status == 403
    assert b"This form is out of date" in reply.body
    assert notes(running) == before


def test_the_token_of_another_browser_is_wrong(running: Master, admin: Visitor) -> None:
    token = token_in(admin.request("GET", NOTES))
    other = running.login()
    assert send(other, NOTES, token, text="a").status == 403  # it has no cookie yet
    other.request("GET", NOTES)
    assert send(other, NOTES, token, text="a").status == 403


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}],
)
def test_a_page_of_another_site_can_send_nothing(
    running: Master, admin: Visitor, headers: dict[str, str]
) -> None:
    token = token_in(admin.request("GET", NOTES))
    kind = "application/x-www-form-urlencoded"
    reply = admin.request("POST", NOTES, f"token={token}&text=a", Content_Type=kind, **headers)
    assert reply.status == 403
    assert b"another site" in reply.body
    assert admin.request("POST", NOTES, f"token={token}&text=ok", Content_Type=kind).status == 303


def test_forms_are_limited_to_128_kib(running: Master, admin: Visitor) -> None:
    token = token_in(admin.request("GET", NOTES))
    assert send(admin, NOTES, token, text="ok", more="x" * 127 * 1024).status == 303
    reply = send(admin, NOTES, token, text="ok", more="x" * 128 * 1024)
    assert reply.status == 413
    assert b"larger than 128 KiB" in reply.body


def test_wrong_addresses_and_methods_are_answered_in_the_frame(
    running: Master, admin: Visitor
) -> None:
    visitor = running.visitor()
    for method, path, status in (
        ("GET", "/litebot/nothing", 404),
        ("GET", "/litebot/notes/x/y/z", 404),
        ("GET", "/litebot/notes/x/y", 404),
        ("GET", "/litebot/only-forms", 405),
        ("POST", "/litebot/broken", 405),
        ("DELETE", NOTES, 405),
        ("GET", "/litebot/broken", 500),
    ):
        reply = visitor.request(method, path)
        assert reply.status == status, path
        assert b"<main" in reply.body, path
        assert b"secret" not in reply.body
    assert visitor.request("GET", "/litebot/only-forms").headers["Allow"] == "POST"
    assert b"KeyError" in admin.request("GET", "/litebot/broken").body
    head = visitor.request("HEAD", NOTES)
    assert (head.status, head.body) == (200, b"")
    assert visitor.request("GET", "/litebot").headers["Location"] == "litebot/"
    assert visitor.request("GET", f"{NOTES}/").status == 200


def test_pages_have_neither_scripts_nor_styles_in_them(running: Master, admin: Visitor) -> None:
    reply = admin.request("GET", NOTES)
    policy = reply.headers["Content-Security-Policy"]
    assert "script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert "no-cache" in reply.headers["Cache-Control"]
    assert not re.search(rb"<style|\sstyle=|\son[a-z]+=|<script(?! src=)", reply.body)


def test_files_are_kept_by_browsers_and_compressed(running: Master) -> None:
    page = notes(running)
    paths = re.findall(rb'(?:href|src)="\.\./\.\./(litebot/static/[^"]+)"', page)
    assert len(paths) == 2
    for path in map(bytes.decode, paths):
        plain = running.visitor().request("GET", f"/{path}")
        assert "immutable" in plain.headers["Cache-Control"]
        packed = running.visitor().request("GET", f"/{path}", Accept_Encoding="br, gzip")
        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body
        older = re.sub("static/[0-9a-f]+", "static/0123", path)
        assert running.visitor().request("GET", f"/{older}").headers["Cache-Control"] == "no-cache"
    (sheet,) = re.findall(rb'href="\.\./\.\./(assets/[^"]+\.css)"', page)
    assert running.visitor().request("GET", f"/{sheet.decode()}").status == 200


def test_a_login_leads_back_to_the_page(running: Master) -> None:
    visitor = running.visitor()
    link = re.search(rb'href="([^"]*auth/login[^"]*)"', visitor.request("GET", NOTES).body)
    assert link is not None
    path = "/" + link[1].decode().removeprefix("../../")
    assert path == "/auth/login?redirect=/litebot/notes/x"
    assert visitor.request("GET", path).status == 401
    reply = visitor.request("GET", path, Authorization=basic("admin", running.password))
    assert (reply.status, reply.headers["Location"]) == (302, "../litebot/notes/x")
    assert b"<form" in visitor.request("GET", NOTES).body
    reply = visitor.request("GET", path.replace("login", "logout"))
    assert (reply.status, reply.headers["Location"]) == (302, "../litebot/notes/x")
    assert b"<form" not in visitor.request("GET", NOTES).body


def test_a_fragment_has_no_frame_and_links_within_buildbots_page(running: Master) -> None:
    reply = running.visitor().request("GET", NOTES, X_Requested_With="litebot")
    assert reply.body.lstrip().startswith(b'<div class="lb" data-title="Notes">')
    assert b"<header" not in reply.body
    assert b'href="#/pages/notes/a%20b%2Fc?done=yes"' in reply.body


def test_where_nobody_logs_in_everybody_may_act_with_a_token(
    master: Master, tmp_path: Path
) -> None:
    register_notes(master, tmp_path)
    master.configure('c["www"] = {"auth": __import__("buildbot.www.auth").www.auth.NoAuth()}')
    master.start()
    visitor = master.visitor()
    page = visitor.request("GET", NOTES)
    assert b"Log in" not in page.body
    assert send(visitor, NOTES, text="a").status == 403
    assert send(visitor, NOTES, token_in(page), text="free").status == 303
    assert b"free by None" in visitor.request("GET", NOTES).body
    stranger = master.visitor()
    assert send(stranger, NOTES, token_in(page), text="a").status == 403


def test_an_authz_without_a_rule_for_all_actions_makes_nobody_an_admin(
    master: Master, tmp_path: Path
) -> None:
    register_notes(master, tmp_path)
    master.configure(
        """
        c["www"] = {
            "auth": util.UserPasswordAuth({"ada": "secret-of-ada"}),
            "authz": util.Authz(
                allowRules=[util.StopBuildEndpointMatcher(role="admins")],
                roleMatchers=[util.RolesFromUsername(roles=["admins"], usernames=["ada"])],
            ),
        }
        """
    )
    master.start()
    ada = master.visitor()
    path = "/auth/login?redirect=/litebot/notes/x"
    login = ada.request("GET", path, Authorization=basic("ada", "secret-of-ada"))
    assert login.headers["Location"].endswith("/litebot/notes/x")
    assert "#" not in login.headers["Location"]
    reply = send(ada, NOTES, text="a")
    assert reply.status == 403
    assert b"AnyControlEndpointMatcher" in reply.body


def test_who_may_not_read_sees_no_page(master: Master, tmp_path: Path) -> None:
    register_notes(master, tmp_path)
    master.configure(
        """
        c["www"] = {
            "auth": util.UserPasswordAuth({"ada": "secret-of-ada"}),
            "authz": util.Authz(
                allowRules=[util.AnyEndpointMatcher(role="admins")],
                roleMatchers=[util.RolesFromUsername(roles=["admins"], usernames=["ada"])],
            ),
        }
        """
    )
    master.start()
    for path in (NOTES, "/litebot/nothing", "/litebot/broken"):
        reply = master.visitor().request("GET", path)
        assert reply.status == 403
        assert b"one &lt;" not in reply.body
    ada = master.visitor()
    assert ada.request("GET", "/auth/login", Authorization=basic("ada", "secret-of-ada")).status
    page = ada.request("GET", NOTES)
    assert page.status == 200
    assert send(ada, NOTES, token_in(page), text="a").status == 303
