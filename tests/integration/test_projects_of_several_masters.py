"""Projects of several masters on one Postgres: saved on one, they are those of all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from support.commands import litebot
from support.commands import succeeded
from support.commands import wait_for
from support.master import SUCCESS
from support.master import Master
from support.postgres import Postgres
from support.repositories import Repository
from support.several import JUDGES_SOON
from support.several import Site
from support.several import errors

POLLERS = (
    "SELECT s.name, m.masterid FROM changesources s"
    " JOIN changesource_masters m ON m.changesourceid = s.id"
)


def has_builders(master: Master, names: list[str]) -> bool:
    return bool(master.status()["builders"] == names)


def test_each_project_is_polled_by_one_master(
    postgres: Postgres, watch: Callable[[Master], Master], tmp_path: Path
) -> None:
    site = Site(postgres, tmp_path, watch, JUDGES_SOON)
    one, two = site.started("one", "two")
    repositories = [Repository(tmp_path / name) for name in ("a", "b", "c", "d")]
    for master, repository in zip((one, two, one, two), repositories, strict=True):
        succeeded(
            litebot("project", "add", "--poll", "10s", "--yes", repository.url, master.basedir)
        )
    for master in (one, two):
        shows = partial(has_builders, master, ["a", "b", "c", "d"])
        wait_for(shows, "all projects on each master")
    for repository in repositories:
        assert one.finished_build(repository.folder.name)["results"] == SUCCESS
    wait_for(lambda: len(site.rows(POLLERS)) == len(repositories), "a master for each poller")

    # One that edits what another has just edited sees it.
    succeeded(litebot("project", "edit", "--timeout", "2h", "a", one.basedir))
    shown = 'timeout = "1h" -> "2h"'
    assert shown in succeeded(litebot("project", "history", "a", two.basedir)).stdout
    succeeded(litebot("project", "edit", "--poll", "11s", "a", two.basedir))
    rows = site.rows("SELECT version, saved_by FROM litebot_projects WHERE name = 'a'")
    assert [version for version, _ in rows] == [1, 2, 3]

    for repository in repositories:
        repository.commit()
    one.kill()
    for repository in repositories:
        assert two.finished_build(repository.folder.name, 2)["results"] == SUCCESS
    site.await_quiet()
    for repository in repositories:
        assert len(two.builds(repository.folder.name)) == 2
    assert errors(two) == []
