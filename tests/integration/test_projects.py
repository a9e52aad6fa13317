"""Projects of the page and the command line: repositories that are built without any Python."""

from __future__ import annotations

import hmac
import json
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.commands import Done
from support.commands import litebot
from support.commands import succeeded
from support.commands import wait_for
from support.master import FAILURE
from support.master import SUCCESS
from support.master import Master
from support.master import on_both
from support.repositories import Repository
from support.timing import require_less

# Workers alone: what is built is said by projects.
CONFIG = """
from buildbot.plugins import util, worker

c = BuildmasterConfig = {}
c["workers"] = [worker.LocalWorker("local"), worker.LocalWorker("other")]
"""


@pytest.fixture
def empty(master: Master) -> Master:
    """A master that runs and builds nothing."""
    (master.basedir / "master.cfg").write_text(CONFIG)
    master.start()
    return master


@pytest.fixture
def hello(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "hello")


def project(master: Master, verb: str, *arguments: str | Path) -> Done:
    return litebot("project", verb, *arguments, master.basedir)


def add(master: Master, repository: Repository, *options: str) -> dict[str, Any]:
    done = succeeded(project(master, "add", "--yes", "--json", *options, repository.url))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(done: Done) -> str:
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


def steps_of(master: Master, build: dict[str, Any]) -> list[tuple[str, int]]:
    found = master.rest(f"builds/{build['buildid']}/steps")["steps"]
    return [(step["name"], step["results"]) for step in found][2:]


@on_both
def test_an_address_is_enough(empty: Master, hello: Repository) -> None:
    pid = empty.pid
    saved = add(empty, hello)
    assert (saved["name"], saved["version"], saved["saved_on"]) == ("hello", 1, "command")
    build = empty.finished_build("hello")
    assert build["results"] == SUCCESS
    assert steps_of(empty, build) == [("checkout", 0), ("steps", 0), ("echo built", 0)]
    assert "built" in empty.log_text(build["buildid"], "4")

    revision = hello.commit('steps = [{ name = "anew", run = "echo $LITEBOT_REVISION" }]')
    succeeded(project(empty, "edit", "--poll", "10s", "hello"))
    build = empty.finished_build("hello", 2)
    assert steps_of(empty, build)[2:] == [("anew", 0)]
    assert revision in empty.log_text(build["buildid"], "4")
    assert empty.status()["pid"] == pid


def test_a_stopped_master_builds_it_when_it_starts(master: Master, hello: Repository) -> None:
    (master.basedir / "master.cfg").write_text(CONFIG)
    add(master, hello)
    assert "hello" in succeeded(project(master, "list")).stdout
    assert "no such worker" in refused(project(master, "edit", "--workers", "none", "hello"))
    master.start()
    assert master.finished_build("hello")["results"] == SUCCESS
    master.stop()
    master.start()
    assert len(master.builds("hello")) == 1


def test_a_change_is_a_version_and_undo_one_more(empty: Master, hello: Repository) -> None:
    add(empty, hello)
    succeeded(project(empty, "edit", "--timeout", "2h", "--comment", "slow tests", "hello"))
    assert "hello is disabled;" in succeeded(project(empty, "disable", "hello")).stdout
    assert "hello is disabled already" in succeeded(project(empty, "disable", "hello")).stdout
    said = succeeded(project(empty, "undo", "hello")).stdout
    assert "    enabled = false -> true\n" in said
    assert f"litebot project undo --to 3 hello {empty.basedir}" in said
    succeeded(project(empty, "undo", "--to", "1", "hello"))
    succeeded(project(empty, "remove", "hello"))
    assert succeeded(project(empty, "list", "--json")).stdout.strip() == "[]"
    said = refused(project(empty, "show", "hello"))
    assert re.search("there is no project hello any more: .* removed it at 20", said)
    assert f"Try: litebot project undo hello {empty.basedir}" in said
    listed = succeeded(project(empty, "list", "--all")).stdout
    assert re.search(r"^hello +\(removed 20.* by .*\)$", listed, re.MULTILINE)
    succeeded(project(empty, "undo", "hello"))

    history = json.loads(succeeded(project(empty, "history", "--json", "hello")).stdout)
    shown = [
        (v["version"], v["definition"] and (v["definition"]["timeout"], v["definition"]["enabled"]))
        for v in history
    ]
    assert shown == [
        (7, ("1h", True)),
        (6, None),
        (5, ("1h", True)),
        (4, ("2h", True)),
        (3, ("2h", False)),
        (2, ("2h", True)),
        (1, ("1h", True)),
    ]
    assert history[5]["comment"] == "slow tests"
    shown_lines = succeeded(project(empty, "history", "hello")).stdout
    assert '      timeout = "1h" -> "2h"\n' in shown_lines
    assert "has no version 9" in refused(project(empty, "undo", "--to", "9", "hello"))
    assert len(empty.builds("hello")) == 1  # it was built before: it is not built again


