"""Finds out which masters are alive: each holds a lock of the server while it is connected.

The server releases the lock when the master's session ends: at once when its process dies, and a
few seconds after its machine or its network has vanished.  A master that is found dead may only
seem dead, so it is kept from writing before its work is touched.  See cluster.takeover, which
records who has taken it over and ends the connections that it still has, and `fence`, which each
new connection calls first.
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

# The first of the two numbers of an advisory lock: "lbma".  The second is the masterid.
MASTER_LOCK = 0x6C626D61

# How long a lock must be free before its master counts as dead.
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

# Returns the ids of the other masters whose work must be taken over if they are dead.
Suspects = Callable[[sa.engine.Connection, int], list[int]]


class Peers:
    """What one master knows of the others; used in the thread of its session.

    `startid` is the id of its row in litebot_starts, once it has one.  `departed` are the masters
    that went between the last two polls, even if this master was disconnected then.
    """

    def __init__(self, masterid: int, name: str, suspects: Suspects) -> None:
        self.masterid = masterid
        self.name = name
        self.startid: int | None = None
        self.is_alone = False
        self.departed: set[int] = set()
        self._present: set[int] = set()
        self._suspects = suspects
        self._engine: sa.Engine | None = None
        self.grace_s = 0.0
        self._connected_at = 0.0
        self._free_since: dict[int, float] = {}

    def connected(self, conn: psycopg.Connection[Any], grace_s: float) -> None:
        """Begin to use a new connection, and declare nobody dead for `grace_s`."""
        self.grace_s = grace_s
        url = f"{DRIVER}://"
        self._engine = sa.create_engine(url, creator=lambda: conn, poolclass=StaticPool)
        self._connected_at = time.monotonic()
        self._free_since.clear()
        self.is_alone = False

    def lock(self, conn: psycopg.Connection[Any], masterid: int) -> bool:
        """Try to take the lock of this master or of a dead one, and return whether it was free."""
        query = "SELECT pg_try_advisory_lock(%s, %s)"
        row = conn.execute(query, (MASTER_LOCK, masterid)).fetchone()
        return row is not None and bool(row[0])

    def unlock(self, conn: psycopg.Connection[Any], masterid: int) -> None:
        """Release a lock."""
        conn.execute("SELECT pg_advisory_unlock(%s, %s)", (MASTER_LOCK, masterid))

    def poll(self, conn: psycopg.Connection[Any]) -> list[int]:
        """Find out who is connected, and return the ids of dead masters.  Raises psycopg.Error."""
        assert self._engine is not None
        # A master that takes its lock before this query receives all events sent from now on.
        locked = {row[0] for row in conn.execute(LOCKED, (MASTER_LOCK,))} - {self.masterid}
        try:
            with self._engine.connect() as sa_conn:
                suspects = self._suspects(sa_conn, self.masterid)
        except sa.exc.DBAPIError as error:
            raise error.orig or error from None
        self.is_alone = not locked and not suspects
        present = locked.union(suspects)  # one that lost its lock but did not stop may come back
        self.departed, self._present = self._present - present, present
        now = time.monotonic()
        free = [masterid for masterid in suspects if masterid not in locked]
        self._free_since = {each: self._free_since.get(each, now) for each in free}
        if now - self._connected_at < self.grace_s:
            return []
        return [each for each, since in self._free_since.items() if now - since >= CONFIRM_S]

    def check_own(self, conn: psycopg.Connection[Any]) -> None:
        """Raise TakenOver if another master found this one dead."""
        row = conn.execute(TAKEN_OVER_BY, (self.startid,)).fetchone()
        if row is not None:
            raise taken_over(self.name, row[0])

    def end_connections(self, conn: psycopg.Connection[Any], masterid: int) -> None:
        """End the connections of a dead master, so that nobody has to wait for its transactions."""
        conn.execute(END_CONNECTIONS, (application_name(masterid),))


def require_lock(conn: sa.engine.Connection, masterid: int, holder: int) -> None:
    """Raise NotOurs unless the server's process `holder` holds the lock of a master."""
    query = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted"
    query += " AND classid = :class AND objid = :masterid AND pid = :holder"
    values = {"class": MASTER_LOCK, "masterid": masterid, "holder": holder}
    if conn.execute(sa.text(query), values).first() is None:
        raise NotOurs


def running(conn: sa.engine.Connection) -> list[str]:
    """Return the names of the masters that are alive, sorted."""
    locked = [masterid for (masterid,) in conn.exec_driver_sql(LOCKED, (MASTER_LOCK,))]
    query = sa.select(Model.masters.c.name).where(Model.masters.c.id.in_(locked))
    return sorted(conn.execute(query).scalars()) if locked else []


def fence(conn: sa.engine.Connection, startid: int) -> None:
    """Raise TakenOver if another master found this start of a master dead.

    Call it in the first transaction on each connection.  The master that takes over writes to the
    row, then ends the connections of the dead one, and commits after it has read what these left
    behind; until then a new connection waits here.
    """
    starts = tables.starts
    query = sa.select(starts.c.taken_over_at, starts.c.taken_over_by, starts.c.master)
    row = conn.execute(query.where(starts.c.id == startid).with_for_update(read=True)).one()
    if row.taken_over_at is not None:
        raise taken_over(row.master, row.taken_over_by)


def taken_over(name: str, by: str) -> TakenOver:
    """Return the error that tells the user of the master `name`."""
    return TakenOver(
        f"the master {name} lost its connection to the database for so long that {by} found it"
        " dead and has taken over its builds",
        "litebot start BASEDIR",
    )
