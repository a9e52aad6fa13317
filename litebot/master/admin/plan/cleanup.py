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
    """Some logs as they are stored: how many, in how many chunks, of how many bytes."""

    logs: int
    chunks: int
    size_bytes: int


@dataclass(frozen=True)
class Plan:
    """What would be done to the database `name`, which has `size_bytes`.

    Of its `logs` some would be stored anew: as they are `before` and would be `after` that.  A file
    is `rewritten` whole, or gives `free_bytes` back beside those that this frees.  Of a server's
    database, which cleans up by itself, nobody knows the latter.
    """

    name: str
    size_bytes: int
    logs: int
    before: Logs
    after: Logs
    rewritten: bool = False
    free_bytes: int | None = None


def plan(files: Basedir, progress: Progress, *, force: bool) -> Plan:
    """Look at the database of a basedir whose master is stopped.

    Compresses the logs as the command does, in memory, so it takes as long.  Runs the reactor.
    Raises what the command would raise.
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
    """Compress a copy in memory of each log, one at a time."""
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
    """The logs that have anything to be joined, or with `force` anything at all."""
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
    """The sizes of all chunks, which are gone then."""
    sizes = [len(content) for content in memory.execute(sa.select(chunks.c.content)).scalars()]
    memory.execute(chunks.delete())
    memory.commit()
    return sizes


def _sum(sizes: list[list[int]]) -> Logs:
    return Logs(len(sizes), sum(map(len, sizes)), sum(map(sum, sizes)))
