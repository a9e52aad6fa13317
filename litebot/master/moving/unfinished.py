"""What a move writes into its target about itself, so that it can go on after an interrupt."""

from __future__ import annotations

import json
from dataclasses import dataclass

import sqlalchemy as sa

from litebot.errors import StoreError
from litebot.master import schema
from litebot.master.moving.side import Side
from litebot.master.moving.tables import Moved

# It is no table of litebot's schema: it exists during a move only, and is not moved itself.
record = sa.Table(
    "litebot_move",
    sa.MetaData(),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("mark", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    # What is to be made when all rows are there: a list of statements.
    sa.Column("later", sa.Text, nullable=False),
)

# The tables are being made; rows come; a difference was found; litebot.toml may name the target.
MAKING, COPYING, DIFFERENT, MOVED = "making", "copying", "different", "moved"


@dataclass(frozen=True)
class Unfinished:
    """A move into a database that goes on: from where, and as what it was then."""

    source: str
    mark: str
    state: str
    later: list[str]


def found(target: Side) -> Unfinished | None:
    """The move that was begun into a database, or None.

    Raises StoreError where it holds anything else.
    """
    tables = target.tables()
    if record.name in tables:
        with target.told(), target.engine.connect() as conn:
            row = conn.execute(sa.select(record)).first()
        if row is not None:
            return Unfinished(row.source, row.mark, row.state, json.loads(row.later))
    if tables - {record.name}:
        raise holds_data(target, tables)
    return None


def holds_data(target: Side, tables: set[str]) -> StoreError:
    """What to tell where a target is not empty."""
    first = sorted(tables)[0]
    return StoreError(
        f"{target.name} holds tables ({first}{', ...' if len(tables) > 1 else ''}); a move needs an"
        " empty database and leaves this one as it is",
        "name another one, or remove or rename this one if you do not need it",
    )


def begin(target: Side, source: str, mark: str, tables: list[Moved]) -> Unfinished:
    """Make all tables in an empty target, without indexes and references as long as rows come."""
    with target.told(), target.engine.connect() as conn:
        record.create(conn, checkfirst=True)
        conn.execute(record.delete())
        conn.execute(record.insert().values(source=source, mark=mark, state=MAKING, later="[]"))
        conn.commit()
        schema.make(conn)
        conn.commit()
    definitions = target.definitions()
    later = [make for _, make in reversed(definitions)]
    with target.told(), target.engine.connect() as conn:
        for drop, _ in definitions:
            run(conn, drop)
        for table in tables:  # a new schema is not without rows
            conn.execute(table.table.delete())
        conn.execute(record.update().values(state=COPYING, later=json.dumps(later)))
        conn.commit()
    return Unfinished(source, mark, COPYING, later)


def run(conn: sa.engine.Connection, statement: str) -> None:
    """Run a statement as the database itself has written it: a % in it stands for itself."""
    conn.execution_options(no_parameters=True).exec_driver_sql(statement)


def set_state(target: Side, state: str) -> None:
    """Write down how far the move is."""
    with target.told(), target.engine.begin() as conn:
        conn.execute(record.update().values(state=state))


def forget(target: Side) -> None:
    """Leave no trace of a move that is done."""
    with target.told(), target.engine.begin() as conn:
        record.drop(conn)
