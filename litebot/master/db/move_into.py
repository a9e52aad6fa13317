"""What a move or a copy leaves in a database, for whoever wants to use that database next.

Two tables that exist around a move only: `litebot_move` in the database that is moved to, until all
is there and litebot.toml names it, and in one that is copied to; `litebot_moved` in a Postgres
database that was moved away from, so that nobody goes on with it.  They belong to no schema and are
not moved themselves.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

import sqlalchemy as sa

from litebot.errors import StoreError

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
# A copy that nobody goes on with where it is interrupted: it begins anew.
COPY = "copy"


@dataclass(frozen=True)
class Unfinished:
    """A move or copy into a database: the columns of `record`."""

    source: str
    mark: str
    master: str
    url: str
    state: str = MAKING
    later: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What it is in messages."""
        return "copy" if self.state == COPY else "move"

    def refusal(self, name: str) -> StoreError:
        """What to tell whoever wants to use the database, which is shown as `name`."""
        host, _, basedir = self.master.partition(":")
        command = "copy-db" if self.state == COPY else "move-database"
        arguments = f"{shlex.quote(self.url)} {shlex.quote(basedir)}"
        outcome = "begins anew" if self.state == COPY else "ends it"
        return StoreError(
            f"{name} holds an unfinished {self.kind} of {self.source} by the master {self.master}",
            f"on {host}: litebot {command} {arguments}   ({outcome})",
        )


def read(conn: sa.engine.Connection) -> Unfinished | None:
    row = conn.execute(sa.select(record)).mappings().first()
    if row is None:
        return None
    return Unfinished(**{**row, "later": tuple(json.loads(row["later"]))})


def refuse(conn: sa.engine.Connection, name: str, master: str) -> None:
    """Raise StoreError where a move or copy into a database, shown as `name`, has not ended.

    The master whose litebot.toml names it once all is there may use it from then on.
    """
    if not sa.inspect(conn).has_table(record.name):
        return
    begun = read(conn)
    if begun is not None and (begun.state != MOVED or begun.master != master):
        raise begun.refusal(name)
