"""Copying a database."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.basedir import Basedir
from litebot.errors import ConfigError
from litebot.errors import StoreError
from litebot.master.admin.copy import copy
from litebot.master.admin.move import unfinished
from litebot.master.admin.plan.copy import plan
from litebot.master.db.sqlite.state_file import make_state_file
from litebot.store.dialect import engine_for


@pytest.fixture
def files(tmp_path: Path) -> Basedir:
    """A basedir whose master has never been started."""
    (tmp_path / "buildbot.tac").touch()
    make_state_file(tmp_path / "state.sqlite")
    return Basedir(tmp_path)


def ignore(_what: str, _done: int, _total: int) -> None:
    """A progress that nobody looks at."""


def tables(path: Path) -> list[str]:
    with engine_for(path).connect() as conn:
        return sa.inspect(conn).get_table_names()


def test_what_is_written_meanwhile_is_not_in_the_copy(files: Basedir, tmp_path: Path) -> None:
    source = engine_for(tmp_path / "state.sqlite")
    masters, workers = Model.masters, Model.workers

    def add(name: str, table: sa.Table) -> None:
        row = {"name": name, "name_hash": name, "active": 0, "last_active": 0, "info": {}}
        known = {key: value for key, value in row.items() if key in table.c}
        with source.begin() as conn:
            conn.execute(table.insert().values(known))

    add("before", masters)
    told: list[tuple[str, int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        if not told:
            add("meanwhile", masters)
            add("meanwhile", workers)
        told.append((what, done, total))

    rows, name = copy(files, "sqlite:///copy.sqlite", progress, skip_orphans=False)
    assert name == str(tmp_path / "copy.sqlite")
    assert told[-1] == ("comparing rows", rows, rows)
    with engine_for(tmp_path / "copy.sqlite").connect() as conn:
        assert conn.execute(sa.select(masters.c.name)).scalars().all() == ["before"]
        assert conn.execute(sa.select(workers.c.name)).scalars().all() == []
    assert sorted(tables(tmp_path / "copy.sqlite")) == sorted(tables(tmp_path / "state.sqlite"))


def test_rows_without_what_they_refer_to_can_be_left_out(files: Basedir, tmp_path: Path) -> None:
    """SQLite does not look at references; a database that does would refuse such rows."""
    with engine_for(tmp_path / "state.sqlite").begin() as conn:
        for statement in ORPHANS.split(";\n"):
            conn.exec_driver_sql(statement)
    for skip_orphans, left in ((False, [1, 2, 3]), (True, [1])):
        name = f"copy{skip_orphans}.sqlite"
        planned = plan(files, f"sqlite:///{name}", skip_orphans=skip_orphans)
        assert planned.left_out == ({"builds": 2, "steps": 2} if skip_orphans else {})
        assert planned.references == ({"buildsets.parent_buildid": 1} if skip_orphans else {})
        assert (planned.made, planned.wiped) == (True, False)
        rows, target = copy(files, f"sqlite:///{name}", ignore, skip_orphans=skip_orphans)
        assert (planned.rows, planned.target) == (rows, target)
        with engine_for(tmp_path / name).connect() as conn:
            for table in (Model.builds, Model.steps):
                found = conn.execute(sa.select(table.c.id).order_by(table.c.id)).scalars().all()
                assert found == left, table.name
            parents = conn.execute(sa.select(Model.buildsets.c.parent_buildid)).scalars().all()
            assert parents == ([3] if not skip_orphans else [None])


def test_one_that_breaks_off_leaves_nothing(files: Basedir, tmp_path: Path) -> None:
    def interrupt(what: str, _done: int, _total: int) -> None:
        if what == "comparing rows":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(files, "sqlite:///copy.sqlite", interrupt, skip_orphans=False)
    assert tables(tmp_path / "copy.sqlite") == []
    copy(files, "sqlite:///copy.sqlite", ignore, skip_orphans=False)


def test_one_that_was_killed_begins_anew(
    files: Basedir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(unfinished, "forget", lambda _target: None)
        copy(files, "sqlite:///copy.sqlite", ignore, skip_orphans=False)
    assert "litebot_move" in tables(tmp_path / "copy.sqlite")
    planned = plan(files, "sqlite:///copy.sqlite", skip_orphans=False)
    assert (planned.made, planned.wiped) == (False, True)
    assert "litebot_move" in tables(tmp_path / "copy.sqlite")
    copy(files, "sqlite:///copy.sqlite", ignore, skip_orphans=False)
    assert "litebot_move" not in tables(tmp_path / "copy.sqlite")
    with pytest.raises(StoreError, match=r"copy.sqlite holds tables \(alembic_version, ...\)"):
        copy(files, "sqlite:///copy.sqlite", ignore, skip_orphans=False)


def test_whoever_wants_an_unfinished_one_is_told_so(
    files: Basedir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "forget", lambda _target: None)
    copy(files, "sqlite:///copy.sqlite", ignore, skip_orphans=False)
    (tmp_path / "state.sqlite").rename(tmp_path / "other.sqlite")
    (tmp_path / "litebot.toml").write_text('[database]\nurl = "sqlite:///other.sqlite"\n')
    with pytest.raises(StoreError, match=f"unfinished copy of {tmp_path}/state.sqlite") as refused:
        copy(files, "sqlite:///copy.sqlite", ignore, skip_orphans=False)
    with pytest.raises(StoreError, match=f"unfinished copy of {tmp_path}/state.sqlite"):
        plan(files, "sqlite:///copy.sqlite", skip_orphans=False)
    assert refused.value.hint is not None
    assert f"litebot copy-db sqlite:///copy.sqlite {tmp_path}   (begins anew)" in refused.value.hint


@pytest.mark.parametrize(
    ("destination", "said"),
    [
        ("state.sqlite", "'state.sqlite' is not the url of a database"),
        ("sqlite://", "a database in memory holds nothing after a stop"),
        ("mysql://ci@host/ci", "litebot keeps its state in SQLite or Postgres, not in mysql"),
        ("sqlite:///%(basedir)s/state.sqlite", "is the database of .* itself"),
    ],
)
def test_what_it_can_not_copy_to(files: Basedir, destination: str, said: str) -> None:
    with pytest.raises((ConfigError, StoreError), match=said):
        copy(files, destination, ignore, skip_orphans=False)
    with pytest.raises((ConfigError, StoreError), match=said):
        plan(files, destination, skip_orphans=False)


# Build 2 is of a builder that is gone, and build 3 of a master; each has a step.
ORPHANS = """
INSERT INTO builders (id, name, name_hash) VALUES (1, 'b', 'b');
INSERT INTO masters (id, name, name_hash, active, last_active) VALUES (1, 'm', 'm', 0, 0);
INSERT INTO buildsets (id, submitted_at, complete, parent_buildid) VALUES (1, 0, 1, 3);
INSERT INTO buildrequests (id, buildsetid, builderid, complete, submitted_at)
    VALUES (1, 1, 1, 1, 0);
INSERT INTO builds (id, number, builderid, buildrequestid, masterid, started_at, state_string,
    locks_duration_s)
    VALUES (1, 1, 1, 1, 1, 0, '', 0), (2, 1, 9, 1, 1, 0, '', 0), (3, 2, 1, 1, 9, 0, '', 0);
INSERT INTO steps (id, number, name, buildid, state_string, urls_json, hidden)
    VALUES (1, 1, 's', 1, '', '[]', 0), (2, 1, 's', 2, '', '[]', 0), (3, 1, 's', 3, '', '[]', 0)
"""
