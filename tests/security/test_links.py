"""URLs that come from outside: what a click would run as a script is no link anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from litebot.master.db.components.links import may_link
from litebot.master.db.components.links import without_scripts
from support.commands import litebot
from support.commands import succeeded
from support.commands import wait_for
from support.master import Master

SCRIPTS = [
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    " javascript:alert(1)",
    "\x01\x1fjavascript:alert(1)",
    "java\nscript:alert(1)",
    "\tjava\t\rscript\n:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:msgbox(1)",
    "blob:http://127.0.0.1/1",
    "file:///etc/passwd",
]
LINKS = [
    "http://example.org/1",
    "HTTPS://example.org/?a=javascript:b#c:d",
    "mailto:ada@example.org",
    "//example.org/1",
    "uploads/report.html",
    "#/builders/1/builds/2",
    "a/b:c",
    "",
]


@pytest.mark.parametrize("url", [*SCRIPTS, None, 7])
def test_a_script_is_no_link(url: Any) -> None:
    assert not may_link(url)


@pytest.mark.parametrize(
    ("html", "harmless"),
    [
        ("<p>a &amp; b &#39; &lt;c></p>", "<p>a &amp; b &#39; &lt;c></p>"),
        ('<a href="https://x.example/?a=1&amp;b=2">x</a>',) * 2,
        ('<img src="data:image/png;base64,x" alt="y">',) * 2,
        ('<a href="java&#10;script:f()" title="t">x</a>', '<a title="t">x</a>'),
        ("<b onclick=f()>x</b><script>f('<b>')</script>y", "<b>x</b>y"),
        ('<svg><a xlink:href="javascript:f()">x</a></svg>', "<svg><a>x</a></svg>"),
        ('<iframe srcdoc="<script>f()</script>"></iframe><base href="//x">', "<iframe></iframe>"),
    ],
)
def test_a_description_keeps_all_but_its_scripts(html: str, harmless: str) -> None:
    assert without_scripts(html) == harmless


@pytest.mark.parametrize("url", LINKS)
def test_others_are(url: str) -> None:
    assert may_link(url)


STEP = """
from buildbot.process.buildstep import BuildStep

class Links(BuildStep):
    async def run(self):
        for name, url in {links!r}:
            await self.addURL(name, url)
        return util.SUCCESS

