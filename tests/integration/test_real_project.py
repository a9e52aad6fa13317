"""A project that others wrote: its published source, its own tests, a red and a green build."""

from __future__ import annotations

import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import require
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import FAILURE
from support.master import SUCCESS
from support.master import Master
from support.master import on_both

pytestmark = on_both

PROJECT, VERSION, TESTS = "pyflakes", "3.4.0", 750


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the source archive of the project from the package index."""
    folder = tmp_path_factory.mktemp("real")
    done = run(
        *(sys.executable, "-m", "pip", "download", "--no-binary", PROJECT, "--no-deps"),
        *("--dest", folder, f"{PROJECT}=={VERSION}"),
        timeout_s=110,
    )
    reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it says nothing"
    require(done.returncode == 0, f"pip can't download {PROJECT} {VERSION}: {reason}")
    with tarfile.open(folder / f"{PROJECT}-{VERSION}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    source = folder / f"{PROJECT}-{VERSION}"
    git(source, "init", "--quiet", "--initial-branch=main")
    git(source, "config", "user.name", "Ada")
    git(source, "config", "user.email", "ada@example.org")
    git(source, "add", ".")
    git(source, "commit", "--quiet", "--message", f"{PROJECT} {VERSION}")
    return source


def git(folder: Path, *arguments: str) -> str:
    return succeeded(run("git", "-C", folder, *arguments)).stdout.strip()


@pytest.fixture(scope="module")
def building(module_master: Master, repository: Path) -> Iterator[Master]:
    """A master that builds the project when something is committed, or by force."""
    module_master.configure(
        f"""
        repository = {str(repository)!r}
        c["change_source"] = [
            changes.GitPoller(repository, branches=["main"], pollInterval=1, pollAtLaunch=True)
        ]
        factory = util.BuildFactory([
            steps.Git(repourl=repository, branch="main", mode="full", method="clobber"),
            steps.ShellCommand(
                name="compile", command=[sys.executable, "-m", "compileall", "-q", "pyflakes"]
            ),
            steps.ShellCommand(
                name="tests",
                command=[sys.executable, "-m", "unittest", "discover", "-v", "pyflakes"],
                env={{"PYTHONDONTWRITEBYTECODE": "1"}},
            ),
        ])
        c["builders"] = [
            util.BuilderConfig(name="pyflakes", workernames=["local"], factory=factory)
        ]
        c["schedulers"] = [
            schedulers.SingleBranchScheduler(
                name="commits",
                change_filter=util.ChangeFilter(branch="main"),
                treeStableTimer=None,
                builderNames=["pyflakes"],
            ),
            schedulers.ForceScheduler(name="force", builderNames=["pyflakes"]),
        ]
        """
    )
    module_master.start()
    done = module_master.force("pyflakes", timeout_s=110)
    assert done.returncode == 0, done.stdout
    assert f"Ran {TESTS} tests" in done.stdout
    yield module_master
    module_master.stop()


def test_the_project_builds(building: Master) -> None:
    build = building.finished_build("pyflakes", 1)
    assert (build["results"], build["state_string"]) == (SUCCESS, "build successful")
    steps = building.rest("builds/1/steps")["steps"]
    assert [step["name"] for step in steps] == ["worker_preparation", "git", "compile", "tests"]
    assert all(step["results"] == SUCCESS and step["complete"] for step in steps)
    properties = building.rest("builds/1/properties")["properties"][0]
    assert re.fullmatch(r"[0-9a-f]{40}", properties["got_revision"][0])


def test_the_whole_log_is_there(building: Master) -> None:
    text = building.log_text(1, "tests")
    lines = [line[1:] for line in text.splitlines() if line[0] in "oe"]
    assert len([line for line in lines if re.search(r" \.\.\. (ok|skipped)", line)]) >= TESTS
    assert any(re.fullmatch(rf"Ran {TESTS} tests in [\d.]+s", line) for line in lines)
    assert any(line.startswith("OK (skipped=") for line in lines)

    (log,) = building.rest("builds/1/steps/tests/logs")["logs"]
    assert (log["name"], log["complete"]) == ("stdio", True)
    assert log["num_lines"] == len(text.splitlines())
    middle = building.rest(f"logs/{log['logid']}/contents", offset=500, limit=10)["logchunks"][0]
    assert middle["content"].splitlines() == text.splitlines()[500:510]
    raw = building.visitor().request("GET", f"/api/v2/logs/{log['logid']}/raw").body.decode()
    assert raw.endswith("".join(line[1:] for line in text.splitlines(keepends=True)))


@pytest.fixture
def uncommitted(repository: Path) -> Iterator[None]:
    """What a test commits is undone: the next master builds from there."""
    before = git(repository, "rev-parse", "HEAD")
    yield
    git(repository, "reset", "--quiet", "--hard", before)


@pytest.mark.usefixtures("uncommitted")
def test_a_commit_that_breaks_it_is_found(building: Master, repository: Path) -> None:
    messages = repository / "pyflakes" / "messages.py"
    text = messages.read_text(encoding="utf-8")
    messages.write_text(text.replace("imported but unused", "imported in vain"), encoding="utf-8")
    wait_for(lambda: "gitpoller: processing changes" in building.log, "the poller's first look")
    git(repository, "commit", "--quiet", "--all", "--message", "Say it with more feeling")

    build = building.finished_build("pyflakes", 2)
    assert build["results"] == FAILURE
    steps = building.rest(f"builds/{build['buildid']}/steps")["steps"]
    results = {step["name"]: step["results"] for step in steps}
    assert results == {
        "worker_preparation": SUCCESS,
        "git": SUCCESS,
        "compile": SUCCESS,
        "tests": FAILURE,
    }
    text = building.log_text(build["buildid"], "tests")
    failed = re.findall(r"^eFAIL: test_\w+", text, re.MULTILINE)
    assert failed
    assert f"eFAILED (failures={len(failed)}" in text
    (change,) = building.rest(f"builds/{build['buildid']}/changes")["changes"]
    assert change["author"] == "Ada <ada@example.org>"
    assert change["comments"] == "Say it with more feeling"
    assert change["files"] == ["pyflakes/messages.py"]
