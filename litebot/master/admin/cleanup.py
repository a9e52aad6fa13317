"""Makes a database smaller: compresses its logs, one at a time, and gives free space back.

Space is given back in bounded pieces, except on a server and in a file that must be rewritten.
"""

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
# 8 MiB: about 10 ms of work, and no more of the write-ahead log than one checkpoint copies.
PAGES_A_PIECE = 2000
INCREMENTAL = 2

# Called with a description of the work, the pieces done so far, and the pieces in all.
Progress = Callable[[str, int, int], None]


async def clean_up(db: Database, files: Basedir, progress: Progress, *, force: bool) -> int:
    """Compress the logs, with `force` also compressed ones again, and give free space back.

    Returns the bytes that compression saved; with `force` they may be negative.  Raises StoreError
    if the database has no tables of Buildbot.
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
            break  # no page could be removed, so neither can the rest
        free = left
        progress("giving space back", at_first - free, at_first)


def shrinks_in_pieces(conn: sa.engine.Connection) -> bool:
    """Return whether the file can shrink in pieces; one that stock Buildbot created can't."""
    return conn.exec_driver_sql("PRAGMA auto_vacuum").scalar() == INCREMENTAL


def rewrite(conn: sa.engine.Connection) -> None:
    """Rewrite the whole file, which can shrink in pieces from then on."""
    conn.execution_options(isolation_level="AUTOCOMMIT")
    conn.exec_driver_sql("PRAGMA auto_vacuum = INCREMENTAL").close()
    conn.exec_driver_sql("VACUUM").close()
    conn.close()


def vacuum(conn: sa.engine.Connection) -> None:
    """Let a server reuse the space of deleted rows; other masters on it may run meanwhile."""
    conn.execution_options(isolation_level="AUTOCOMMIT")
    conn.exec_driver_sql("VACUUM").close()
    conn.close()


def free_pages(conn: sa.engine.Connection) -> int:
    """Return how many pages of the file are free."""
    return conn.exec_driver_sql("PRAGMA freelist_count").scalar() or 0


def shrink(conn: sa.engine.Connection, pages: int) -> int:
    """Remove at most `pages` free pages from the file; return how many are still free."""
    own = conn.connection.dbapi_connection
    assert isinstance(own, dbapi.Connection)
    # SQLite frees one page for each row that is fetched; the rows have no columns.
    own.handle.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
    return free_pages(conn)