def test_undo_goes_one_further_back_each_time(empty: Master, hello: Repository) -> None:
    add(empty, hello)
    for hours in ("2h", "3h", "4h"):
        succeeded(project(empty, "edit", "--timeout", hours, "hello"))

    def undone() -> str:
        done = succeeded(project(empty, "undo", "--json", "hello"))
        return str(json.loads(done.stdout)["definition"]["timeout"])

    assert (undone(), undone()) == ("3h", "2h")
    succeeded(project(empty, "edit", "--timeout", "5h", "hello"))
    assert (undone(), undone()) == ("2h", "1h")
    assert "there is no older version" in refused(project(empty, "undo", "hello"))


def test_a_name_that_is_taken(empty: Master, hello: Repository) -> None:
    add(empty, hello)
    said = refused(project(empty, "add", "--yes", hello.url))
    assert f"there is a project hello already, of {hello.url}" in said
    assert f"Try: litebot project edit hello {empty.basedir}\n" in said
    assert "--name OTHER" in said
    succeeded(project(empty, "remove", "hello"))
    assert add(empty, hello)["version"] == 3


def test_a_repository_is_looked_at_when_its_address_or_branch_changes(
    empty: Master, hello: Repository
) -> None:
    hello.git("branch", "release")
    away = f"{hello.folder}-away"
    said = refused(project(empty, "add", "--yes", away))
    assert f"there is no git repository at {away}\n" in said
    said = refused(project(empty, "add", "--yes", "--branch", "relase", hello.url))
    assert f"{hello.url} has no branch relase; it has release, main" in said
    done = succeeded(project(empty, "add", "--yes", "--secrets", "NONE", hello.url))
    assert f"note: there is no {empty.basedir}/secrets/NONE yet" in done.stderr
    assert re.search(r"page  http://.*/litebot/projects/hello\n\nNext: litebot build", done.stdout)
    for options in (("--branch", "mian"), ("--url", f"{hello.url}-away")):
        refused(project(empty, "edit", *options, "hello"))
        done = succeeded(project(empty, "edit", "--force", *options, "hello"))
        assert "NONE" not in done.stderr
        succeeded(project(empty, "undo", "hello"))


def test_steps_may_be_emptied_where_the_repository_has_its_own(
    empty: Master, tmp_path: Path
) -> None:
    (tmp_path / "steps").write_text('steps = ["true"]')
    (tmp_path / "none").write_text("")
    tool = Repository(tmp_path / "tool", steps=None)
    said = refused(project(empty, "add", "--steps", tmp_path / "none", tool.url))
    assert f"{tool.url} has no .litebot.toml, and --steps gives no steps" in said
    saved = add(empty, tool, "--steps", str(tmp_path / "steps"), "--no-pull-requests")
    assert saved["definition"]["steps"] == 'steps = ["true"]\n'
    done = succeeded(project(empty, "edit", "--json", "--steps", "", "tool"))
    assert json.loads(done.stdout)["definition"]["steps"] == ""


