"""What a move leaves in the Postgres database that it moved away from: nobody is to go on with it.

It is written before litebot.toml names the new database, and once more afterwards.  In between the
master that is moved may still start on the old one; the others can't know, and are refused.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass

import sqlalchemy as sa

from litebot.errors import StoreError
from litebot.master.db import move_into

# As litebot_move, it is no table of litebot's schema: it is there after a move only.
left = sa.Table(
    "litebot_moved",
    sa.MetaData(),
    # The new database.
    sa.Column("url", sa.Text, nullable=False),
    # Whose litebot.toml the move has name it.
    sa.Column("master", sa.Text, nullable=False),
    sa.Column("moved_at", sa.Float, nullable=False),
    # Whether that is done.
    sa.Column("done", sa.Integer, nullable=False),
)


@dataclass(frozen=True)
class Away:
    """Where a database was moved, or is being moved, and by which master."""

    url: str
    master: str
    moved_at: float
    done: bool

    def refusal(self, name: str) -> StoreError:
        """What to tell whoever wants to use the database, which is shown as `name`."""
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


def found(conn: sa.engine.Connection) -> Away | None:
    """What a move has left in a database, or None."""
    if not sa.inspect(conn).has_table(left.name):
        return None
    row = conn.execute(sa.select(left)).first()
    return Away(row.url, row.master, row.moved_at, bool(row.done)) if row is not None else None


def refuse(conn: sa.engine.Connection, name: str, master: str | None = None) -> None:
    """Raise StoreError where a database, which is shown as `name`, was moved away.

    The master that moves it may use it until its litebot.toml names the new one.
    """
    away = found(conn)
    if away is not None and (away.done or away.master != master):
        raise away.refusal(name)


def leave(conn: sa.engine.Connection, url: str, master: str, *, done: bool) -> None:
    """Write down that a database is moved.  It is on disk when the caller has committed."""
    conn.exec_driver_sql("SET LOCAL synchronous_commit = on")
    left.create(conn, checkfirst=True)
    conn.execute(left.delete())
    row = {"url": url, "master": master, "moved_at": time.time(), "done": int(done)}
    conn.execute(left.insert().values(row))


def refuse_others(conn: sa.engine.Connection, name: str, master: str) -> None:
    """Raise StoreError where a database was moved away, or all is not there yet."""
    move_into.refuse(conn, name, master)
    refuse(conn, name, master)


def begin(conn: sa.engine.Connection, name: str, master: str) -> None:
    """Let a master begin on a database, as `refuse_others` does.

    One whose litebot.toml still names the database from which it was to be moved stays there.
    """
    refuse_others(conn, name, master)
    take_back(conn)
    conn.commit()


def take_back(conn: sa.engine.Connection) -> None:
    """Let everybody use a database again."""
    left.drop(conn, checkfirst=True)
