"""The registry of what each master on a database has configured.

A scheduler is active on one master, and each ended build is reported once, though several masters
may have the same configuration.  So each master records in litebot_configured which schedulers and
reporters it has, and which of the reporters want the ends of builds and of buildsets.
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

# How long an absent master's schedulers are kept, as it may come back.
KEEP_ABSENT_S = 7 * 24 * 3600.0


def write(conn: sa.engine.Connection, masterid: int, what: Iterable[tuple[str, str]]) -> None:
    """Record that a master has what `what` lists as (kind, name), and nothing else.

    Commits nothing.
    """
    conn.execute(table.delete().where(table.c.masterid == masterid))
    rows = [{"masterid": masterid, "kind": kind, "name": name} for kind, name in sorted(set(what))]
    if rows:
        conn.execute(table.insert(), rows)


def reporters(masterid: int) -> sa.Select[tuple[str]]:
    """Select the names of the reporters of a master."""
    mine = sa.and_(table.c.masterid == masterid, table.c.kind == REPORTER)
    return sa.select(table.c.name).where(mine)


def schedulers() -> sa.Select[tuple[int]]:
    """Select the ids of all schedulers that a master has, or had within the last KEEP_ABSENT_S."""
    masters, known = Model.masters, Model.schedulers
    return (
        sa.select(known.c.id)
        .join_from(known, table, table.c.name == known.c.name)
        .join(masters, masters.c.id == table.c.masterid)
        .where(table.c.kind == SCHEDULER, masters.c.last_active > time.time() - KEEP_ABSENT_S)
    )


def reporters_elsewhere(
    conn: sa.engine.Connection, kind: str, masterid: int, here: Collection[str]
) -> list[tuple[str, int]]:
    """Return the reporters that want the ends of a kind and that are not among those `here`.

    Each comes with the id of the first active master that has it.
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
    """Return the names of the reporters of each other active master, by its id."""
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


def litebot_masters(conn: sa.engine.Connection) -> set[str]:
    """Return the names of all litebot masters that have ever started on this database."""
    return set(conn.execute(sa.select(tables.starts.c.master).distinct()).scalars())
