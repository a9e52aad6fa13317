"""Names from outside reach no command line as options, and run nothing, whichever way they come."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from buildbot.config.master import MasterConfig

from litebot.master.limits import words
from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import FAILURE
from support.master import SUCCESS
from support.master import Master
from support.ports import free_ports

# Git takes it for the program that it runs on the other side, which is here.
OPTION = "--upload-pack=touch {proof};git-upload-pack"


@pytest.fixture(scope="module")
def doors() -> dict[str, str]:
    names = ("changes", "try")
    return dict(zip(names, (f"127.0.0.1:{port}" for port in free_ports(2)), strict=True))


@pytest.fixture(scope="module")
def running(module_master: Master, doors: dict[str, str]) -> Iterator[Master]:
    """The sample, with every door open, and with builders that take names from properties."""
    ports = {name: f"tcp:{door[10:]}:interface=127.0.0.1" for name, door in doors.items()}
    module_master.configure(
        f"""
        c["www"] = {{"change_hook_dialects": {{"base": True, "github": {{"strict": False}}}}}}
        c["change_source"].append(
            changes.PBChangeSource(port={ports["changes"]!r}, user="hook", passwd="changepw")
        )
        c["schedulers"] += [
            schedulers.AnyBranchScheduler("all", builderNames=["hello"]),
            schedulers.Try_Userpass(
                "try", builderNames=["hello"], port={ports["try"]!r}, userpass=[("ada", "pw")]
            ),
            schedulers.Try_Jobdir("try-ssh", builderNames=["hello"], jobdir="jobdir"),
        ]
        c["schedulers"][-1].watcher.pollInterval = 0.2


        def by_property(name, *made):
            c["builders"].append(
                util.BuilderConfig(name, workernames=["local"], factory=util.BuildFactory(made))
            )
            c["schedulers"].append(
                schedulers.ForceScheduler(
                    "force-" + name,
                    builderNames=[name],
                    properties=[util.StringParameter("word", default="")],
                )
            )


        word = util.Property("word")
        by_property("branch", steps.Git(repository, branch=word, logEnviron=False))
        by_property("url", steps.Git(word, logEnviron=False))
        by_property("stamp", steps.Git(util.Interpolate("%(src::repository)s"), logEnviron=False))
        got = steps.Git(repository, branch=branch, logEnviron=False)
        by_property("tag", got, steps.GitTag(workdir="build", tagName=word, logEnviron=False))
        by_property(
            "push",
            got,
            steps.GitPush(workdir="build", repourl=repository, branch=word, logEnviron=False),
        )
        by_property(
            "gitlab",
            steps.SetProperty("target_branch", "main"),
            steps.SetProperty("target_git_ssh_url", "ssh://example.org/r"),
            steps.SetProperty("source_branch", word),
            steps.SetProperty("source_git_ssh_url", repository),
            steps.GitLab(repository, logEnviron=False),
        )
        by_property(
            "gerrit",
            steps.SetProperty("event.change.project", ""),
            steps.SetProperty("event.patchSet.ref", word),
            steps.Gerrit(repository, logEnviron=False),
        )
        by_property("hg", steps.Mercurial(word, logEnviron=False))
        by_property("svn", steps.SVN(word, logEnviron=False))
        by_property("patched", got)
        """
    )
    module_master.start()
    yield module_master
    module_master.stop()


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """The file that an attack would make."""
    return tmp_path / "proof"


def count(master: Master, table: str) -> int:
    return int(master.rows(f"SELECT count(*) FROM {table}")[0][0])


def git(folder: Path, *arguments: str | Path) -> str:
    return succeeded(run("git", "-C", folder, *arguments)).stdout.strip()


# the doors


def hostile(proof: Path) -> list[dict[str, str]]:
    option = OPTION.format(proof=proof)
    return [
        *({"branch": option}, {"branch": "a\nb"}, {"branch": "../x"}, {"branch": "x\x7f"}),
        *({"revision": option}, {"revision": "a\x01"}, {"project": "-p"}, {"codebase": "-c"}),
        *({"repository": "--config=x"}, {"repository": f"ext::sh -c 'touch {proof}' ://"}),
        *({"repository": "ssh://-oProxyCommand=x/y"}, {"repository": "ssh://%2DoProxy/y"}),
        *({"repository": "fd::17"}, {"repository": "git@-oProxyCommand=x:y"}),
        {"properties": json.dumps({"source_branch": option})},
        {"properties": json.dumps({"source_git_ssh_url": "ext::sh -c x ://"})},
    ]


def test_a_hook_refuses_it(running: Master, proof: Path) -> None:
    before = count(running, "changes"), count(running, "buildsets")
    refused = running.status()["refused"].get("dangerous names", 0)
    for fields in hostile(proof):
        form = {"author": "Eve", **fields}
        assert running.change(**form) == 400, fields
    assert (count(running, "changes"), count(running, "buildsets")) == before
    assert running.status()["refused"]["dangerous names"] == refused + len(hostile(proof))
    assert not proof.exists()


def test_a_hook_names_the_value_and_the_remedy(running: Master) -> None:
    form = "author=Eve&branch=--force"
    kind = "application/x-www-form-urlencoded"
    reply = running.visitor().request("POST", "/change_hook/base", form, Content_Type=kind)
    assert reply.status == 400
    assert "the branch is '--force'; it must not begin with '-'" in reply.body.decode()
    assert "rename the branch" in reply.body.decode()


def test_a_hook_of_a_host_refuses_it(running: Master) -> None:
    commit = {
        "id": "c0ffee",
        "message": "m",
        "timestamp": "2026-01-02T03:04:05Z",
        "url": "https://r/c0ffee",
        "author": {"name": "Ada", "email": "ada@example.org"},
        "committer": {"name": "Ada", "email": "ada@example.org"},
    }
    push = {
        "ref": "refs/heads/--upload-pack=x",
        "repository": {"name": "r", "html_url": "https://r", "full_name": "o/r"},
        "head_commit": commit,
        "commits": [commit],
    }
    before = count(running, "changes")
    reply = running.visitor().request(
        *("POST", "/change_hook/github", json.dumps(push)),
        Content_Type="application/json",
        X_GitHub_Event="push",
    )
    assert reply.status == 400
    assert "--upload-pack=x" in reply.body.decode()
    assert count(running, "changes") == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("branch", OPTION),
        ("branch", " -x"),
        ("branch", "a..b/../c"),
        ("revision", "--output=x"),
        ("repository", "ext::sh -c 'touch {proof}' ://"),
        ("repository", "file:///etc"),
        ("repository", "/srv/secret.git"),
    ],
)
def test_a_forced_build_refuses_it(running: Master, proof: Path, field: str, value: str) -> None:
    before = count(running, "buildsets")
    admin, value = running.login(), value.format(proof=proof)
    scheduler = "force-stamp"
    reply = admin.control(f"forceschedulers/{scheduler}", "force", **{field: value})
    assert reply.status == 400
    assert field in reply.json["error"]["message"]
    assert value in reply.json["error"]["message"][field]
    assert count(running, "buildsets") == before
    assert not proof.exists()


def test_the_command_line_refuses_it(running: Master, proof: Path) -> None:
    before = count(running, "buildsets")
    done = running.force("hello", f"--branch={OPTION.format(proof=proof)}")
    assert done.returncode == 1
    assert "it must not begin with '-'" in done.stderr
    assert count(running, "buildsets") == before
    assert not proof.exists()


def test_sendchange_is_told(running: Master, doors: dict[str, str], proof: Path) -> None:
    before, at = count(running, "changes"), len(running.log)
    login = ("--master", doors["changes"], "--auth", "hook:changepw", "--who", "Eve")
    done = litebot("sendchange", *login, f"--branch={OPTION.format(proof=proof)}", "README.md")
    assert done.returncode == 1
    assert "it must not begin with '-'" in done.stdout
    assert count(running, "changes") == before
    assert "Traceback" not in running.log[at:]


@pytest.fixture
def clone(running: Master, tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    succeeded(run("git", "clone", "--quiet", running.basedir / "project", folder))
    readme = folder / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8") + "more\n", encoding="utf-8")
    return folder


def test_try_is_told(running: Master, doors: dict[str, str], clone: Path, proof: Path) -> None:
    before, at = count(running, "buildsets"), len(running.log)
    (clone / "a.patch").write_text(git(clone, "diff") + "\n", encoding="utf-8")
    # Buildbot's client says what is wrong, and does not end then.
    with pytest.raises(subprocess.TimeoutExpired) as waiting:
        litebot(
            *("try", "--connect=pb", f"--master={doors['try']}", "--username=ada", "--passwd=pw"),
            *("--vc=git", "--builder=hello", f"--diff={clone / 'a.patch'}", "--patchlevel=1"),
            *(f"--branch={OPTION.format(proof=proof)}", "--baserev=HEAD", "--repository=x"),
            cwd=clone,
            timeout_s=10,
        )
    assert b"it must not begin with '-'" in (waiting.value.stderr or b"")
    assert count(running, "buildsets") == before
    assert "Traceback" not in running.log[at:]


def netstring(text: str) -> str:
    return f"{len(text)}:{text},"


@pytest.mark.parametrize("fault", ["branch", "level"])
def test_a_job_by_ssh_is_refused_in_the_log(running: Master, proof: Path, fault: str) -> None:
    before = count(running, "buildsets")
    job: dict[str, Any] = {
        "jobid": "1",
        "branch": OPTION.format(proof=proof) if fault == "branch" else "main",
        "baserev": "",
        "patch_level": 1 if fault == "branch" else -1,
        "patch_body": "x",
        "repository": "",
        "project": "",
        "who": "Eve",
        "comment": "",
        "builderNames": ["hello"],
        "properties": {},
    }
    refused = running.status()["refused"].get("dangerous names", 0)
    new = running.basedir / "jobdir" / "new"
    (new / f"job-{fault}").write_text(netstring("5") + netstring(json.dumps(job)), "utf-8")
    wait_for(lambda: running.status()["refused"].get("dangerous names", 0) > refused, "the refusal")
    assert count(running, "buildsets") == before
    assert not list(new.iterdir())


def test_a_poller_goes_on_after_a_branch_that_is_an_option(master: Master, proof: Path) -> None:
    """Whoever may push could name a branch so; git has no objection to it in a ref."""
    master.configure(
        """
        c["change_source"] = [changes.GitPoller(repository, branches=True, pollInterval=1)]
        c["schedulers"][0] = schedulers.AnyBranchScheduler("all", builderNames=["hello"])
        """
    )
    master.start()
    wait_for(lambda: "gitpoller: processing changes" in master.log, "the poller's first look")
    project = master.basedir / "project"
    head = git(project, "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "hostile")
    git(project, "update-ref", f"refs/heads/--upload-pack=touch${{IFS}}{proof}", head)
    refused = "dangerous names"
    wait_for(lambda: refused in master.status()["refused"], "the refusal")
    master.commit("README.md", "more")
    build = master.finished_build("hello")
    assert build["results"] == SUCCESS
    (change,) = master.rest("changes")["changes"]
    assert change["branch"] == "main"
    assert not proof.exists()


# the command


def forced(master: Master, builder: str, *options: str) -> tuple[int, str]:
    """Force a build; return its result and the log of its last step."""
    number = len(master.builds(builder)) + 1
    master.force(builder, *options)
    build = master.finished_build(builder, number)
    steps = master.rest(f"builds/{build['buildid']}/steps")["steps"]
    step = max((s for s in steps if s["complete"]), key=lambda s: s["number"])
    return build["results"], master.log_text(build["buildid"], step["name"])


@pytest.mark.parametrize(
    ("builder", "word"),
    [
        ("branch", OPTION),
        ("branch", "+refs/heads/main:refs/heads/other"),
        ("url", "ext::sh -c 'touch {proof}' ://"),
        ("url", "ssh://-oProxyCommand=touch${{IFS}}{proof}/x"),
        ("url", "--upload-pack=touch {proof}"),
        ("tag", "--delete"),
        ("tag", "a b"),
        ("push", "--receive-pack=touch {proof}"),
        ("push", "main:--x"),
        ("gitlab", OPTION),
        ("gerrit", OPTION),
        ("hg", "--config=alias.clone=!touch {proof}"),
        ("svn", "--config-option=x"),
        ("svn", "svn+ssh://-oProxyCommand=x/y"),
    ],
)
def test_a_step_refuses_what_a_property_brings(
    running: Master, proof: Path, builder: str, word: str
) -> None:
    word = word.format(proof=proof)
    results, log = forced(running, builder, f"--property=word={word}")
    assert results == FAILURE
    assert f"'{word[:40]}" in log
    assert "refused: " in log
    assert not proof.exists()


def test_a_step_says_in_its_summary_what_it_refuses(running: Master) -> None:
    forced(running, "branch", "--property=word=--x")
    build = running.builds("branch")[-1]
    (step,) = [
        s
        for s in running.rest(f"builds/{build['buildid']}/steps")["steps"]
        if s["results"] == FAILURE
    ]
    assert "refused: the branch is '--x'" in step["state_string"]


def test_a_step_refuses_what_an_older_database_has(master: Master, proof: Path) -> None:
    """A rebuild takes the sourcestamp that is stored."""
    master.start()
    assert master.force("hello").returncode == 0
    master.stop()
    master.execute(f"UPDATE sourcestamps SET branch = '{OPTION.format(proof=proof)}'")
    master.start()
    assert master.login().control("builds/1", "rebuild").status == 200
    rebuilt = master.finished_build("hello", 2)
    assert rebuilt["results"] == FAILURE
    assert "it must not begin with '-'" in master.log_text(rebuilt["buildid"], "git")
    assert not proof.exists()


# what is legal


NAMES = [
    "feature/ü",
    "dependabot/npm_and_yarn/x-1.2.3",
    "release-1.0",
    "a'b\"c",
    "x;$y",
    "@x",
    "#7",
]


@pytest.fixture(scope="module")
def branches(running: Master) -> list[str]:
    """Branches, pull requests and tags with unusual and legal names, in the sample project."""
    project = running.basedir / "project"
    for name in NAMES:
        git(project, "branch", name)
    git(project, "update-ref", "refs/pull/1/merge", "HEAD")
    git(project, "update-ref", "refs/changes/34/1234/5", "HEAD")
    git(project, "tag", "v1.0")
    return [
        *NAMES,
        "refs/pull/1/merge",
        "refs/changes/34/1234/5",
        "refs/heads/main",
        "v1.0",
        "HEAD",
    ]


def test_unusual_names_are_built(running: Master, branches: list[str]) -> None:
    for branch in branches:
        done = running.force("hello", f"--branch={branch}")
        assert done.returncode == 0, branch + done.stdout


@pytest.mark.parametrize("revision", ["HEAD", "HEAD~0", "v1.0^{}", "main"])
def test_unusual_revisions_are_built(running: Master, branches: list[str], revision: str) -> None:
    assert running.force("hello", f"--revision={revision}").returncode == 0


def test_a_pull_request_by_a_hook_is_built(running: Master, branches: list[str]) -> None:
    number = len(running.builds("hello")) + 1
    assert running.change(branch="refs/pull/1/merge", repository="https://example.org/r") == 200
    assert running.finished_build("hello", number)["results"] == SUCCESS


def test_what_the_configuration_says_is_trusted(running: Master) -> None:
    """The sample's own repository is a local one, which a visitor could not name."""
    local = str(running.basedir / "project")
    assert forced(running, "url", f"--property=word={local}")[0] == SUCCESS
    reply = running.login().control("forceschedulers/force-stamp", "force", repository=local)
    assert reply.status == 200
    assert running.finished_build("stamp", len(running.builds("stamp")) or 1)["results"] == SUCCESS


