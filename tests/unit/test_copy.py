"""Copying a database."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.master.admin.copy import copy
from litebot.master.db.sqlite.state_file import create_file
from litebot.master.db.sqlite.state_file import make_state_file
from litebot.store.dialect import engine_for


def test_what_is_written_meanwhile_is_not_in_the_copy(tmp_path: Path) -> None:
    make_state_file(tmp_path / "state.sqlite")
    create_file(tmp_path / "copy.sqlite")
    source, target = (engine_for(tmp_path / name) for name in ("state.sqlite", "copy.sqlite"))
    masters, workers = Model.masters, Model.workers

    def add(name: str, table: sa.Table) -> None:
        row = {"name": name, "name_hash": name, "active": 0, "last_active": 0, "info": {}}
        known = {key: value for key, value in row.items() if key in table.c}
        with source.begin() as conn:
            conn.execute(table.insert().values(known))

    add("before", masters)
    told: list[tuple[str, int]] = []

    def progress(table: str, rows: int) -> None:
        if not told:
            add("meanwhile", masters)
            add("meanwhile", workers)
        told.append((table, rows))

    with source.connect() as reading, target.connect() as writing:
        copy(reading, writing, progress)
    assert told
    with target.connect() as conn:
        assert conn.execute(sa.select(masters.c.name)).scalars().all() == ["before"]
        assert conn.execute(sa.select(workers.c.name)).scalars().all() == []


def test_rows_without_what_they_refer_to_can_be_left_out(tmp_path: Path) -> None:
    """SQLite does not look at references; a database that does would refuse such rows."""
    make_state_file(tmp_path / "state.sqlite")
    source = engine_for(tmp_path / "state.sqlite")
    with source.begin() as conn:
        for statement in ORPHANS.split(";\n"):
            conn.exec_driver_sql(statement)
    for skip_orphans, left in ((False, [1, 2, 3]), (True, [1])):
        path = tmp_path / f"copy{skip_orphans}.sqlite"
        create_file(path)
        target = engine_for(path)
        with source.connect() as reading, target.connect() as writing:
            copy(reading, writing, lambda _table, _rows: None, skip_orphans=skip_orphans)
        with target.connect() as conn:
            for table in (Model.builds, Model.steps):
                found = conn.execute(sa.select(table.c.id).order_by(table.c.id)).scalars().all()
                assert found == left, table.name
            parents = conn.execute(sa.select(Model.buildsets.c.parent_buildid)).scalars().all()
            assert parents == ([3] if not skip_orphans else [None])


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