c["builders"].append(
    util.BuilderConfig(
        name="links", workernames=["local"], factory=util.BuildFactory([Links(name="links")])
    )
)
c["schedulers"].append(schedulers.ForceScheduler(name="force-links", builderNames=["links"]))
c["www"] = {{"change_hook_dialects": {{"base": True, "gitlab": {{"secret": "x"}}}}}}
"""


@pytest.fixture(scope="module")
def running(module_master: Master) -> Iterator[Master]:
    """A master with open hooks, and a builder whose step makes all sorts of links."""
    links = [(str(number), url) for number, url in enumerate([*SCRIPTS, *LINKS])]
    module_master.configure(STEP.format(links=links))
    module_master.start()
    yield module_master
    module_master.stop()


@pytest.mark.parametrize("url", SCRIPTS)
def test_a_hook_refuses_them(running: Master, url: str) -> None:
    assert running.change(revlink=url) == 400
    assert running.rest("changes")["changes"] == []
    payload = {
        "ref": "refs/heads/main",
        "user_name": "eve",
        "repository": {"name": "p", "url": "http://example.org/p.git"},
        "object_kind": "push",
        "commits": [
            {
                "id": "c0ffee",
                "message": "m",
                "timestamp": "2026-01-01T00:00:00+00:00",
                "url": url,
                "author": {"name": "eve", "email": "eve@example.org"},
            }
        ],
    }
    reply = running.visitor().request(
        *("POST", "/change_hook/gitlab", json.dumps(payload)),
        Content_Type="application/json",
        X_Gitlab_Token="x",
    )
    assert reply.status == 400, reply.body
    assert b"revlink is" in reply.body
    assert b"it must begin with http:, https: or mailto:" in reply.body


def test_a_step_keeps_its_links_alone(running: Master) -> None:
    assert running.force("links").returncode == 0
    (build,) = running.builds("links")
    steps = running.rest(f"builds/{build['buildid']}/steps")["steps"]
    shown = [url["url"] for step in steps for url in step["urls"]]
    assert shown == LINKS
    assert "left out the link '0' to 'javascript:alert(1)'" in running.log
    ((stored,),) = running.rows("SELECT urls_json FROM steps WHERE name = 'links'")
    assert [url["url"] for url in json.loads(stored)] == LINKS


def test_a_change_of_a_source_loses_its_link_alone(running: Master) -> None:
    """`sendchange` stands for all that are no hooks."""
    port, before = running.ports[1], running.rest("changes")["changes"]
    running.configure('c["change_source"].append(changes.PBChangeSource(user="u", passwd="p"))')
    running.reconfig()
    options = ("--master", f"127.0.0.1:{port}", "--auth", "u:p", "--who", "eve", "--vc", "git")
    for revlink in ("javascript:alert(1)", "https://example.org/1"):
        succeeded(litebot("sendchange", *options, "--revlink", revlink, "a.txt"))
    wait_for(
        lambda: len(running.rest("changes")["changes"]) == len(before) + 2, "the changes to come"
    )
    found = sorted(running.rest("changes")["changes"], key=lambda change: change["changeid"])
    assert [change["revlink"] for change in found[-2:]] == ["", "https://example.org/1"]


def test_what_an_older_version_stored_is_not_shown(master: Master) -> None:
    master.configure(STEP.format(links=[("good", "https://example.org/")]))
    master.start()
    assert master.force("links").returncode == 0
    assert master.change(revlink="https://example.org/1") == 200
    master.stop()
    urls = json.dumps([{"name": "x", "url": "javascript:alert(1)"}])
    info = json.dumps({"access_uri": "javascript:alert(1)", "host": "h"})
    master.execute("UPDATE changes SET revlink = 'javascript:alert(1)'")
    master.execute(f"UPDATE steps SET urls_json = '{urls}'")
    master.execute(f"UPDATE workers SET info = '{info}'")
    master.start()
    (build,) = master.builds("links")
    answers = {
        path: master.visitor().request("GET", f"/api/v2/{path}")
        for path in (
            *(
                "changes",
                "changes/1",
                "changes?order=committer&field=revlink&field=committer",
                "changes?order=files",
            ),
            *(f"builds/{build['buildid']}/steps", "steps/1", "workers", "workers/1"),
            *("builders/1/workers", "sourcestamps"),
        )
    }
    for path, reply in answers.items():
        assert reply.status == 200, (path, reply.body)
        assert b"javascript" not in reply.body, path


def test_descriptions_are_shown_without_scripts(master: Master) -> None:
    master.start()
    html = '<b>x</b><a href="javascript:f()">y</a><script>f()</script>'
    master.execute(f"UPDATE builders SET description_html = '{html}'")
    master.execute(
        "INSERT INTO projects (name, name_hash, slug, description_html)"
        f" VALUES ('old', 'x', 'old', '{html}')"
    )
    for path in ("builders", "builders/1", "builders/hello", "projects"):
        kind, found = path.partition("/")[0], master.rest(path)
        shown = {each["description_html"] for each in found[kind]} - {None}
        assert shown == {"<b>x</b><a>y</a>"}, path


def test_a_worker_may_say_how_people_get_to_it(master: Master) -> None:
    master.start()
    for uri in ("ssh://ci@worker.example", "https://worker.example/"):
        info = json.dumps({"access_uri": uri})
        master.execute(f"UPDATE workers SET info = '{info}'")
        assert master.rest("workers/1")["workers"][0]["workerinfo"]["access_uri"] == uri
