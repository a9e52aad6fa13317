"""Making a database smaller, a bounded piece of work at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from collections.abc import Callable

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.basedir import Basedir
from litebot.master.database import Database
from litebot.master.db import schema
from litebot.settings import load
from litebot.store import dbapi

LOGS_A_READ = 1000
# 8 MiB: some 10 ms, and no more of the write-ahead log than a checkpoint takes in.
PAGES_A_PIECE = 2000
INCREMENTAL = 2

# Told how much of what is done: a description, pieces so far, and pieces in all.
Progress = Callable[[str, int, int], None]


async def clean_up(db: Database, files: Basedir, progress: Progress, *, force: bool) -> int:
    """Compress the logs, with `force` also those that are, and give free space back.

    Returns the bytes that compression saved.  Raises StoreError where there are no tables.
    """
    saved = done = 0
    await db.pool.do(schema.require, load(files.settings_file).database.url, files.quoted)
    total = await db.pool.do(_count_logs)
    async for logid in _log_ids(db):
        saved += await db.logs.compressLog(logid, force=force)
        done += 1
        progress("compressing logs", done, total)
    await _give_back(db, progress)
    return saved


def _count_logs(conn: sa.engine.Connection) -> int:
    return conn.execute(sa.select(sa.func.count()).select_from(Model.logs)).scalar() or 0


async def _log_ids(db: Database) -> AsyncIterator[int]:
    def after(conn: sa.engine.Connection, last: int) -> list[int]:
        ids = Model.logs.c.id
        query = sa.select(ids).where(ids > last).order_by(ids).limit(LOGS_A_READ)
        return list(conn.execute(query).scalars())

    last = 0
    while found := await db.pool.do(after, last):
        for logid in found:
            yield logid
        last = found[-1]


async def _give_back(db: Database, progress: Progress) -> None:
    if db.is_on_server:
        progress("vacuuming", 0, 1)
        await db.pool.do(vacuum)
        return
    if not await db.pool.do(shrinks_in_pieces):
        progress("rewriting the file", 0, 1)
        await db.pool.do(rewrite)
        return
    free = at_first = await db.pool.do(free_pages)
    while free:
        left = await db.pool.do(shrink, PAGES_A_PIECE)
        if left >= free:
            break  # the rest is in use again
        free = left
        progress("giving space back", at_first - free, at_first)


def shrinks_in_pieces(conn: sa.engine.Connection) -> bool:
    """Whether pages can leave the file in pieces: not where stock Buildbot has made it."""
    return conn.exec_driver_sql("PRAGMA auto_vacuum").scalar() == INCREMENTAL


def rewrite(conn: sa.engine.Connection) -> None:
    """Write the whole file anew; it can shrink in pieces from then on."""
    conn.execution_options(isolation_level="AUTOCOMMIT")
    conn.exec_driver_sql("PRAGMA auto_vacuum = INCREMENTAL").close()
    conn.exec_driver_sql("VACUUM").close()
    conn.close()


def vacuum(conn: sa.engine.Connection) -> None:
    """On a server: use anew the space of what was deleted; masters on it may go on meanwhile."""
    conn.execution_options(isolation_level="AUTOCOMMIT")
    conn.exec_driver_sql("VACUUM").close()
    conn.close()


def free_pages(conn: sa.engine.Connection) -> int:
    """How many pages of the file hold nothing."""
    return conn.exec_driver_sql("PRAGMA freelist_count").scalar() or 0


def shrink(conn: sa.engine.Connection, pages: int) -> int:
    """Take at most so many free pages from the file; returns how many there still are."""
    own = conn.connection.dbapi_connection
    assert isinstance(own, dbapi.Connection)
    # SQLite frees a page each time it is asked for the next row, and the rows have no columns.
    own.handle.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
    return free_pages(conn)
