"""A master on Postgres: what it does there, and what becomes of it where the server goes away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SUCCESS
from conftest import Master
from conftest import succeeded
from postgres import Postgres


@pytest.fixture
def master(postgres: Postgres, watch: Callable[[Master], Master], tmp_path: Path) -> Master:
    """A new master on a database of its own, with its schema, not started yet."""
    master = watch(Master(tmp_path / "ci"))
    master.create("--db", postgres.url(postgres.new_database()))
    succeeded(master.run("upgrade-master"))
    return master


def test_builds(master: Master) -> None:
    master.define_builder("b", "echo one", "seq 1000")
    master.start()
    succeeded(master.force("b"))
    build = master.finished_build("b")
    assert build["results"] == SUCCESS
    lines = "".join(f"o{n}\n" for n in range(1, 1001))
    assert lines in master.log_text(build["buildid"], "shell_1")
    assert succeeded(master.run("check")).stdout == "nothing is wrong\n"
    master.stop()
    assert "Traceback" not in master.log
