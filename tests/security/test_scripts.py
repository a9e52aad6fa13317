"""What a build, a hook or a stranger's page may have a browser do on the page: run no script.

The headers are looked at, and then what Chromium makes of them.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.browser import Page
from support.commands import wait_for
from support.master import SUCCESS
from support.master import Master

# Each says so in the title of the page if it is run.
HTML = """
<h3 id="from-the-log" style="color: rgb(1, 2, 3)">A report</h3>
<style>#from-the-log { text-decoration: underline; }</style>
<script>top.document.title = "script";</script>
<img src="nothing" onerror="top.document.title = 'onerror'">
<svg onload="top.document.title = 'svg'"></svg>
<details open ontoggle="top.document.title = 'ontoggle'"></details>
<iframe srcdoc="<script>top.document.title = 'srcdoc'</script>"></iframe>
<iframe srcdoc="<script src='/api/v2/logs/1/raw_inline'></script>"></iframe>
<iframe src="javascript:top.document.title = 'iframe'"></iframe>
<object data="data:text/html,<script>top.document.title='object'</script>"></object>
<a id="trap" href="javascript:top.document.title = 'link'">click</a>
<base href="http://evil.example/">
"""
SCRIPT = "top.document.title = 'raw';\\n"

STEP = f"""
from buildbot.process.buildstep import BuildStep

HTML = {HTML!r}

class Report(BuildStep):
    async def run(self):
        text = await self.addLog("text")
        await text.addStdout({SCRIPT!r})
        await text.finish()
        await self.addHTMLLog("report", HTML)
        await self.setBuildData("value", HTML.encode(), "text/html")
        await self.addURL("good", "https://example.org/")
        return util.SUCCESS

c["builders"].append(
    util.BuilderConfig(
        name="report",
        workernames=["local"],
        factory=util.BuildFactory([Report(name="report")]),
        description="**bold** <script>top.document.title = 'description'</script>",
    )
)
c["schedulers"].append(schedulers.ForceScheduler(name="force-report", builderNames=["report"]))
c["www"] = {{"change_hook_dialects": {{"base": True}}}}
"""


@pytest.fixture(scope="module")
def running(module_master: Master) -> Iterator[Master]:
    """A master with a build whose log is full of scripts."""
    module_master.configure(STEP)
    module_master.start()
    assert module_master.force("report").returncode == 0
    yield module_master
    module_master.stop()


def logs(master: Master) -> dict[str, int]:
    """The ids of the logs of the build, by their names."""
    (build,) = master.builds("report")
    path = f"builds/{build['buildid']}/steps/report/logs"
    return {log["name"]: log["logid"] for log in master.rest(path)["logs"]}


# headers


def policy_of(headers: http.client.HTTPMessage) -> dict[str, str]:
    """The directives of an answer's policy; the answer has each header once."""
    (text,) = headers.get_all("Content-Security-Policy", [])
    parts = (each.strip().partition(" ") for each in text.split(";"))
    return {name: values for name, _, values in parts}