def test_what_cannot_be_applied_changes_nothing(empty: Master, hello: Repository) -> None:
    add(empty, hello)
    before = empty.rows("SELECT count(*) FROM litebot_projects")
    assert "no such worker" in refused(project(empty, "edit", "--workers", "none", "hello"))
    assert "'3x' is not a length of time" in refused(
        project(empty, "edit", "--timeout", "3x", "hello")
    )
    empty.configure(
        "c['builders'] = [util.BuilderConfig('b', workernames=['none'],"
        " factory=util.BuildFactory())]"
    )
    said = refused(project(empty, "edit", "--timeout", "2h", "hello"))
    assert "master.cfg" in said
    assert "unknown workers 'none'" in said
    (empty.basedir / "master.cfg").write_text(CONFIG)
    taken = Repository(hello.folder.parent / "taken")
    empty.configure(
        "c['builders'] = [util.BuilderConfig('taken', workernames=['local'],"
        " factory=util.BuildFactory())]\n"
        "from buildbot.plugins import schedulers\n"
        "c['schedulers'] = [schedulers.ForceScheduler('f', ['taken'])]"
    )
    said = refused(project(empty, "add", "--yes", taken.url))
    assert "taken is a project and also a builder of " in said
    assert str(empty.basedir / "master.cfg") in said
    assert "capital letters" in refused(
        project(empty, "add", "--yes", "--name", "Hello", hello.url)
    )
    assert empty.rows("SELECT count(*) FROM litebot_projects") == before
    assert [each["name"] for each in empty.rest("builders")["builders"]] == ["hello"]


UNAPPLIABLE = """
from buildbot.util import service

class Refusing(service.BuildbotService):
    def checkConfig(self, number):
        pass

    def reconfigService(self, number):
        if number > 1:
            raise RuntimeError("there is no second")

import itertools, pathlib
count = pathlib.Path(basedir, "count")
count.write_text(count.read_text() + "x" if count.exists() else "x")
"""


def test_one_that_fails_to_be_applied_is_taken_back(empty: Master, hello: Repository) -> None:
    config = (empty.basedir / "master.cfg").read_text()
    empty.configure(UNAPPLIABLE + "c['services'] = [Refusing(name='r', number=1)]")
    empty.reconfig()
    # The number is another one for as long as there is a project.
    (empty.basedir / "master.cfg").write_text(
        config
        + UNAPPLIABLE
        + "c['services'] = [Refusing(name='r', number=2 if len(count.read_text()) == 2 else 1)]"
    )
    said = refused(project(empty, "add", "--yes", hello.url))
    assert "can't be applied: there is no second" in said
    assert empty.rows("SELECT * FROM litebot_projects") == []
    assert succeeded(project(empty, "list", "--json")).stdout.strip() == "[]"
    add(empty, hello)
    assert empty.finished_build("hello")["results"] == SUCCESS


def test_a_branch_that_is_not_there_is_said(empty: Master, hello: Repository) -> None:
    add(empty, hello)
    empty.finished_build("hello")
    hello.git("branch", "--move", "main", "trunk")
    succeeded(project(empty, "edit", "--poll", "10s", "hello"))
    said = wait_for(lambda: empty.status()["sources"], "the poller to notice it")
    assert said[0]["what"] == "find branch main"
    assert said[0]["error"] == "there is no such branch; there are: trunk"
    succeeded(project(empty, "edit", "--branch", "trunk", "hello"))
    wait_for(lambda: empty.status()["sources"] == [], "the poller to find it")


def test_builds_that_run_go_on(empty: Master, hello: Repository, tmp_path: Path) -> None:
    go = tmp_path / "go"
    hello.commit(f'steps = ["while ! test -e {go}; do sleep 0.1; done"]')
    add(empty, hello)
    wait_for(lambda: empty.builds("hello"), "the build")
    add(empty, Repository(tmp_path / "another"))
    succeeded(project(empty, "edit", "--timeout", "3h", "hello"))
    assert empty.finished_build("another")["results"] == SUCCESS
    assert not empty.builds("hello")[0]["complete"]
    go.touch()
    assert empty.finished_build("hello")["results"] == SUCCESS


