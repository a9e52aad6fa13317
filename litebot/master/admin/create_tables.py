"""Creates a master's tables in a database on a server, completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from litebot.errors import StoreError
from litebot.master.cluster.checks import refuse_two_sites
from litebot.master.db import move_away
from litebot.master.db import postgres
from litebot.master.db import schema
from litebot.master.db import tables
from litebot.master.db.move_into import record


@contextmanager
def tables_made(url: str, basedir: Path, *, must_be_empty: bool) -> Iterator[bool]:
    """Create the tables of a master, and commit them if the `with` body succeeds.

    Yields whether they are created: a database that holds any table is left as it is, or refused
    with `must_be_empty`.  Raises StoreError if the database can't be used.
    """
    engine = postgres.engine_for(url, basedir)
    try:
        with postgres.translated_errors(url):
            conn = engine.connect()
        try:
            with postgres.translated_errors(url):
                encoding = conn.exec_driver_sql("SHOW server_encoding").scalar_one()
                postgres.refuse_encoding(encoding, postgres.shown(url))
                schema.lock(conn)
                refuse_two_sites(conn, postgres.shown(url))
                there = set(sa.inspect(conn).get_table_names())
                if there and must_be_empty:
                    move_away.refuse(conn, postgres.shown(url))
                    raise _in_use(there, postgres.shown(url))
                if not there:
                    schema.make(conn)
            yield not there
            with postgres.translated_errors(url):
                conn.commit()
        finally:
            conn.close()
    finally:
        engine.dispose()


def _in_use(present: set[str], name: str) -> StoreError:
    """Return the error for a database that should be empty but holds the tables `present`."""
    if record.name in present:
        return StoreError(
            f"{name} holds an unfinished move of a database", "finish that, or name another one"
        )
    if tables.versions.name in present:
        return StoreError(
            f"{name} holds the tables of a master already, which another one may join",
            f"litebot create-master --join '{name}' BASEDIR",
        )
    if "alembic_version" in present:
        return StoreError(
            f"{name} holds the tables of a stock Buildbot",
            "make its basedir one of litebot: litebot upgrade-master BASEDIR",
        )
    first = sorted(present)[0]
    return StoreError(
        f"{name} holds tables ({first}{', ...' if len(present) > 1 else ''}); a new master needs an"
        " empty database",
        postgres.CREATE_EMPTY,
    )
