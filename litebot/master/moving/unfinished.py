"""What a move writes into its target about itself, so that it can go on after an interrupt."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace

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
    # Whose litebot.toml is to name the target, and with which url.
    sa.Column("master", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("mark", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    # What is to be made when all rows are there: a list of statements.
    sa.Column("later", sa.Text, nullable=False),
)

# The tables are being made; rows come; a difference was found; litebot.toml may name the target.
MAKING, COPYING, DIFFERENT, MOVED = "making", "copying", "different", "moved"


@dataclass(frozen=True)
class Unfinished:
    """A move into a database: from where, as what it was then, and the columns of `record`."""

    source: str
    mark: str
    master: str
    url: str
    state: str = MAKING
    later: tuple[str, ...] = ()

    def refusal(self, name: str) -> StoreError:
        """What to tell whoever wants to use the database, which is shown as `name`."""
        host, _, basedir = self.master.partition(":")
        command = f"litebot move-database {shlex.quote(self.url)} {shlex.quote(basedir)}"
        return StoreError(
            f"{name} holds an unfinished move of {self.source} by the master {self.master}",
            f"on {host}: {command}   (ends it)",
        )


def found(target: Side) -> Unfinished | None:
    """The move that was begun into a database, or None.

    Raises StoreError where it holds anything else.
    """
    begun = look(target)
    tables = target.tables()
    if begun is None and tables - {record.name}:
        raise holds_data(target, tables)
    return begun


def look(target: Side) -> Unfinished | None:
    """The move that was begun into a database, whatever else it holds, or None."""
    if record.name not in target.tables():
        return None
    with target.told(), target.engine.connect() as conn:
        return _read(conn)


def _read(conn: sa.engine.Connection) -> Unfinished | None:
    row = conn.execute(sa.select(record)).mappings().first()
    if row is None:
        return None
    return Unfinished(**{**row, "later": tuple(json.loads(row["later"]))})


def refuse(conn: sa.engine.Connection, name: str, master: str) -> None:
    """Raise StoreError where a move into a database, which is shown as `name`, has not ended.

    The master whose litebot.toml names it once all is there may use it from then on.
    """
    if not sa.inspect(conn).has_table(record.name):
        return
    begun = _read(conn)
    if begun is not None and (begun.state != MOVED or begun.master != master):
        raise begun.refusal(name)


def holds_data(target: Side, tables: set[str]) -> StoreError:
    """What to tell where a target is not empty."""
    first = sorted(tables)[0]
    return StoreError(
        f"{target.name} holds tables ({first}{', ...' if len(tables) > 1 else ''}); a move needs an"
        " empty database and leaves this one as it is",
        "name another one, or remove or rename this one if you do not need it",
    )


def begin(target: Side, begun: Unfinished, tables: list[Moved]) -> Unfinished:
    """Make all tables in an empty target, without indexes and references as long as rows come."""
    with target.told(), target.engine.connect() as conn:
        record.create(conn, checkfirst=True)
        conn.execute(record.delete())
        conn.execute(record.insert().values(**asdict(begun) | {"later": "[]"}))
        conn.commit()
        schema.make(conn)
        conn.commit()
    definitions = target.definitions()
    later = tuple(make for _, make in reversed(definitions))
    with target.told(), target.engine.connect() as conn:
        for drop, _ in definitions:
            run(conn, drop)
        for table in tables:  # a new schema is not without rows
            conn.execute(table.table.delete())
        conn.execute(record.update().values(state=COPYING, later=json.dumps(later)))
        conn.commit()
    return replace(begun, state=COPYING, later=later)


def run(conn: sa.engine.Connection, statement: str) -> None:
    """Run a statement as the database itself has written it: a % in it stands for itself."""
    conn.execution_options(no_parameters=True).exec_driver_sql(statement)


def set_state(target: Side, state: str) -> None:
    """Write down how far the move is."""
    with target.told(), target.engine.begin() as conn:
        conn.execute(record.update().values(state=state))


def set_moved(target: Side, move: Unfinished) -> None:
    """Write down that all is there, and whose litebot.toml may name it from now on."""
    with target.told(), target.engine.begin() as conn:
        values = {"state": MOVED, "master": move.master, "url": move.url}
        conn.execute(record.update().values(values))


def forget(target: Side) -> None:
    """Leave no trace of a move that is done."""
    with target.told(), target.engine.begin() as conn:
        record.drop(conn)