def test_schedulers_of_master_cfg_get_none_of_its_changes(master: Master, tmp_path: Path) -> None:
    """The sample's scheduler builds each change of a branch main."""
    tool = Repository(tmp_path / "tool")
    master.start()
    add(master, tool, "--poll", "10s")
    master.finished_build("tool")
    revision = tool.commit()
    master.finished_build("tool", 2)
    said = succeeded(master.run("why", revision)).stdout
    assert re.search("^[2-9] others  ignored: it is of project tool$", said, re.MULTILINE)
    assert re.search("^push-tool +built in buildset", said, re.MULTILINE)
    assert master.builds("hello") == []


def test_export_and_import_are_all_or_nothing(
    empty: Master, hello: Repository, tmp_path: Path
) -> None:
    add(empty, hello, "--secrets", "TOKEN", "--branches", "release/*")
    add(empty, Repository(tmp_path / "other", steps=None, Makefile="test:\n\techo tested\n"))
    folder = tmp_path / "exported"
    succeeded(project(empty, "export", "-o", folder))
    assert sorted(file.name for file in folder.iterdir()) == ["hello.toml", "other.toml"]
    assert "like that already" in succeeded(project(empty, "import", "--dry-run", folder)).stdout

    text = (folder / "hello.toml").read_text()
    (folder / "hello.toml").write_text(text + 'timeout = "2h"\n')
    shutil.copy(folder / "other.toml", folder / "third.toml")
    (folder / "third.toml").write_text((folder / "third.toml").read_text() + "at_once = 0\n")
    said = refused(project(empty, "import", folder))
    assert "project third: at_once is 0: it must be from 1 to 100" in said
    (folder / "third.toml").write_text((folder / "other.toml").read_text())
    planned = succeeded(project(empty, "import", "--dry-run", folder)).stdout
    assert 'would change hello\n    timeout = "1h" -> "2h"\nwould add third, of /' in planned
    versions = "SELECT name, version FROM litebot_projects ORDER BY id"
    assert empty.rows(versions) == [("hello", 1), ("other", 1)]
    succeeded(project(empty, "import", folder))
    assert empty.rows(versions)[2:] == [("hello", 2), ("third", 1)]
    assert empty.finished_build("third")["results"] == SUCCESS


def test_a_new_master_of_an_export_has_the_same_projects(
    empty: Master, created: Master, watch: Callable[[Master], Master], tmp_path: Path
) -> None:
    for name in ("a", "b.js", "3"):
        add(empty, Repository(tmp_path / name), "--at-once", "2", "--tags", "v*")
    succeeded(project(empty, "export", "-o", tmp_path / "out"))
    other = watch(created.copy(tmp_path / "other-master"))
    (other.basedir / "master.cfg").write_text(CONFIG)
    succeeded(project(other, "import", tmp_path / "out"))
    other.start()

    def seen(master: Master) -> Any:
        force = master.rest("forceschedulers")["forceschedulers"]
        return (
            sorted(each["name"] for each in master.rest("builders")["builders"]),
            sorted(each["name"] for each in master.rest("schedulers")["schedulers"]),
            sorted((each["name"], json.dumps(each["all_fields"])) for each in force),
            sorted(each["name"] for each in master.rest("projects")["projects"]),
        )

    assert seen(other) == seen(empty)
    assert seen(other)[0] == ["3", "a", "b.js"]


# what a repository's file says


