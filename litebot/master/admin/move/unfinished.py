"""The record that a move or copy keeps in its target until it has ended."""

from __future__ import annotations

import json
from dataclasses import asdict
from dataclasses import replace

import sqlalchemy as sa

from litebot.errors import StoreError
from litebot.master.admin.move.side import Side
from litebot.master.admin.move.tables import Moved
from litebot.master.db import schema
from litebot.master.db.move_into import COPY
from litebot.master.db.move_into import COPYING
from litebot.master.db.move_into import MOVED
from litebot.master.db.move_into import Unfinished
from litebot.master.db.move_into import read
from litebot.master.db.move_into import record


def found(target: Side) -> Unfinished | None:
    """Return the unfinished move or copy into a database, or None.

    Raises StoreError if there is none but the database holds tables.
    """
    begun = recorded(target)
    tables = target.tables()
    if begun is None and tables - {record.name}:
        raise holds_data(target, tables)
    return begun


def recorded(target: Side) -> Unfinished | None:
    """Return the recorded move or copy, or None, whatever else the database holds."""
    if record.name not in target.tables():
        return None
    with target.translated_errors(), target.engine.connect() as conn:
        return read(conn)


def holds_data(target: Side, tables: set[str]) -> StoreError:
    """Return the error for a target that is not empty."""
    first = sorted(tables)[0]
    return StoreError(
        f"{target.name} holds tables ({first}{', ...' if len(tables) > 1 else ''}); rows are copied"
        " to an empty database only, and this one is left as it is",
        "name another one, or remove or rename this one if you do not need it",
    )


def begin(target: Side, begun: Unfinished, tables: list[Moved]) -> Unfinished:
    """Record a move or copy in an empty target and create all tables; return the record.

    Indexes and references are left out while rows are copied; `later` in the record holds the
    statements that create them.
    """
    with target.translated_errors(), target.engine.connect() as conn:
        record.create(conn, checkfirst=True)
        conn.execute(record.delete())
        conn.execute(record.insert().values(**asdict(begun) | {"later": "[]"}))
        conn.commit()
        schema.make(conn)
        conn.commit()
    state = COPY if begun.state == COPY else COPYING
    definitions = target.definitions()
    later = tuple(make for _, make in reversed(definitions))
    with target.translated_errors(), target.engine.connect() as conn:
        for drop, _ in definitions:
            run(conn, drop)
        for table in tables:  # a new schema has some rows
            conn.execute(table.table.delete())
        conn.execute(record.update().values(state=state, later=json.dumps(later)))
        conn.commit()
    return replace(begun, state=state, later=later)


def run(conn: sa.engine.Connection, statement: str) -> None:
    """Run a statement that the database itself has generated; a % in it is no placeholder."""
    conn.execution_options(no_parameters=True).exec_driver_sql(statement)


def set_state(target: Side, state: str) -> None:
    """Record the state of the move."""
    with target.translated_errors(), target.engine.begin() as conn:
        conn.execute(record.update().values(state=state))


def set_moved(target: Side, move: Unfinished) -> None:
    """Record that all rows are there, and which master's litebot.toml may name the target now."""
    with target.translated_errors(), target.engine.begin() as conn:
        values = {"state": MOVED, "master": move.master, "url": move.url}
        conn.execute(record.update().values(values))


def forget(target: Side) -> None:
    """Remove the record of a move or copy that is done."""
    with target.translated_errors(), target.engine.begin() as conn:
        record.drop(conn)
