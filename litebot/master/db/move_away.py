"""The record that a Postgres database was moved away, so that nobody goes on using it.

It is written before litebot.toml names the new database, and once more afterwards.  In between, the
master that is being moved may still start on the old one.  The other masters can't know whether it
will, so they are refused.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass

import sqlalchemy as sa

from litebot.errors import StoreError
from litebot.master.db import move_into

# Like litebot_move, this table is not part of litebot's schema: it exists only after a move.
record = sa.Table(
    "litebot_moved",
    sa.MetaData(),
    # The url of the new database.
    sa.Column("url", sa.Text, nullable=False),
    # The master whose litebot.toml the move changes.
    sa.Column("master", sa.Text, nullable=False),
    sa.Column("moved_at", sa.Float, nullable=False),
    # Whether that litebot.toml names the new database.
    sa.Column("done", sa.Integer, nullable=False),
)


@dataclass(frozen=True)
class MovedAway:
    """Where a database was moved or is being moved to, and by which master."""

    url: str
    master: str
    moved_at: float
    done: bool

    def refusal(self, name: str) -> StoreError:
        """Return the error for whoever wants to use the database, which messages call `name`."""
        host, _, basedir = self.master.partition(":")
        if not self.done:
            return StoreError(
                f"{name} is being moved to {self.url} by the master {self.master}",
                f"on {host}: litebot move-database {shlex.quote(self.url)} {shlex.quote(basedir)}"
                "   (ends it)",
            )
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.moved_at))
        return StoreError(
            f"{name} was moved to {self.url} on {when} by the master {self.master}",
            f'write url = "{self.url}" under [database] in litebot.toml'
            if self.url.startswith("postgresql:")
            else f"on {host}: litebot start {shlex.quote(basedir)}   (a file has one master)",
        )


def found(conn: sa.engine.Connection) -> MovedAway | None:
    """Return the record that a move left in this database, or None."""
    if not sa.inspect(conn).has_table(record.name):
        return None
    row = conn.execute(sa.select(record)).first()
    return MovedAway(row.url, row.master, row.moved_at, bool(row.done)) if row is not None else None


def refuse(conn: sa.engine.Connection, name: str, master: str | None = None) -> None:
    """Raise StoreError if the database, which messages call `name`, was moved away.

    The master that moves it may use it until its litebot.toml names the new database.
    """
    away = found(conn)
    if away is not None and (away.done or away.master != master):
        raise away.refusal(name)


def leave(conn: sa.engine.Connection, url: str, master: str, *, done: bool) -> None:
    """Record that the database is being moved.  It is on disk once the caller has committed."""
    conn.exec_driver_sql("SET LOCAL synchronous_commit = on")
    record.create(conn, checkfirst=True)
    conn.execute(record.delete())
    row = {"url": url, "master": master, "moved_at": time.time(), "done": int(done)}
    conn.execute(record.insert().values(row))


def refuse_others(conn: sa.engine.Connection, name: str, master: str) -> None:
    """Raise StoreError if the database was moved away, or a move into it is unfinished."""
    move_into.refuse(conn, name, master)
    refuse(conn, name, master)


def begin(conn: sa.engine.Connection, name: str, master: str) -> None:
    """Let a master start on the database.  Raises StoreError as `refuse_others` does.

    A master whose litebot.toml still names the source of its own move stays there, so the record is
    removed and committed.
    """
    refuse_others(conn, name, master)
    take_back(conn)
    conn.commit()


def take_back(conn: sa.engine.Connection) -> None:
    """Remove the record, so that every master may use the database again."""
    record.drop(conn, checkfirst=True)
