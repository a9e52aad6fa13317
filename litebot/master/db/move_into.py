"""The record of an unfinished move or copy, in the database that is moved or copied to.

Two tables exist only because of that.  `litebot_move` is in the target, until all rows are there
and, after a move, litebot.toml names it.  `litebot_moved` is in a Postgres database that was the
source of a move, so that nobody goes on using it: see `move_away`.  They belong to no schema, and
are not moved themselves.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

import sqlalchemy as sa

from litebot.errors import StoreError

# This table is not part of litebot's schema: it exists only during a move, and is not moved itself.
record = sa.Table(
    "litebot_move",
    sa.MetaData(),
    sa.Column("source", sa.Text, nullable=False),
    # The master whose litebot.toml is to name the target, and the url it is to have there.
    sa.Column("master", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("mark", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    # The statements to run once all rows are there, as a JSON list.
    sa.Column("later", sa.Text, nullable=False),
)


# The states: the tables are being created; rows are being copied; source and target were found to
# differ; litebot.toml may name the target.
MAKING, COPYING, DIFFERENT, MOVED = "making", "copying", "different", "moved"
# The state of a copy, which begins anew after an interruption.
COPY = "copy"


@dataclass(frozen=True)
class Unfinished:
    """A move or copy into a database that has begun: the row of `record`."""

    source: str
    mark: str
    master: str
    url: str
    state: str = MAKING
    later: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The word for it in messages."""
        return "copy" if self.state == COPY else "move"

    def refusal(self, name: str) -> StoreError:
        """Return the error for whoever wants to use the database, which messages call `name`."""
        host, _, basedir = self.master.partition(":")
        command = "copy-db" if self.state == COPY else "move-database"
        arguments = f"{shlex.quote(self.url)} {shlex.quote(basedir)}"
        outcome = "begins anew" if self.state == COPY else "ends it"
        return StoreError(
            f"{name} holds an unfinished {self.kind} of {self.source} by the master {self.master}",
            f"on {host}: litebot {command} {arguments}   ({outcome})",
        )


def read(conn: sa.engine.Connection) -> Unfinished | None:
    """Return the unfinished move or copy that the table records, or None if it has no row."""
    row = conn.execute(sa.select(record)).mappings().first()
    if row is None:
        return None
    return Unfinished(**{**row, "later": tuple(json.loads(row["later"]))})


def refuse(conn: sa.engine.Connection, name: str, master: str) -> None:
    """Raise StoreError if a move or copy into the database, shown as `name`, is unfinished.

    Once all rows are there, the master whose litebot.toml is to name it may use it.
    """
    if not sa.inspect(conn).has_table(record.name):
        return
    begun = read(conn)
    if begun is not None and (begun.state != MOVED or begun.master != master):
        raise begun.refusal(name)