def test_each_cell_of_a_matrix_is_a_build(empty: Master, hello: Repository) -> None:
    hello.commit(
        """
        steps = ["echo $PY on $OS, $CI"]
        matrix.PY = ["3.12", "3.13"]
        matrix.OS = ["a", "b"]
        """
    )
    add(empty, hello, "--at-once", "2")
    said = set()
    for number in range(1, 5):
        build = empty.finished_build("hello", number)
        assert build["results"] == SUCCESS
        said |= set(re.findall("^o(.*)", empty.log_text(build["buildid"], "4"), re.MULTILINE))
    assert said == {f"{py} on {name}, true" for py in ("3.12", "3.13") for name in ("a", "b")}
    assert len(empty.builds("hello")) == 4


def test_a_build_is_followed_in_all_cells(empty: Master, hello: Repository) -> None:
    hello.commit('steps = ["test $X != 2"]\nmatrix.X = ["1", "2", "3"]\n')
    add(empty, hello)
    empty.finished_build("hello", 3)
    done = empty.force("hello")
    assert done.returncode == 1
    assert "=== build 3 of the 3 of its matrix" in done.stderr
    assert done.stderr.count("SUCCESS: build successful") == 2
    assert done.stderr.count("FAILURE: ") >= 1


def test_its_file_chooses_among_the_workers(empty: Master, hello: Repository) -> None:
    hello.commit('steps = ["true"]\nworker = ["oth*"]\n')
    add(empty, hello)
    wait_for(lambda: [b for b in empty.builds("hello") if b["results"] == 0], "a good build")
    (good,) = (b for b in empty.builds("hello") if b["results"] == 0)
    names = {w["workerid"]: w["name"] for w in empty.rest("workers")["workers"]}
    assert names[good["workerid"]] == "other"
    hello.commit('steps = ["true"]\nworker = ["nobody"]\n')
    assert empty.force("hello").returncode == 1
    last = empty.builds("hello")[-1]
    found = str(empty.rest(f"builds/{last['buildid']}/steps"))
    assert "none of the workers of hello is one of nobody" in found


def test_secrets_only_where_they_are_granted(empty: Master, hello: Repository) -> None:
    secrets = empty.basedir / "secrets"
    for name in ("GRANTED", "OTHER"):
        (secrets / name).write_text(f"value-of-{name}\n")
        (secrets / name).chmod(0o600)
    empty.reconfig()
    hello.commit('steps = ["echo it is $GRANTED, $OTHER. | tee seen"]\nsecrets = ["GRANTED"]\n')
    add(empty, hello, "--secrets", "GRANTED")
    build = empty.finished_build("hello")
    assert build["results"] == SUCCESS
    assert "it is <GRANTED>, ." in empty.log_text(build["buildid"], "4")

    hello.commit('steps = ["echo $OTHER"]\nsecrets = ["OTHER"]\n')
    assert empty.force("hello").returncode == 1
    build = empty.finished_build("hello", 2)
    text = empty.log_text(build["buildid"], "3", "problem")
    assert "asks for the secret 'OTHER', which project hello does not have" in text
    assert [name for name, _ in steps_of(empty, build)] == ["checkout", "steps"]
    stored = "\n".join(path.read_bytes().decode("latin-1") for path in stored_files(empty))
    assert "value-of-" not in stored
    assert "value-of-" not in empty.log


def stored_files(master: Master) -> list[Path]:
    return [p for p in master.basedir.iterdir() if p.is_file() and p.name.startswith("state")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = 3\n", "3:"),
        (None, "there is no .litebot.toml in this revision"),
        (f"# {'x' * 70_000}\nsteps = ['true']\n", "has more than 65536 bytes"),
        ('steps = ["true"]\nmaster = "rm -rf"\n', ".litebot.toml:2: "),
        ("steps = [", ".litebot.toml:1: "),
    ],
)
def test_a_file_that_says_nothing_usable(
    empty: Master, hello: Repository, text: str | None, said: str
) -> None:
    add(empty, hello)
    empty.finished_build("hello")
    if text is None:
        (hello.folder / ".litebot.toml").unlink()
    hello.commit(text)
    assert empty.force("hello").returncode == 1
    build = empty.finished_build("hello", 2)
    assert build["results"] == FAILURE
    assert steps_of(empty, build)[1:] == [("steps", FAILURE)]
    shown = empty.log_text(build["buildid"], "3", "problem")
    assert said in shown or ("steps" in shown and said == "3:")
    assert "Try: " in shown


