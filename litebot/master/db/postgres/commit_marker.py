"""Tells after a loss whether a transaction was committed: by a number that it has left in a row.

The server's own number of a transaction does not tell: one that is not on disk when the server
crashes is given to the next transaction, whoever commits that.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.errors import UndefinedTable
from psycopg.pq.abc import PGresult

# Of a transaction that has left none, as the table is missing: one that may make it.
NONE = 0

LOOK = b"BEGIN; SELECT to_regclass('litebot_writers') IS NOT NULL"
# No writer is in doubt for so long: others would have taken over from its master long before.
FORGET = b"""
DELETE FROM litebot_writers WHERE id IN (
    SELECT id FROM litebot_writers WHERE begun_at < extract(epoch FROM now()) - 7 * 86400
    FOR UPDATE SKIP LOCKED
);
"""
NOTE = b"""
INSERT INTO litebot_writers (id, number, begun_at) VALUES ('%s', %d, extract(epoch FROM now()))
ON CONFLICT (id) DO UPDATE SET number = excluded.number, begun_at = excluded.begun_at
"""
FIND = "SELECT number FROM litebot_writers WHERE id = %s"


class CommitMarkers:
    """Numbers the transactions of one writer, on whichever connection, one after the other."""

    def __init__(self) -> None:
        self._id = secrets.token_hex(8)
        self._last = NONE
        self._has_table = False

    def begin(self, say: Callable[[bytes], PGresult]) -> int:
        """Begin a transaction that leaves its number, or NONE.  Raises psycopg.Error."""
        has_table, self._has_table = self._has_table, False
        if has_table:
            before = b"BEGIN;"
        elif say(LOOK).get_value(0, 0) == b"t":
            before = FORGET
        else:
            return NONE
        self._last += 1
        say(before + NOTE % (self._id.encode(), self._last))
        self._has_table = True
        return self._last

    def was_committed(self, number: int, conn: psycopg.Connection[Any]) -> bool:
        """Whether the last one was, as its connection has ended.  Raises psycopg.Error."""
        try:
            return conn.execute(FIND, (self._id,)).fetchone() == (number,)
        except UndefinedTable:
            return False  # an older copy is in the place of the database
