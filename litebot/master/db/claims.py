"""Tables that say which master has something: the first that inserts the row has it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def claim(conn: sa.engine.Connection, claims: sa.Table, **row: Any) -> bool:
    """Insert a row into a table of a Postgres, unless there is one with its key; whether it was.

    Waits for the end of a transaction that inserts one with the same key.  Commits nothing.
    """
    from sqlalchemy.dialects.postgresql import insert as insert_into  # SQLite needs no 1.6 MB

    insert = insert_into(claims).values(row).on_conflict_do_nothing()
    return conn.execute(insert.returning(claims)).first() is not None