def test_a_link_in_the_place_of_the_file_leads_nowhere(empty: Master, hello: Repository) -> None:
    (hello.folder / ".litebot.toml").unlink()
    (hello.folder / ".litebot.toml").symlink_to(empty.basedir / "users")
    hello.commit()
    succeeded(project(empty, "add", "--steps", "/dev/null", hello.url))
    build = empty.finished_build("hello")
    shown = empty.log_text(build["buildid"], "3", "problem")
    assert "admin" not in shown


def test_a_build_that_takes_too_long_is_stopped(empty: Master, hello: Repository) -> None:
    hello.commit('steps = [{ name = "a", run = "sleep 60", timeout = "1s" }]')
    add(empty, hello, "--timeout", "2s")
    assert empty.finished_build("hello")["results"] == FAILURE
    hello.commit('steps = ["true", "sleep 60"]')
    assert empty.force("hello").returncode == 1


def test_what_it_says_not_to_build_is_not_built(empty: Master, hello: Repository) -> None:
    hello.commit('steps = ["false"]\nwhen.branch = ["release"]\n')
    add(empty, hello, "--poll", "10s")
    build = empty.finished_build("hello")
    assert [name for name, _ in steps_of(empty, build)] == ["checkout", "steps"]
    hello.commit(message="No need [skip ci]")
    revision = hello.commit(message="One more")
    empty.finished_build("hello", 2)
    assert revision in str(empty.rest("changes"))
    assert len(empty.builds("hello")) == 2


def test_it_is_built_at_night(empty: Master, hello: Repository) -> None:
    soon = time.localtime(time.time() + 75)  # a full minute, after the first build
    hello.commit(f'steps = ["true"]\nnightly = "{soon.tm_hour:02}:{soon.tm_min:02}"\n')
    add(empty, hello, "--poll", "10s")
    empty.finished_build("hello")
    built = wait_for(lambda: len(empty.builds("hello")) == 2, "the nightly build", 120)
    assert built
    assert time.localtime().tm_min == soon.tm_min
    (reason,) = empty.rows("SELECT reason FROM buildsets ORDER BY id DESC LIMIT 1")
    assert reason == ("nightly",)
    kept = "SELECT value_json FROM object_state WHERE name = 'nightly'"
    assert empty.rows(kept) == [(f'"{soon.tm_hour:02}:{soon.tm_min:02}"',)]
    hello.commit('steps = ["true"]\n')
    empty.finished_build("hello", 3)
    assert empty.rows(kept) == [('""',)]


