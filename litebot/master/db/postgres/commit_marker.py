"""Commit markers show, after the connection was lost, whether a transaction was committed.

A marker is a number that each transaction writes to a row of its writer.  The server's own
transaction ids can't serve for this: an id that is not on disk when the server crashes is given to
a later transaction, whoever commits that.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.errors import UndefinedTable
from psycopg.pq.abc import PGresult

# The marker of a transaction that has written none, because the table is missing.  That may be the
# transaction which creates it.
NO_MARKER = 0

BEGIN_AND_CHECK_TABLE = b"BEGIN; SELECT to_regclass('litebot_writers') IS NOT NULL"
# No writer needs its marker for so long: other masters would have taken over long before.
DELETE_OLD = b"""
DELETE FROM litebot_writers WHERE id IN (
    SELECT id FROM litebot_writers WHERE begun_at < extract(epoch FROM now()) - 7 * 86400
    FOR UPDATE SKIP LOCKED
);
"""
WRITE_MARKER = b"""
INSERT INTO litebot_writers (id, number, begun_at) VALUES ('%s', %d, extract(epoch FROM now()))
ON CONFLICT (id) DO UPDATE SET number = excluded.number, begun_at = excluded.begun_at
"""
READ_MARKER = "SELECT number FROM litebot_writers WHERE id = %s"


class CommitMarkers:
    """Numbers the transactions of one writer consecutively, on whichever connection they run."""

    def __init__(self) -> None:
        self._id = secrets.token_hex(8)
        self._last = NO_MARKER
        self._has_table = False

    def begin(self, execute: Callable[[bytes], PGresult]) -> int:
        """Begin a transaction, write its marker and return it, or NO_MARKER if there is no table.

        Raises psycopg.Error.
        """
        has_table, self._has_table = self._has_table, False
        if has_table:
            before = b"BEGIN;"
        elif execute(BEGIN_AND_CHECK_TABLE).get_value(0, 0) == b"t":
            before = DELETE_OLD
        else:
            return NO_MARKER
        self._last += 1
        execute(before + WRITE_MARKER % (self._id.encode(), self._last))
        self._has_table = True
        return self._last

    def was_committed(self, marker: int, conn: psycopg.Connection[Any]) -> bool:
        """Whether the last transaction was committed; its connection must have ended.

        Raises psycopg.Error.
        """
        try:
            return conn.execute(READ_MARKER, (self._id,)).fetchone() == (marker,)
        except UndefinedTable:
            return False  # the database was replaced by an older copy
