"""What `litebot cleanupdb` would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from buildbot.config.master import MasterConfig
from buildbot.db.model import Model

from litebot.basedir import Basedir
from litebot.master.admin.cleanup import Progress
from litebot.master.admin.cleanup import free_pages
from litebot.master.admin.cleanup import shrinks_in_pieces
from litebot.master.admin.offline import inspected_database
from litebot.master.database import Database
from litebot.master.db import postgres
from litebot.master.db import schema
from litebot.master.runtime.reactor import run
from litebot.master.service import BuildMaster
from litebot.settings import load

logs, chunks = Model.logs, Model.logchunks


@dataclass(frozen=True)
class Logs:
    """The number of some logs, and of the chunks and bytes in which they are stored."""

    logs: int
    chunks: int
    size_bytes: int


@dataclass(frozen=True)
class Plan:
    """What would be done to the database `name`, which has `size_bytes`.

    Of its `logs` some would be compressed: `before` says how these are stored now, and `after` how
    they would be.  A file would be `rewritten` as a whole, or else shrink; `free_bytes` of it are
    free already, besides what compression frees.  `free_bytes` is None on a server, whose database
    manages its own space.
    """

    name: str
    size_bytes: int
    logs: int
    before: Logs
    after: Logs
    rewritten: bool = False
    free_bytes: int | None = None


def plan(files: Basedir, progress: Progress, *, force: bool) -> Plan:
    """Return what would be done to the database of a basedir whose master is stopped.

    Compresses the logs as the command does, but in memory, so it takes as long.  Runs the reactor,
    which a process can do only once.  Raises what the command would raise.
    """
    url = load(files.settings_file).database.url
    with inspected_database(files) as conn:
        schema.require(conn, url, files.quoted)
        count = conn.execute(sa.select(sa.func.count()).select_from(logs)).scalar() or 0
        before, after = run(lambda: _rehearse(conn, files, progress, force))
        if conn.dialect.name != "sqlite":
            size = conn.exec_driver_sql("SELECT pg_database_size(current_database())").scalar()
            return Plan(postgres.shown(url), size or 0, count, before, after)
        page_bytes, pages = (
            conn.exec_driver_sql(f"PRAGMA {name}").scalar() or 0
            for name in ("page_size", "page_count")
        )
        return Plan(
            str(load(files.settings_file).database.sqlite_path(files.path)),
            page_bytes * pages,
            count,
            before,
            after,
            not shrinks_in_pieces(conn),
            page_bytes * free_pages(conn),
        )


async def _rehearse(
    conn: sa.engine.Connection, files: Basedir, progress: Progress, force: bool
) -> tuple[Logs, Logs]:
    """Compress a copy of each log in memory, one at a time.

    Returns how the logs that this changes are stored before and after it.
    """
    config = MasterConfig()
    config.db.db_url = "sqlite://"
    master = BuildMaster(str(files.path))
    master.config = config
    db: Database = master.db
    changed: list[tuple[list[Any], list[Any]]] = []
    try:
        await db.setup(check_version=False, verbose=False)
        await db.startService()
        await db.pool.do(_make)
        ids = list(_candidates(conn, force))
        for done, logid in enumerate(ids):
            progress("compressing logs", done, len(ids))
            stored = conn.execute(sa.select(chunks).where(chunks.c.logid == logid)).mappings()
            rows = [dict(row) for row in stored]
            before = [len(row["content"]) for row in rows]
            await db.pool.do(_put, rows)
            await db.logs.compressLog(logid, force=force)
            after = await db.pool.do(_take)
            if force or len(after) != len(before):
                changed.append((before, after))
    finally:
        if db.pool is not None:
            await db.stopService()
    return _sum([b for b, _ in changed]), _sum([a for _, a in changed])


def _candidates(conn: sa.engine.Connection, force: bool) -> Iterator[int]:
    """Yield the ids of logs that have more than one chunk, or with `force` any chunk."""
    query = sa.select(chunks.c.logid).group_by(chunks.c.logid).order_by(chunks.c.logid)
    if not force:
        query = query.having(sa.func.count() > 1)
    yield from conn.execute(query).scalars()


def _make(memory: sa.engine.Connection) -> None:
    Model.metadata.create_all(memory, tables=[logs, chunks])
    memory.commit()


def _put(memory: sa.engine.Connection, rows: list[dict[str, Any]]) -> None:
    memory.execute(chunks.insert(), rows)
    memory.commit()


def _take(memory: sa.engine.Connection) -> list[int]:
    """Return the sizes of all chunks, and delete the chunks."""
    sizes = [len(content) for content in memory.execute(sa.select(chunks.c.content)).scalars()]
    memory.execute(chunks.delete())
    memory.commit()
    return sizes


def _sum(sizes: list[list[int]]) -> Logs:
    return Logs(len(sizes), sum(map(len, sizes)), sum(map(sum, sizes)))