def test_pull_requests_are_built_without_secrets_and_those_of_forks_on_demand(
    empty: Master, hello: Repository, tmp_path: Path
) -> None:
    secret = empty.basedir / "secrets" / "TOKEN"
    secret.write_text("of-great-value\n")
    secret.chmod(0o600)
    hello.commit('steps = ["echo token $TOKEN."]\nsecrets = ["TOKEN"]\n')
    hello.git("update-ref", "refs/pull/1/head", hello.head)  # merged long ago
    add(empty, hello, "--poll", "10s", "--secrets", "TOKEN", "--pull-requests")
    empty.finished_build("hello")
    look = "gitpoller: processing changes"
    wait_for(lambda: look in empty.log, "the poller's first look")

    # One from a branch of the repository, and one from a fork.
    hello.git("checkout", "--quiet", "-b", "feature")
    mine = hello.commit(message="Mine")
    hello.git("update-ref", "refs/pull/2/head", mine)
    hello.git("checkout", "--quiet", "main")
    fork = tmp_path / "fork"
    hello.git("clone", "--quiet", hello.url, str(fork))
    theirs = Repository.at(fork).commit("steps = ['echo from a fork, $TOKEN.']\n")
    hello.git("fetch", "--quiet", str(fork), "main:refs/pull/3/head")

    build = empty.finished_build("hello", 2)
    assert "token ." in empty.log_text(build["buildid"], "4")
    waiting = wait_for(
        lambda: json.loads(succeeded(project(empty, "pulls", "--json", "hello")).stdout),
        "the pull request of the fork",
    )
    assert waiting == [{"ref": "refs/pull/3/head", "revision": theirs}]
    time.sleep(1)
    assert len(empty.builds("hello")) == 2
    said = refused(project(empty, "pulls", "--build", "refs/heads/feature", "hello"))
    assert "refs/heads/feature is no pull request" in said
    assert "build request" in succeeded(project(empty, "pulls", "--build", "3", "hello")).stdout
    build = empty.finished_build("hello", 3)
    assert "from a fork, ." in empty.log_text(build["buildid"], "4")
    assert json.loads(succeeded(project(empty, "pulls", "--json", "hello")).stdout) == []
    assert succeeded(project(empty, "pulls", "hello")).stderr == "none wait\n"
    succeeded(project(empty, "edit", "--no-pull-requests", "hello"))
    assert "not built: litebot project edit" in succeeded(project(empty, "pulls", "hello")).stderr


# hooks


def test_a_push_is_seen_at_once_by_its_hook(empty: Master, hello: Repository) -> None:
    add(empty, hello, "--poll", "1d")
    empty.finished_build("hello")
    hook = json.loads(succeeded(project(empty, "hook", "--json", "hello")).stdout)
    assert f":{empty.ports[0]}/change_hook/project/hello" in hook["address"]
    path, body = "/change_hook/project/hello", '{"not": "believed"}'
    signed = hmac.new(hook["secret"].encode(), body.encode(), "sha256").hexdigest()
    right: list[tuple[str, dict[str, str]]] = [
        (f"{path}?secret={hook['secret']}", {}),
        (path, {"X_Hub_Signature_256": f"sha256={signed}", "X_Hub_Signature": "sha1=old"}),
        (path, {"X_Hub_Signature": f"sha256={signed}"}),
        (path, {"X_Gitea_Signature": signed}),
        (path, {"X_Gitlab_Token": hook["secret"]}),
    ]
    for number, (address, headers) in enumerate(right, 2):
        hello.commit()
        assert empty.visitor().request("POST", address, body, **headers).status == 200
        assert empty.finished_build("hello", number)["results"] == SUCCESS

    wrong: list[tuple[str, dict[str, str]]] = [
        (path, {}),
        (f"{path}?secret=guessed", {}),
        (f"{path}?secret={hook['secret']}", {"X_Hub_Signature_256": f"sha256={'0' * 64}"}),
        (f"{path}?secret={hook['secret']}", {"X_Gitlab_Token": "guessed"}),
        (path, {"X_Gitea_Signature": signed[:-1]}),
        (path, {"X_Gitlab_Token": ""}),
        ("/change_hook/project/other?secret=", {}),
        ("/change_hook/project/", {}),
    ]
    for address, headers in wrong:
        assert empty.visitor().request("POST", address, body, **headers).status == 403
    assert hook["secret"] not in empty.log + (empty.basedir / "http.log").read_text()
    assert empty.visitor().request("GET", path).status == 405


def test_a_save_leaves_the_polls_of_others_alone(
    empty: Master, hello: Repository, tmp_path: Path
) -> None:
    add(empty, hello, "--poll", "1d")
    empty.finished_build("hello")
    other = Repository(tmp_path / "other")
    add(empty, other, "--poll", "10s")
    empty.finished_build("other")
    configured = "using workdir '{}/repositories/{}'"
    for hours in (2, 3, 4):
        succeeded(project(empty, "edit", "--timeout", f"{hours}h", "hello"))
    place = empty.basedir
    assert empty.log.count(configured.format(place, "other")) == 1
    assert empty.log.count(configured.format(place, "hello")) == 1
    succeeded(project(empty, "edit", "--poll", "12h", "hello"))
    assert empty.log.count(configured.format(place, "hello")) == 2
    other.commit()
    assert empty.finished_build("other", 2)["results"] == SUCCESS


