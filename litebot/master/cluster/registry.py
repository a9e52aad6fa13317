"""What each master on a database has configured, for the others to know.

A scheduler is active on one master, and each ended build is reported once, though several masters
have the same configuration.  So each says in litebot_configured which schedulers and reporters it
has, and which of these want to hear of the ends of builds and of buildsets.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from collections.abc import Iterable

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.master.db import tables

table = tables.configured

SCHEDULER, REPORTER = "scheduler", "reporter"

# How long a master that is gone counts as one that comes back.
COMES_BACK_WITHIN_S = 7 * 24 * 3600.0


def write(conn: sa.engine.Connection, masterid: int, what: Iterable[tuple[str, str]]) -> None:
    """This master has these kinds of these names, and no others; commits nothing."""
    conn.execute(table.delete().where(table.c.masterid == masterid))
    rows = [{"masterid": masterid, "kind": kind, "name": name} for kind, name in sorted(set(what))]
    if rows:
        conn.execute(table.insert(), rows)


def reporters(masterid: int) -> sa.Select[tuple[str]]:
    """The names of the reporters of a master."""
    mine = sa.and_(table.c.masterid == masterid, table.c.kind == REPORTER)
    return sa.select(table.c.name).where(mine)


def schedulers() -> sa.Select[tuple[int]]:
    """The ids of all schedulers that some master has, or had when it was last there."""
    masters, known = Model.masters, Model.schedulers
    return (
        sa.select(known.c.id)
        .join_from(known, table, table.c.name == known.c.name)
        .join(masters, masters.c.id == table.c.masterid)
        .where(table.c.kind == SCHEDULER, masters.c.last_active > time.time() - COMES_BACK_WITHIN_S)
    )


def elsewhere(
    conn: sa.engine.Connection, kind: str, masterid: int, here: Collection[str]
) -> list[tuple[str, int]]:
    """The reporters that want to hear of the end of a kind and that this master has not.

    Each with the first of the masters that have it.
    """
    masters = Model.masters
    query = (
        sa.select(table.c.name, sa.func.min(table.c.masterid))
        .join(masters, masters.c.id == table.c.masterid)
        .where(table.c.kind == kind, table.c.masterid != masterid, masters.c.active == 1)
        .where(table.c.name.not_in(list(here)))
        .group_by(table.c.name)
    )
    return [(row[0], row[1]) for row in conn.execute(query)]


def reporters_of_others(conn: sa.engine.Connection, masterid: int) -> dict[int, set[str]]:
    """The reporters of each other master that is there."""
    masters = Model.masters
    query = (
        sa.select(table.c.masterid, table.c.name)
        .join(masters, masters.c.id == table.c.masterid)
        .where(table.c.kind == REPORTER, table.c.masterid != masterid, masters.c.active == 1)
    )
    found: dict[int, set[str]] = {}
    for row in conn.execute(query):
        found.setdefault(row[0], set()).add(row[1])
    return found


def litebots(conn: sa.engine.Connection) -> set[str]:
    """The names of all litebot masters that have ever started on this database."""
    return set(conn.execute(sa.select(tables.starts.c.master).distinct()).scalars())
