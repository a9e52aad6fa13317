"""Masters and databases to be moved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.master import SUCCESS
from support.master import Master
from support.moving import CONFIGURATION
from support.postgres import Postgres


@pytest.fixture(scope="module")
def origin(module_master: Master) -> Master:
    """A stopped master that has built what a master can build, with a history of every kind."""
    master = module_master
    master.define_builder("child", "echo child")
    master.configure(CONFIGURATION)
    master.start()
    assert master.force("hello").returncode == 0
    assert master.force("parent").returncode == 0
    child = master.finished_build("child")
    again = master.login().control(f"builds/{child['buildid']}", "rebuild")
    assert again.status == 200
    assert master.finished_build("child", 2)["results"] == SUCCESS
    master.stop()
    return master


@pytest.fixture
def stopped(origin: Master, tmp_path: Path, watch: Callable[[Master], Master]) -> Master:
    """A copy of it."""
    master = watch(Master(tmp_path / "ci", origin.password))
    shutil.copytree(origin.basedir, master.basedir)
    master.use_free_ports()
    return master


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The name of an empty database."""
    return postgres.new_database()


@pytest.fixture
def unmoved(created: Master, tmp_path: Path) -> Master:
    """A new master's basedir; a refusal must leave it as it is."""
    basedir = tmp_path / "ci"
    shutil.copytree(created.basedir, basedir)
    return Master(basedir)