ANSWERS = [
    *(("GET", "/", 200), ("HEAD", "/", 200), ("GET", "/robots.txt", 200)),
    *(("GET", "/api/v2/builders", 200), ("GET", "/api/v2/nothing", 404)),
    *(("GET", "/api/v2/builders?limit=x", 400), ("POST", "/api/v2/builders/1", 403)),
    *(("OPTIONS", "/api/v2/builders", 400), ("DELETE", "/", 501), ("BREW", "/", 501)),
    *(("GET", "/nothing", 404), ("GET", "/plugins/nothing", 404), ("GET", "/plugins/", 404)),
    *(("GET", "/plugins/waterfall_view/scripts.js", 200), ("GET", "/assets", 302)),
    *(("GET", "/avatar?email=a@b", 302), ("GET", "/auth/login", 401), ("GET", "/auth", 405)),
    ("HEAD", "/auth", 405),
    *(("GET", "/auth/logout", 302), ("GET", "/change_hook/nothing", 400), ("GET", "/config", 200)),
    *(("GET", "/api/v2/logs/1/raw", 200), ("GET", "/api/v2/logs/1/raw_inline", 200)),
    *(("GET", "/ws", 426), ("GET", "/api", 200)),
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_every_answer_has_its_headers(running: Master, method: str, path: str, status: int) -> None:
    reply = running.visitor().request(method, path)
    assert reply.status == status
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Referrer-Policy"] == "same-origin"
    assert reply.headers["X-Frame-Options"] == "SAMEORIGIN"
    policy = policy_of(reply.headers)
    assert policy["frame-ancestors"] == "'self'"
    assert policy["object-src"] == policy["base-uri"] == "'none'"
    scripts = policy.get("script-src", policy.get("default-src", ""))
    assert scripts
    assert "unsafe" not in scripts
    assert "*" not in scripts


@pytest.mark.parametrize("api", ["api", "%61pi"])
@pytest.mark.parametrize("kind", ["raw", "raw_inline", "contents"])
def test_what_a_build_wrote_is_in_a_sandbox(running: Master, api: str, kind: str) -> None:
    for log in logs(running).values():
        reply = running.visitor().request("GET", f"/{api}/v2/logs/{log}/{kind}")
        assert reply.status == 200
        policy = policy_of(reply.headers)
        assert policy["script-src"] == "'none'"
        allowed = set(policy["sandbox"].split())
        assert not allowed & {"allow-scripts", "allow-same-origin", "allow-top-navigation"}
    (build,) = running.builds("report")
    value = f"/api/v2/builds/{build['buildid']}/data/value/value"
    assert "sandbox" in policy_of(running.visitor().request("GET", value).headers)


def test_each_page_has_a_nonce_of_its_own(running: Master) -> None:
    pages = [running.visitor().request("GET", "/") for _ in range(2)]
    nonces = set()
    for page in pages:
        scripts = policy_of(page.headers)["script-src"].split()
        (nonce,) = (each for each in scripts if each.startswith("'nonce-"))
        nonces.add(nonce)
        tag = nonce.strip("'").replace("nonce-", '<script nonce="') + '"'
        assert page.body.count(tag.encode()) == page.body.count(b"<script") > 1
    assert len(nonces) == 2


def test_a_name_can_not_end_the_script_of_the_page(master: Master) -> None:
    master.configure(
        """
        c["title"] = "</script><script>document.title = 'title'</script>"
        c["www"] = {"auth": util.RemoteUserAuth(header="X-User")}
        """
    )
    master.start()
    name = "</script><script>alert(1)</script>"
    page = master.visitor().request("GET", "/", X_User=f"{name}@x").body
    assert b"<script>" not in page
    assert page.count(b"</script>") == page.count(b"<script ")
    assert b"\\u003cscript>" in page


@pytest.mark.parametrize(
    "path",
    [
        *("/<script>alert(1)</script>", "/%3Cscript%3Ealert(1)%3C/script%3E", "/assets/<script>"),
        *("/api/v2/<script>", "/api/<script>", "/auth/<script>", "/plugins/<script>"),
        *("/change_hook/<script>", "/api/v2/builders/<script>", "/avatar/<script>", "/ws/<script>"),
        *("/assets?<script>", "/auth/login?redirect=<script>", "/config/<script>"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "BREW"])
def test_no_error_shows_a_path_as_html(running: Master, method: str, path: str) -> None:
    reply = running.visitor().request(method, path)
    kind = reply.headers.get("Content-Type", "text/html")
    assert b"<script>" not in reply.body or kind.startswith(("text/plain", "application/json"))
    assert b"Traceback" not in reply.body
    assert policy_of(reply.headers)


@pytest.mark.parametrize("path", ["builders/99", "builds/99", "changes/99", "logs/99/contents"])
def test_what_is_not_there_is_said_in_plain_words(running: Master, path: str) -> None:
    reply = running.visitor().request("GET", f"/api/v2/{path}")
    assert (reply.status, reply.json) == (404, {"error": f"there is no {path}"})


def test_an_avatar_is_asked_for_by_a_name(master: Master) -> None:
    """With GitHub's avatars a name is part of a URL of its API, which gets the master's token."""
    master.configure('c["www"] = {"avatar_methods": [util.AvatarGitHub(token="t")]}')
    master.start()
    for name in ("../repos/a/b", "a/b", "a%3Fb", "%00", "x" * 1000):
        reply = master.visitor().request("GET", f"/avatar?username={name}")
        assert (reply.status, reply.headers["Location"]) == (302, "img/nobody.png")
    for email in ("%ff", "a@b" * 1000, "a%0Ab@c"):
        reply = master.visitor().request("GET", f"/avatar?email={email}")
        assert (reply.status, reply.headers["Location"]) == (302, "img/nobody.png")


# a reconfig


def test_a_login_for_hooks_counts_from_the_reconfig_on(master: Master) -> None:
    master.configure('c["www"] = {"change_hook_dialects": {"base": True}}')
    master.start()
    assert master.change() == 200
    (master.basedir / "hooks.passwd").write_text("git:letmein\n", encoding="utf-8")
    master.configure(
        """
        from twisted.cred.checkers import FilePasswordDB
        checker = FilePasswordDB(os.path.join(basedir, "hooks.passwd"))
        c["www"]["change_hook_auth"] = [checker]
        """
    )
    master.reconfig()
    assert master.change() == 401
    master.configure('c["www"].pop("change_hook_auth")')
    master.reconfig()
    assert master.change() == 200


# in Chromium


@pytest.fixture
def page(driver: Any, running: Master, tmp_path: Path) -> Iterator[Page]:
    """A tab where the admin has logged in; screenshots are kept in the test's tmp_path."""
    driver.delete_all_cookies()
    page = Page(driver, running, tmp_path)
    page.log_in("admin", running.password)
    page.wait(".dropdown", "admin")
    page.violations()
    yield page
    page.shoot("at-the-end")


def build_path(master: Master) -> str:
    builderid = master.rest("builders/report")["builders"][0]["builderid"]
    return f"#/builders/{builderid}/builds/1"


def test_a_log_in_the_page_runs_nothing(page: Page, running: Master) -> None:
    page.open(f"{build_path(running)}/steps/1/logs/report")
    shown = page.wait("#from-the-log", "A report")
    assert shown.value_of_css_property("color") == "rgba(1, 2, 3, 1)"
    page.click("#trap")
    wait_for(lambda: page.find("#trap"), "the page to stay")
    page.shoot("html-log")
    assert "Buildbot" in page.driver.title
    kinds = " ".join(page.violations())
    assert "inline event handler" in kinds
    assert "javascript" in kinds.lower()


def test_a_raw_log_runs_nothing(page: Page, running: Master) -> None:
    page.open(f"api/v2/logs/{logs(running)['report']}/raw_inline")
    shown = page.wait("#from-the-log", "A report")
    assert shown.value_of_css_property("color") == "rgba(1, 2, 3, 1)"
    page.click("#trap")
    assert page.driver.title == ""
    page.shoot("raw-log")


def test_no_view_of_the_page_is_missing_anything(page: Page, running: Master) -> None:
    """The page does nothing that its own policy forbids."""
    page.open("")
    page.wait("body", "Welcome to buildbot")
    page.shoot("home")
    builder = build_path(running).partition("/builds/")[0]
    views = {
        "#/builders": "report",
        "#/workers": "local",
        "#/workers/1": "local",
        "#/masters": running.basedir.name,
        "#/schedulers": "force-report",
        "#/changes": "Changes",
        "#/pendingbuildrequests": "Pending",
        "#/buildrequests/1": "report",
        "#/about": "buildbot",
        "#/projects": running.basedir.name,
        "#/waterfall": "report",
        "#/console": running.basedir.name,
        "#/grid": running.basedir.name,
        builder: "report",
        f"{builder}/force/force-report": "Start build",
        build_path(running): "report",
        f"{build_path(running)}/steps/1/logs/text": "top.document.title",
    }
    for path, text in views.items():
        page.open(path)
        page.wait("body", text)
        page.shoot(path.strip("#/").replace("/", "-"))
        assert page.violations() == [], path
    page.open("index.html")
    page.wait("body", "Welcome to buildbot")
    assert page.violations() == []


def test_a_name_that_leads_here_shows_the_way(page: Page, running: Master) -> None:
    page.driver.get(f"http://evil.example:{running.ports[0]}/")
    page.wait("body", "This master is not known under the name evil.example")
    page.shoot("unknown-host")
    assert running.builds("report")[0]["results"] == SUCCESS
