"""Who is alive: each master holds a lock of the server for as long as it is connected.

The server lets go of it when the master's session ends: at once when its process dies, and a few
seconds after its machine or its network has gone.  A master that is found dead may only seem so:
before its work is touched it is kept from writing.  See recovery.takeover, which writes down who
has it and ends what connections it still has; and `fence`, which each new one asks first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model
from sqlalchemy.pool import StaticPool

from litebot.errors import TakenOver
from litebot.master.db import tables
from litebot.master.db.pool import NotOurs
from litebot.master.db.postgres import DRIVER
from litebot.master.db.postgres import application_name

if TYPE_CHECKING:
    import psycopg

# A class of the server's advisory locks, of two numbers each; the other is the masterid: "lbma".
MASTER_LOCK = 0x6C626D61

# For how long a lock has to be free.
CONFIRM_S = 1.5

LOCKED = """
    SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND classid = %s::oid
        AND objsubid = 2 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
TAKEN_OVER_BY = """
    SELECT taken_over_by FROM litebot_starts WHERE id = %s AND taken_over_at IS NOT NULL
"""
END_CONNECTIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = %s AND datname = current_database()
"""

# The ids of the other masters that have something to be taken over if they are dead.
Suspects = Callable[[sa.engine.Connection, int], list[int]]


class Peers:
    """What one master knows of the others; used in the thread of its session.

    `startid` is that of its row in litebot_starts, once it has one; `left` are those who went
    between the last two looks, also while this one was away.
    """

    def __init__(self, masterid: int, name: str, suspects: Suspects) -> None:
        self.masterid = masterid
        self.name = name
        self.startid: int | None = None
        self.is_alone = False
        self.left: set[int] = set()
        self._there: set[int] = set()
        self._suspects = suspects
        self._engine: sa.Engine | None = None
        self.grace_s = 0.0
        self._connected_at = 0.0
        self._free_since: dict[int, float] = {}

    def connected(self, conn: psycopg.Connection[Any], grace_s: float) -> None:
        """Begin on a new connection, and judge nobody for so long."""
        self.grace_s = grace_s
        url = f"{DRIVER}://"
        self._engine = sa.create_engine(url, creator=lambda: conn, poolclass=StaticPool)
        self._connected_at = time.monotonic()
        self._free_since.clear()
        self.is_alone = False

    def lock(self, conn: psycopg.Connection[Any], masterid: int) -> bool:
        """Take the lock of a master, one's own or a dead one's; whether it was free."""
        query = "SELECT pg_try_advisory_lock(%s, %s)"
        row = conn.execute(query, (MASTER_LOCK, masterid)).fetchone()
        return row is not None and bool(row[0])

    def unlock(self, conn: psycopg.Connection[Any], masterid: int) -> None:
        """Let go of a lock."""
        conn.execute("SELECT pg_advisory_unlock(%s, %s)", (MASTER_LOCK, masterid))

    def poll(self, conn: psycopg.Connection[Any]) -> list[int]:
        """See who is there; the ids of those who are dead.  Raises psycopg.Error."""
        assert self._engine is not None
        # Whoever locks before it is asked who is there hears of all that is sent from now on.
        locked = {row[0] for row in conn.execute(LOCKED, (MASTER_LOCK,))} - {self.masterid}
        try:
            with self._engine.connect() as sa_conn:
                suspects = self._suspects(sa_conn, self.masterid)
        except sa.exc.DBAPIError as error:
            raise error.orig or error from None
        self.is_alone = not locked and not suspects
        there = locked.union(suspects)  # who lost the lock and did not stop may come back
        self.left, self._there = self._there - there, there
        now = time.monotonic()
        free = [masterid for masterid in suspects if masterid not in locked]
        self._free_since = {each: self._free_since.get(each, now) for each in free}
        if now - self._connected_at < self.grace_s:
            return []
        return [each for each, since in self._free_since.items() if now - since >= CONFIRM_S]

    def check_own(self, conn: psycopg.Connection[Any]) -> None:
        """Raise TakenOver where another master has found this one dead."""
        row = conn.execute(TAKEN_OVER_BY, (self.startid,)).fetchone()
        if row is not None:
            raise taken_over(self.name, row[0])

    def end_connections(self, conn: psycopg.Connection[Any], masterid: int) -> None:
        """End what a dead master has begun to write, so that nobody has to wait for it."""
        conn.execute(END_CONNECTIONS, (application_name(masterid),))


def require_lock(conn: sa.engine.Connection, masterid: int, holder: int) -> None:
    """Raise NotOurs where the lock of a master is not, or no more, with this server's process."""
    query = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted"
    query += " AND classid = :class AND objid = :masterid AND pid = :holder"
    values = {"class": MASTER_LOCK, "masterid": masterid, "holder": holder}
    if conn.execute(sa.text(query), values).first() is None:
        raise NotOurs


def running(conn: sa.engine.Connection) -> list[str]:
    """The names of the masters that are alive, in order."""
    locked = [masterid for (masterid,) in conn.exec_driver_sql(LOCKED, (MASTER_LOCK,))]
    query = sa.select(Model.masters.c.name).where(Model.masters.c.id.in_(locked))
    return sorted(conn.execute(query).scalars()) if locked else []


def fence(conn: sa.engine.Connection, startid: int) -> None:
    """Raise TakenOver where this start of a master was found dead by another one.

    For the first transaction on each connection.  Who takes over writes to the row, then ends the
    connections there are, and commits when it has read what these have left; until then a new one
    waits here.
    """
    starts = tables.starts
    query = sa.select(starts.c.taken_over_at, starts.c.taken_over_by, starts.c.master)
    row = conn.execute(query.where(starts.c.id == startid).with_for_update(read=True)).one()
    if row.taken_over_at is not None:
        raise taken_over(row.master, row.taken_over_by)


def taken_over(name: str, by: str) -> TakenOver:
    """What to tell the user of the master `name`."""
    return TakenOver(
        f"the master {name} lost its connection to the database for so long that {by} found it"
        " dead and has taken over its builds",
        "litebot start BASEDIR",
    )
