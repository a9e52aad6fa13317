"""litebot's own tables: made all or nothing, numbered, and beside Buildbot's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.errors import StoreError
from litebot.master.db import schema
from litebot.master.db import tables as ours
from litebot.master.db.sqlite.state_file import create_file
from litebot.master.db.sqlite.state_file import make_state_file
from litebot.store.connection import connect
from litebot.store.dialect import engine_for
from litebot.store.dialect import engine_on

OURS = {
    "litebot_schema",
    "litebot_starts",
    "litebot_repairs",
    "litebot_handovers",
    "litebot_subscriptions",
    "litebot_built",
    "litebot_outbox",
    "litebot_deletions",
    "litebot_deliveries",
    "litebot_commits",
    "litebot_told",
    "litebot_events",
    "litebot_configured",
    "litebot_writers",
    "litebot_collapsed",
    "litebot_projects",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.sqlite"
    create_file(path)
    return path


@pytest.fixture
def conn(path: Path) -> Iterator[sa.engine.Connection]:
    with engine_for(path).connect() as conn:
        yield conn


def tables(path: Path) -> set[str]:
    with engine_for(path).connect() as conn:
        return set(sa.inspect(conn).get_table_names())


def version(path: Path) -> int | None:
    with engine_for(path).connect() as conn:
        found: int | None = conn.execute(sa.select(ours.versions.c.version)).scalar_one()
        return found


def test_an_empty_file_gets_all_tables(conn: sa.engine.Connection, path: Path) -> None:
    schema.upgrade(conn)
    assert tables(path) == OURS == set(ours.metadata.tables)
    assert version(path) == len(schema.MIGRATIONS)


def test_the_tables_are_those_that_the_code_means(conn: sa.engine.Connection, path: Path) -> None:
    schema.upgrade(conn)
    inspector = sa.inspect(engine_for(path))
    for name, table in ours.metadata.tables.items():
        found = inspector.get_columns(name)
        assert [c["name"] for c in found] == [c.name for c in table.columns]
        assert [c["nullable"] for c in found] == [c.nullable for c in table.columns]
        assert {i["name"] for i in inspector.get_indexes(name)} == {i.name for i in table.indexes}


def test_again_changes_nothing(conn: sa.engine.Connection, path: Path) -> None:
    schema.upgrade(conn)
    row = {"master": "here", "pid": 17, "version": "0", "started_at": 1.5}
    conn.execute(ours.starts.insert().values(**row))
    conn.commit()
    schema.upgrade(conn)
    assert conn.execute(sa.select(ours.starts.c.pid)).scalars().all() == [17]
    assert version(path) == len(schema.MIGRATIONS)


def test_tables_of_an_older_litebot_get_what_they_lack(
    conn: sa.engine.Connection, path: Path
) -> None:
    schema.upgrade(conn)
    for statement in (
        "DROP TABLE litebot_events",
        "DROP TABLE litebot_configured",
        "DROP TABLE litebot_writers",
        "DROP TABLE litebot_collapsed",
        "DROP TABLE litebot_projects",
        "ALTER TABLE litebot_starts DROP COLUMN taken_over_at",
        "ALTER TABLE litebot_starts DROP COLUMN taken_over_by",
        "ALTER TABLE litebot_outbox DROP COLUMN masterid",
        "INSERT INTO litebot_outbox (reporter, kind, about, attempts) VALUES ('r', 'builds', 1, 0)",
        "UPDATE litebot_schema SET version = 7",
    ):
        conn.exec_driver_sql(statement)
    conn.commit()
    schema.upgrade(conn)
    assert version(path) == len(schema.MIGRATIONS)
    assert conn.execute(sa.select(ours.starts)).all() == []
    assert conn.execute(sa.select(ours.outbox.c.masterid)).scalars().all() == [0]
    assert tables(path) == OURS


def add_table(conn: sa.engine.Connection) -> None:
    conn.exec_driver_sql("CREATE TABLE litebot_new (x)")


def break_off(conn: sa.engine.Connection) -> None:
    conn.exec_driver_sql("DROP TABLE litebot_starts")
    conn.exec_driver_sql("SELECT * FROM missing")


def test_only_what_is_missing_is_run(
    conn: sa.engine.Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.upgrade(conn)
    monkeypatch.setattr(schema, "MIGRATIONS", (break_off, *schema.MIGRATIONS[1:], add_table))
    schema.upgrade(conn)  # the first one has run long ago
    assert tables(path) == OURS | {"litebot_new"}
    assert version(path) == len(schema.MIGRATIONS)


def test_one_that_breaks_off_leaves_all_as_it_was(
    conn: sa.engine.Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.upgrade(conn)
    before = version(path)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, add_table, break_off))
    with pytest.raises(sa.exc.OperationalError, match="missing"):
        schema.upgrade(conn)
    conn.rollback()
    assert tables(path) == OURS
    assert version(path) == before


def test_one_that_breaks_off_at_the_first_time_leaves_nothing(
    conn: sa.engine.Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, break_off))
    with pytest.raises(sa.exc.OperationalError, match="missing"):
        schema.upgrade(conn)
    conn.rollback()
    assert tables(path) == set()


def test_inside_somebody_elses_transaction(path: Path) -> None:
    handle = connect(path)
    handle.execute("BEGIN IMMEDIATE")
    with engine_on(handle).connect() as conn:
        schema.upgrade(conn)
    handle.execute("ROLLBACK")
    handle.close()
    assert tables(path) == set()


def test_a_new_state_file_has_buildbots_tables_and_ours(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    make_state_file(path)
    theirs = set(Model.metadata.tables)
    assert tables(path) == theirs | OURS | {"alembic_version"}
    assert {name for name in tables(path) if name.startswith("litebot_")} == OURS
    assert not {name for name in theirs if name.startswith("litebot_")}


def test_tables_of_a_newer_litebot_are_refused_and_left_alone(
    conn: sa.engine.Connection, path: Path
) -> None:
    schema.upgrade(conn)
    newer = len(schema.MIGRATIONS) + 1
    conn.execute(ours.versions.update().values(version=newer))
    conn.commit()
    with pytest.raises(StoreError, match=f"newer litebot \\(version {newer}"):
        schema.upgrade(conn)
    conn.rollback()
    assert version(path) == newer
