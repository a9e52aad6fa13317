"""Claims in tables: the first master that inserts a row has what the row is about."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def claim(conn: sa.engine.Connection, claims: sa.Table, **row: Any) -> bool:
    """Insert a row into a table on Postgres; return False if there is one with its key already.

    Waits for the end of a transaction that inserts a row with the same key.  Commits nothing.
    """
    from sqlalchemy.dialects.postgresql import insert as insert_into  # SQLite needs no 1.6 MB

    insert = insert_into(claims).values(row).on_conflict_do_nothing()
    return conn.execute(insert.returning(claims)).first() is not None