# what goes wrong at the other side


def test_all_that_are_imported_get_a_first_build(empty: Master, tmp_path: Path) -> None:
    folder = tmp_path / "projects"
    folder.mkdir()
    names = [f"p{number}" for number in range(12)]
    for name in names:
        Repository(tmp_path / name)
        (folder / f"{name}.toml").write_text(f'url = "{tmp_path / name}"\n')
    succeeded(project(empty, "import", folder))
    for name in names:
        assert empty.finished_build(name)["results"] == SUCCESS


def test_a_server_that_does_not_answer_holds_up_nothing(empty: Master, hello: Repository) -> None:
    add(empty, hello)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"git://127.0.0.1:{silent.getsockname()[1]}/x"
        succeeded(project(empty, "edit", "--force", "--url", address, "hello"))
        silent.settimeout(30)
        connection, _ = silent.accept()  # the poll
        with connection:
            begun = time.monotonic()
            succeeded(project(empty, "edit", "--poll", "10m", "hello"))
            succeeded(project(empty, "edit", "--url", hello.url, "hello"))
            empty.reconfig()
            require_less(time.monotonic() - begun, 20, "three reconfigs")


def test_refs_that_a_new_setting_admits_begin_where_they_are(
    empty: Master, hello: Repository
) -> None:
    hello.git("checkout", "--quiet", "-b", "old")
    hello.commit()
    for number in range(3):
        hello.commit()
        hello.git("tag", f"v{number}")
    hello.git("checkout", "--quiet", "main")
    add(empty, hello, "--poll", "10s")
    empty.finished_build("hello")
    succeeded(project(empty, "edit", "--tags", "v*", "--branches", "old", "hello"))
    time.sleep(12)
    assert len(empty.builds("hello")) == 1
    hello.git("checkout", "--quiet", "old")
    hello.commit()
    hello.git("tag", "v9")
    assert empty.finished_build("hello", 2)["results"] == SUCCESS


def test_a_build_that_no_worker_may_do_now_keeps_none_waiting(
    empty: Master, hello: Repository
) -> None:
    empty.configure('c["workers"].append(worker.Worker("away", "password"))')
    empty.reconfig()
    hello.commit('steps = ["true"]\nworker = ["away"]\n')
    add(empty, hello, "--poll", "10s", "--no-replace")
    wait_for(lambda: empty.builds("hello"), "the build to be passed on")
    hello.commit('steps = ["true"]\n')
    wait_for(lambda: [b for b in empty.builds("hello") if b["results"] == SUCCESS], "the next one")


def test_what_a_pull_request_leaves_no_other_build_sees(empty: Master, hello: Repository) -> None:
    hello.commit('steps = ["echo from main"]')
    add(empty, hello, "--poll", "10s", "--pull-requests")
    empty.finished_build("hello")
    hello.git("checkout", "--quiet", "-b", "feature")
    hook = "printf '#!/bin/sh\\necho poisoned >&2\\n' >.git/hooks/post-checkout"
    hello.commit(f'steps = ["{hook}; chmod +x .git/hooks/post-checkout"]'.replace("\\n", "\\\\n"))
    hello.git("update-ref", "refs/pull/1/head", hello.head)
    build = empty.finished_build("hello", 2)
    assert build["results"] == SUCCESS
    hello.git("checkout", "--quiet", "main")
    hello.commit()
    build = empty.finished_build("hello", 3)
    assert "from main" in empty.log_text(build["buildid"], "4")
    assert "poisoned" not in empty.log_text(build["buildid"], "2")