# the rules


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        *(("branch", each) for each in ("branches/1.x", "trunk", "feature x", "a:b", "", None)),
        *(
            ("revision", each)
            for each in ("1234", 1234, "r12", "{2026-01-01}", "a b", None, ":/x y")
        ),
        *(("revision", each) for each in ("2026-11-30 08:00:00 +0000", "tip", "max(all())")),
        *(("repository", each) for each in ("git@github.com:o/r.git", "lp:x", "C:\\r", "\\\\h\\r")),
        *(("repository", each) for each in ("ssh://git@[::1]:22/r", ":pserver:a@h:/cvs", "/srv/r")),
        *(
            ("repository", each)
            for each in ("https://x/?a=-b", "svn+ssh://h/r", "//depot/x", "a b")
        ),
        *(("project", each) for each in ("My project - 2", "o/r", "ü")),
        *(("codebase", each) for each in ("https://x/r", "/srv/r", "lib")),
    ],
)
def test_other_systems_have_other_names(kind: str, word: Any) -> None:
    assert words.fault(kind, word, ("svn", "mercurial", "")) is None


@pytest.mark.parametrize(
    "branch",
    [
        *("a..b", "a b", "x.lock", "a.lock/b", "/a", "a/", "a//b", "a~1", "a^", "a:b", "a?", "a*"),
        *("a[", "a\\b", "a@{b", "a.", ".a", "a/.b"),
    ],
)
def test_git_takes_no_such_branch(branch: str) -> None:
    done = subprocess.run(["git", "check-ref-format", f"refs/heads/{branch}"], check=False)
    assert done.returncode == 1
    assert words.fault("branch", branch, ("git",)) is not None


@pytest.mark.parametrize("branch", [*NAMES, "refs/pull/1/merge", "a{b}", "a=b,c", "1.x", "-a"[1:]])
def test_git_takes_such_a_branch(branch: str) -> None:
    succeeded(run("git", "check-ref-format", f"refs/heads/{branch}"))
    assert words.fault("branch", branch, ("git",)) is None


def test_darcs_has_revisions_of_many_lines() -> None:
    context = "Context:\n\n[a patch\nAda**20260101]\n"
    assert words.fault("revision", context, ("darcs",)) is None
    assert words.fault("revision", context, ("git",)) is not None
    assert words.fault("revision", "-" + context, ("darcs",)) is not None


@pytest.mark.parametrize(
    ("level", "subdir"), [(-1, ""), (1, "../x"), (1, "/x"), ("x", ""), (1, "-x")]
)
def test_a_patch_stays_in_the_sources(level: Any, subdir: str) -> None:
    stamp = {"patch_body": b"x", "patch_level": level, "patch_subdir": subdir}
    with pytest.raises(words.RefusedWord):
        words.check_stamp(stamp, MasterConfig())
    good = {"patch_body": b"x", "patch_level": 1, "patch_subdir": "."}
    words.check_stamp(good, MasterConfig())
