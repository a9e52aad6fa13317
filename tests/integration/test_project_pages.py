"""The pages of projects, without JavaScript: what is shown, and what admins can do there."""

from __future__ import annotations

import re
import time
from pathlib import Path

import apsw
import pytest

from litebot.master.projects.web.branches import thd_branches
from litebot.master.projects.web.overview import thd_activity
from litebot.store.sql import ApswSql
from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.git_servers import bare_repository
from support.git_servers import http_server
from support.git_servers import ssh_server
from support.long_history import load_history
from support.master import Master
from support.master import on_both
from support.pages import send
from support.pages import token_in
from support.timing import require_less
from support.visitor import Reply
from support.visitor import Visitor

ADD = "/litebot/projects/add"
STEPS = 'steps = ["echo built"]'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a Makefile and one commit, by somebody with a name."""
    folder = tmp_path / "greeter"
    folder.mkdir()
    (folder / "Makefile").write_text("test:\n\techo tested\n", encoding="utf-8")
    succeeded(run("git", "init", "--quiet", "-b", "trunk", folder))
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    identity = ("-c", "user.name=Ada & Co", "-c", "user.email=ada@example.org")
    succeeded(run("git", "-C", folder, "add", "."))
    succeeded(run("git", *identity, "-C", folder, "commit", "--quiet", "--allow-empty", "-m", "x"))


class Admin:
    """A visitor who has logged in, and sends forms."""

    def __init__(self, master: Master) -> None:
        self.visitor: Visitor = master.login()
        self.token = token_in(self.visitor.request("GET", ADD))

    def get(self, path: str) -> str:
        reply = self.visitor.request("GET", f"/litebot/{path}")
        assert reply.status == 200, reply.body
        return reply.body.decode()

    def send(self, path: str, **fields: str) -> Reply:
        return send(self.visitor, f"/litebot/{path}", self.token, **fields)

    def add(self, name: str, repository: Path, **fields: str) -> None:
        known = {"url": str(repository), "branch": "trunk", "steps": STEPS, "step": "save"}
        reply = self.send("projects/add", name=name, **{**known, **fields})
        assert reply.status == 303, reply.body


def admin_of(master: Master) -> Admin:
    master.start()
    return Admin(master)


@on_both
def test_a_project_is_added_by_its_address_alone_and_built(
    master: Master, repository: Path
) -> None:
    admin = admin_of(master)
    assert "There is no project yet" in admin.get("")
    found = admin.send("projects/add", url=str(repository))
    assert found.status == 200
    assert b'name="name" type="text" value="greeter"' in found.body
    assert b'value="trunk"' in found.body
    assert b"make test" in found.body
    steps = re.search(rb"<textarea[^>]*>\n(.*?)</textarea>", found.body, re.DOTALL)
    assert steps is not None
    text = steps[1].decode().replace("&#34;", '"').replace("&#39;", "'")
    admin.add("greeter", repository, steps=text)
    master.finished_build("greeter")
    assert "Added." in admin.get("projects/greeter?done=added")

    page = admin.get("")
    assert 'href="../litebot/projects/greeter"' in page
    assert "results_SUCCESS" in page
    assert "Builders of master.cfg" in page
    assert admin.send("projects/greeter/edit", base="1", poll="10s").status == 303
    commit(repository)
    master.finished_build("greeter", 2)
    page = admin.get("projects/greeter")
    assert "trunk" in page
    assert "Ada &amp; Co" in page
    assert "ada@example.org" not in page
    anonymous = master.visitor().request("GET", "/litebot/projects/greeter").body
    assert b"<form" not in anonymous
    assert b"results_SUCCESS" in anonymous


def test_what_can_not_be_added_is_said_beside_what_was_written(
    master: Master, repository: Path, tmp_path: Path
) -> None:
    admin = admin_of(master)
    reply = admin.send("projects/add", url=str(tmp_path / "nothing"))
    assert reply.status == 422
    assert b"there is no git repository at" in reply.body.lower()
    reply = admin.send(
        "projects/add",
        step="save",
        name="a b",
        url=str(repository),
        branch="trunk",
        steps="steps = 5",
    )
    assert reply.status == 422
    assert reply.body.count(b'class="lb-error"') == 2
    assert b'<a href="#name">' in reply.body
    assert b'<a href="#steps">' in reply.body
    assert b"steps = 5" in reply.body
    reply = admin.send(  # the sample's builder
        "projects/add", step="save", name="hello", url=str(repository), branch="trunk", steps=STEPS
    )
    assert reply.status == 422
    assert b"give one of them another name" in reply.body
    assert "There is no project yet" in admin.get("")


def test_settings_history_undo_and_removal(master: Master, repository: Path) -> None:
    admin = admin_of(master)
    admin.add("greeter", repository)
    # Keys that a form does not have stay as they are.
    saved = admin.send("projects/greeter/edit", base="1", timeout="2h", comment="slow <tests>")
    assert saved.headers["Location"].endswith("projects/greeter?done=saved")
    assert "2h" in admin.get("projects/greeter")
    assert "echo built" in admin.get("projects/greeter")
    reply = admin.send("projects/greeter/edit", base="2", timeout="soon", at_once="0")
    assert reply.status == 422
    assert b"Nothing was saved: 2 of the settings" in reply.body
    for key in ("timeout", "at_once"):
        assert b'<a href="#%b">' % key.encode() in reply.body
    reply = admin.send("projects/greeter/edit", base="2", workers="nobody")
    assert b"Nothing was saved: project greeter may be built on nobody only" in reply.body

    page = admin.get("projects/greeter/history")
    assert "slow &lt;tests&gt;" in page
    assert "<del>1h</del> <ins>2h</ins>" in page
    assert admin.send("projects/greeter/undo", to="1", base="2").status == 303
    assert "2h" not in admin.get("projects/greeter")
    assert admin.send("projects/greeter/undo", to="1", base="2").status == 422  # not the newest
    assert admin.send("projects/greeter/undo", to="99", base="3").status == 422
    assert admin.send("projects/greeter/undo", to="-1", base="3").status == 400

    assert admin.send("projects/greeter/disable").status == 303
    assert "disabled" in admin.get("")
    assert admin.send("projects/greeter/enable").status == 303
    assert "Remove greeter?" in admin.get("projects/greeter/remove")
    reply = admin.send("projects/greeter/remove", base="5")
    assert reply.headers["Location"].endswith("?done=removed&of=greeter")
    gone = admin.visitor.request("GET", "/litebot/projects/greeter")
    assert gone.status == 404
    assert re.search(rb"was removed <time[^>]*>a moment ago</time> by admin", gone.body)
    assert hidden_in(gone.body) == {"to": "5", "base": "6"}
    anonymous = master.visitor().request("GET", "/litebot/projects/greeter")
    assert anonymous.status == 404
    assert b"<form" not in anonymous.body
    assert "removed" in admin.get("projects/greeter/history")
    assert admin.send("projects/greeter/undo", to="3", base="6").status == 303
    assert "greeter" in admin.get("projects/greeter")
    admin.send("projects/greeter/remove", base="7")
    admin.add("greeter", repository)  # anew, under the same name
    assert admin.get("projects/greeter/history").count('<th scope="row">') == 9


def test_the_second_of_two_admins_sees_the_difference_and_chooses(
    master: Master, repository: Path
) -> None:
    first, second = admin_of(master), Admin(master)
    first.add("greeter", repository)
    assert first.send("projects/greeter/edit", base="1", timeout="2h", poll="5m").status == 303
    mine = {"base": "1", "timeout": "3h", "at_once": "4", "poll": "1m"}
    reply = second.send("projects/greeter/edit", **mine)
    assert reply.status == 409
    text = reply.body.decode()
    assert "admin has saved version 2 meanwhile" in text
    assert text.count("clash</span>") == 1
    assert text.count("<pre>(not changed)</pre>") == 2  # what only one of both has changed
    fields = dict(re.findall(r'name="(\w+)" type="\w+" value="([^"]*)"', text))
    assert (fields["timeout"], fields["poll"], fields["at_once"]) == ("3h", "5m", "4")
    assert 'name="base" value="2"' in text
    shown = {name: fields[name] for name in ("timeout", "poll", "at_once")}
    assert second.send("projects/greeter/edit", base="2", **shown).status == 303
    page = first.get("projects/greeter")
    assert "3h" in page
    assert "5m" in page


def test_builds_are_asked_for_with_a_branch(master: Master, repository: Path) -> None:
    admin = admin_of(master)
    admin.add("greeter", repository)
    master.finished_build("greeter")
    assert admin.send("projects/greeter/build", branch="trunk").status == 303
    master.finished_build("greeter", 2)
    assert admin.send("projects/nobody/build").status == 404
    page = admin.get("projects/greeter")
    assert "How long builds took" in page
    assert page.count("results_SUCCESS") >= 4


def test_what_runs_and_waits_is_counted(master: Master, repository: Path) -> None:
    wait = f"while ! test -e {master.basedir}/go; do sleep 0.05; done"
    admin = admin_of(master)
    admin.add("greeter", repository, steps=f'steps = ["{wait}"]', replace="no")
    wait_for(lambda: "1 running" in admin.get(""), "the first build")
    admin.send("projects/greeter/build", branch="trunk")
    wait_for(
        lambda: "1 running" in (page := admin.get("")) and "1 waiting" in page,
        "a build that runs, and one that waits",
    )
    (master.basedir / "go").touch()
    master.finished_build("greeter", 2)
    assert "running" not in admin.get("")


def test_a_pull_request_from_a_fork_waits_for_an_admin(master: Master, repository: Path) -> None:
    admin = admin_of(master)
    admin.add("greeter", repository)
    master.finished_build("greeter")
    changed = {"pull_requests": "yes", "poll": "10s"}
    assert admin.send("projects/greeter/edit", base="1", **changed).status == 303
    wait_for(lambda: master.log.count("gitpoller: processing changes") > 2, "the first look")
    time.sleep(1)
    tip = succeeded(run("git", "-C", repository, "rev-parse", "HEAD")).stdout.strip()
    commit(repository)
    theirs = succeeded(run("git", "-C", repository, "rev-parse", "HEAD")).stdout.strip()
    succeeded(run("git", "-C", repository, "update-ref", "refs/pull/7/head", theirs))
    succeeded(run("git", "-C", repository, "reset", "--quiet", "--hard", tip))
    assert admin.send("projects/greeter/look").status == 303
    wait_for(lambda: "refs/pull/7/head" in admin.get("projects/greeter"), "the pull request", 30)
    ours = {"ref": "refs/pull/7/head", "revision": tip}
    assert admin.send("projects/greeter/pull", **ours).status == 409
    assert admin.send("projects/greeter/pull", **{**ours, "revision": theirs}).status == 303
    assert master.finished_build("greeter", 2)["results"] == 0
    page = admin.get("projects/greeter")
    assert theirs in page
    assert "Build refs/pull/7/head" not in page


def test_the_badge_is_of_the_projects_branch_over_all_cells(
    master: Master, repository: Path
) -> None:
    matrix = 'steps = ["test $X != 2"]\nmatrix = {X = ["1", "2"]}'
    admin = admin_of(master)
    admin.add("greeter", repository, steps='steps = ["true"]')
    master.finished_build("greeter")
    admin.send("projects/greeter/build", branch="mistyped")
    assert master.finished_build("greeter", 2)["results"] != 0
    badge = re.compile(r'<a class="bb-badge-status results_(\w+)"')
    assert badge.findall(admin.get(""))[0] == "SUCCESS"
    page = admin.get("projects/greeter")
    assert badge.findall(page) == ["SUCCESS"]  # and no table of branches
    assert "mistyped" in page  # among the builds
    commit(repository)
    admin.send("projects/greeter/edit", base="1", steps=matrix)
    admin.send("projects/greeter/build", branch="trunk")
    master.finished_build("greeter", 4)
    assert badge.findall(admin.get(""))[0] == "FAILURE"
    page = admin.get("projects/greeter")
    assert badge.findall(page) == ["FAILURE"]
    assert page.count('<span class="lb-muted">X=1</span>') == 1
    assert page.count('<span class="lb-muted">X=2</span>') == 2  # also at the badge


def test_a_repository_that_can_not_be_read_is_said(master: Master, repository: Path) -> None:
    admin = admin_of(master)
    admin.add("greeter", repository)
    master.finished_build("greeter")
    assert "can't be read" not in admin.get("")
    repository.rename(repository.with_name("elsewhere"))
    admin.send("projects/greeter/look")
    wait_for(lambda: "can't be read" in admin.get(""), "the mark")
    page = admin.get("projects/greeter")
    assert re.search(r'role="alert">The repository can.t be read since [-0-9]+ [:0-9]+: \S', page)


def test_where_a_folder_decides_the_pages_offer_no_changes(
    master: Master, repository: Path
) -> None:
    folder = master.basedir / "defined"
    folder.mkdir()
    text = f"url = '{repository}'\nbranch = 'trunk'\nsteps = '{STEPS}'\n"
    (folder / "greeter.toml").write_text(text, encoding="utf-8")
    master.set("projects", "directory", "defined")
    master.start()
    visitor = master.login()
    pages = {
        path: visitor.request("GET", f"/litebot/{path}").body.decode()
        for path in ("", "projects/greeter", "projects/greeter/history")
    }
    for path in ("", "projects/greeter"):
        assert f"<code>{folder}</code> say" in pages[path]
    assert "projects/add" not in pages[""]
    page = pages["projects/greeter"]
    assert "by the folder" in page
    assert "Build now" in page
    for verb in ("edit", "disable", "remove"):
        assert f"projects/greeter/{verb}" not in page
    assert "the folder</td>" in pages["projects/greeter/history"]
    for path in ("projects/add", "projects/greeter/edit", "projects/greeter/remove"):
        refused = visitor.request("GET", f"/litebot/{path}")
        assert refused.status == 409
        assert b"<form" not in refused.body
    (folder / "greeter.toml").unlink()
    succeeded(litebot("reconfig", master.basedir))
    empty = visitor.request("GET", "/litebot/").body.decode()
    assert f"<code>{folder}</code> say" in empty
    assert "project add" not in empty


def test_an_address_of_a_form_alone_leads_to_the_page_of_its_project(
    master: Master, repository: Path
) -> None:
    admin = admin_of(master)
    admin.add("greeter", repository)
    for verb in ("undo", "build", "hook"):
        reply = admin.visitor.request("GET", f"/litebot/projects/greeter/{verb}")
        assert reply.status == 303
        assert reply.headers["Location"].endswith("/litebot/projects/greeter")
    reply = admin.send("projects/greeter/history")
    assert reply.status == 405
    assert b"may look" not in reply.body
    index = master.visitor().request("GET", "/").body
    assert re.search(rb'<noscript>[^<]*<a href="litebot/">', index)


def test_only_admins_see_the_hook_and_names_of_secrets(master: Master, repository: Path) -> None:
    admin = admin_of(master)
    (master.basedir / "secrets" / "greeters-token").write_text("so-secret-a-token", "utf-8")
    (master.basedir / "secrets" / "greeters-token").chmod(0o600)
    admin.add("greeter", repository)
    saved = admin.send("projects/greeter/edit", base="1", secrets="greeters-token")
    assert saved.status == 303
    hook = admin.send("projects/greeter/hook")
    assert b"/change_hook/project/greeter?secret=" in hook.body
    found = re.search(rb"<dt>Secret</dt><dd><code>([^<]+)</code>", hook.body)
    assert found is not None
    sent = master.visitor().request(
        "POST", f"/change_hook/project/greeter?secret={found[1].decode()}"
    )
    assert sent.status == 200
    assert send(master.visitor(), "/litebot/projects/greeter/hook").status == 403
    for path in ("projects/greeter", "projects/greeter/history"):
        assert "greeters-token" in admin.get(path)
        assert b"greeters-token" not in master.visitor().request("GET", f"/litebot/{path}").body


def hidden_in(page: bytes) -> dict[str, str]:
    """The hidden fields of the form on a page, but for its token."""
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.decode())
    return {name: value for name, value in found if name != "token"}


def test_an_ssh_address_is_added_with_a_key_of_its_own(master: Master, tmp_path: Path) -> None:
    bare = bare_repository(tmp_path / "tool.git", {".litebot.toml": STEPS})
    admin = admin_of(master)
    with ssh_server(tmp_path) as server:
        keys = admin.send("projects/add", url=server.url(bare), name="tool")
        assert keys.status == 200, keys.body
        assert b"SHA256:" in keys.body
        public = re.search(rb"<pre>(ssh-ed25519 [^<]+)</pre>", keys.body)
        assert public is not None
        found = hidden_in(keys.body)
        early = admin.send("projects/add", **found)
        assert early.status == 422
        assert public[1] in early.body  # the same key, to be pasted
        server.allow(public[1].decode())
        confirm = admin.send("projects/add", **found)
        assert confirm.status == 200, confirm.body
        assert b"which says how it is built" in confirm.body
        fields = {**hidden_in(confirm.body), "branch": "main"}
        assert fields["name"] == "tool"  # its key is for this name
        added = admin.send("projects/add", **fields)
        assert added.status == 303, added.body
        assert master.finished_build("tool")["results"] == 0
    assert public[1].decode() in admin.get("projects/tool")
    anonymous = master.visitor().request("GET", "/litebot/projects/tool").body
    assert b"ssh-ed25519" not in anonymous
    outside = admin.send("projects/add", url=found["url"], key="../users", host_key="x")
    assert outside.status == 422


def test_an_address_with_a_password_is_added(master: Master, tmp_path: Path) -> None:
    bare = bare_repository(tmp_path / "served" / "tool.git", {".litebot.toml": STEPS})
    admin = admin_of(master)
    with http_server(tmp_path / "served", "ada", "a-word-to-log-in") as server:
        refused = admin.send("projects/add", url=server.url(bare))
        assert refused.status == 422
        assert b'name="password"' in refused.body
        path = master.basedir / "secrets" / "tools-word"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text("a-word-to-log-in", encoding="utf-8")
        confirm = admin.send("projects/add", url=server.url(bare), password="tools-word")
        assert confirm.status == 200, confirm.body
        fields = {**hidden_in(confirm.body), "name": "tool", "branch": "main"}
        assert admin.send("projects/add", **fields).status == 303
        assert master.finished_build("tool")["results"] == 0
    assert b"a-word" not in confirm.body


def test_who_may_not_change_projects_sees_no_form(master: Master, repository: Path) -> None:
    admin = admin_of(master)
    admin.add("greeter", repository)
    visitor = master.visitor()
    for path in ("", "projects/add", "projects/greeter", "projects/greeter/edit"):
        reply = visitor.request("GET", f"/litebot/{path}")
        assert reply.status == 200
        assert b"<form" not in reply.body
        assert b"Log in" in reply.body
    for verb in ("add", "greeter/edit", "greeter/build", "greeter/remove", "greeter/undo"):
        assert send(visitor, f"/litebot/projects/{verb}", base="1", to="1").status == 403


def test_the_overview_is_read_as_fast_after_many_builds(master: Master) -> None:
    load_history(master.state_file)
    database = apsw.Connection(str(master.state_file), flags=apsw.SQLITE_OPEN_READONLY)
    sql = ApswSql(database, None)  # type: ignore[arg-type]
    names = [f"old{number}" for number in range(1, 21)]
    began_at = time.perf_counter()
    found = thd_activity(sql, names)
    own = thd_branches(sql, {activity.builderid: "main" for activity in found.values()})
    require_less(time.perf_counter() - began_at, 0.5, "to read 20 builds each of 20 builders")
    database.close()
    assert sorted(found) == sorted(names)
    assert len(own) == len(names)
    for activity in found.values():
        assert len(activity.builds) == 20
        numbers = [build.number for build in activity.builds]
        assert numbers == sorted(numbers)
        assert activity.last is not None
        assert activity.last.number == numbers[-1] > 99_000
        assert activity.origin.branch == "main"
        assert activity.origin.who == "somebody"
    plans = [row[3] for row in plan_of(master)]
    assert not [plan for plan in plans if plan.startswith("SCAN builds") and "litebot_" not in plan]


def plan_of(master: Master) -> list[tuple[int, int, int, str]]:
    """How SQLite runs the statement that would read most."""
    from litebot.master.projects.web.overview import RUNNING

    database = apsw.Connection(str(master.state_file), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(database.execute(f"EXPLAIN QUERY PLAN {RUNNING}"))
    finally:
        database.close()
