"""Copying a database."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.master.copy import copy
from litebot.master.create import make_state_file
from litebot.master.database import create_file
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
