"""Kills after a project was saved, and while one is: it is whole or not there."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from litebot.projects.definition import from_toml
from support.commands import LITEBOT
from support.commands import begin
from support.commands import litebot
from support.commands import succeeded
from support.commands import wait_for
from support.master import SUCCESS
from support.master import Master
from support.master import on_both
from support.repositories import Repository

CONFIG = """
from buildbot.plugins import worker

c = BuildmasterConfig = {"workers": [worker.LocalWorker("local")]}
"""
ROUNDS = 6


@pytest.fixture
def hello(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "hello")


def await_success(master: Master, builder: str) -> None:
    """Wait for a good build; a kill may have cut off one before it."""
    wait_for(
        lambda: any(build["results"] == SUCCESS for build in master.builds(builder)),
        f"a good build of {builder}",
    )


@on_both
def test_what_was_said_to_be_saved_is_there(master: Master, hello: Repository) -> None:
    (master.basedir / "master.cfg").write_text(CONFIG)
    master.start()
    succeeded(litebot("project", "add", hello.url, master.basedir))
    master.kill()
    master.start()
    await_success(master, "hello")
    succeeded(litebot("project", "edit", "--timeout", "2h", "hello", master.basedir))
    master.kill()
    shown = json.loads(
        succeeded(litebot("project", "show", "--json", "hello", master.basedir)).stdout
    )
    assert (shown["version"], shown["definition"]["timeout"]) == (2, "2h")
    master.start()
    time.sleep(1)
    assert len(master.builds("hello")) <= 2  # the kill may have cut off the first one


def test_kills_at_any_moment_of_a_save(master: Master, hello: Repository, tmp_path: Path) -> None:
    """One project is added and one is changed at the same time, while the master is killed."""
    (master.basedir / "master.cfg").write_text(CONFIG)
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    master.start()
    succeeded(litebot("project", "add", hello.url, master.basedir))
    said = 1
    for number in range(ROUNDS):
        other = Repository(tmp_path / f"other-{number}")
        saves = [
            begin(
                LITEBOT, "project", "edit", "--timeout", f"{number + 2}h", "hello", master.basedir
            ),
            begin(LITEBOT, "project", "add", other.url, master.basedir),
        ]
        time.sleep(chance.uniform(0.1, 1.2))
        master.kill()
        edited, added = (save.wait() == 0 for save in saves)
        said = said + 1 if edited else said
        master.start()
        rows = master.rows("SELECT name, version, definition FROM litebot_projects ORDER BY id")
        versions = [version for name, version, _ in rows if name == "hello"]
        assert versions == list(range(1, len(versions) + 1))
        assert len(versions) >= said
        said = len(versions)
        projects = {name: from_toml(name, text) for name, _, text in rows}
        assert other.folder.name in projects or not added
        builders = {each["name"] for each in master.rest("builders")["builders"]}
        assert set(projects) <= builders
    built = [name for name, *_ in rows if name != "hello"]
    for name in built:
        await_success(master, name)
    wait_for(lambda: not master.status()["running_builds"], "the builds to end")
    firsts = "SELECT count(*) FROM buildsets WHERE reason LIKE '%first build%'"
    assert master.rows(firsts) == [(len(set(built)) + 1,)]
