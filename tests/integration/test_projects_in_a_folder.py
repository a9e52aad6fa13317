"""Where projects are kept: in the table, or in a folder that decides; read by one interface."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.errors import ProjectError
from litebot.master.projects.kept.store import ProjectStore
from litebot.master.projects.kept.store import projects_in
from litebot.master.projects.kept.store import store_for
from litebot.projects.definition import Project
from litebot.projects.definition import to_toml
from litebot.settings import load
from support.commands import litebot
from support.commands import succeeded
from support.master import SUCCESS
from support.master import Master
from support.repositories import Repository

CONFIG = """
from buildbot.plugins import worker

c = BuildmasterConfig = {"workers": [worker.LocalWorker("local")]}
"""


def project(master: Master, verb: str, *arguments: str | Path) -> str:
    return succeeded(litebot("project", verb, *arguments, master.basedir)).stdout


@pytest.fixture(params=["table", "folder"])
def filled(request: pytest.FixtureRequest, master: Master) -> Callable[..., ProjectStore]:
    """Call it with projects for the store of a master that has them."""
    (master.basedir / "master.cfg").write_text(CONFIG)

    def fill(*projects: Project) -> ProjectStore:
        folder = master.basedir / "projects"
        folder.mkdir()
        for each in projects:
            (folder / f"{each.name}.toml").write_text(to_toml(each))
        if request.param == "table":
            project(master, "import", folder)
        else:
            master.set("projects", "directory", "projects")
        files = Basedir(master.basedir)
        return store_for(files, load(files.settings_file), lambda: None)

    return fill


def test_each_store_has_what_was_put_into_it(
    filled: Callable[..., ProjectStore], master: Master
) -> None:
    steps = '# Two.\nsteps = ["make", "make \\"test\\""]\n'
    a = Project("a", "https://example.org/a.git", branches=("release/*",), at_once=3)
    b = Project("b.js", "/srv/b", "trunk", steps=steps, poll="1h", enabled=False)
    store = filled(a, b)
    found = store.load()
    assert {v.name: v.project for v in found} == {"a": a, "b.js": b}
    assert {v.number for v in found} == {1}
    assert all(v.saved_at > 1_600_000_000 for v in found)
    files = Basedir(master.basedir)
    assert projects_in(files, load(files.settings_file)) == [a, b]
    assert "a " in project(master, "list")
    assert "branches: " not in project(master, "show", "a")
    assert 'branches = ["release/*"]' in project(master, "show", "a")
    assert "added" in project(master, "history", "a")
    assert succeeded(master.run("check-config")).stdout.strip().endswith("is good")


def test_a_folder_decides(master: Master, tmp_path: Path) -> None:
    (master.basedir / "master.cfg").write_text(CONFIG)
    repository = Repository(tmp_path / "hello")
    folder = master.basedir / "projects"
    folder.mkdir()
    (folder / "hello.toml").write_text(f'url = "{repository.url}"\nbranch = "main"\n')
    master.set("projects", "directory", "projects")
    master.start()
    assert master.finished_build("hello")["results"] == SUCCESS
    for verb, *words in (("edit", "--timeout", "2h"), ("remove",), ("disable",), ("undo",)):
        done = litebot("project", verb, *words, "hello", master.basedir)
        assert done.returncode == 1
        assert f"the projects are what the files in {folder} say" in done.stderr
        assert "litebot reconfig" in done.stderr

    (folder / "other.toml").write_text(f'url = "{repository.url}"\nat_once = 0\n')
    done = master.run("reconfig")
    assert done.returncode == 1
    assert f"{folder}/other.toml: project other: at_once is 0: it must be from 1" in done.stderr
    assert "other.toml" in master.run("check-config").stderr
    (folder / "other.toml").write_text(f'url = "{repository.url}"\n')
    master.reconfig()
    assert master.finished_build("other")["results"] == SUCCESS
    (folder / "hello.toml").unlink()
    master.reconfig()
    assert [each["name"] for each in master.rest("builders")["builders"] if each["masterids"]] == [
        "other"
    ]


def test_a_folder_that_is_not_there_is_an_error(master: Master) -> None:
    files = Basedir(master.basedir)
    master.set("projects", "directory", "nowhere")
    store = store_for(files, load(files.settings_file), lambda: None)
    with pytest.raises(ProjectError, match="which is no folder"):
        store.load()
    with pytest.raises(LitebotError, match="the projects are what the files in"):
        asyncio.run(store.add([]))
    done = master.run("start")
    assert done.returncode == 1
    assert "which is no folder" in done.stderr
