"""Deleting what is old a bounded piece at a time, so that nobody waits for a whole history.

Buildbot's janitor deletes all of it in one statement.  Source: deleteOldLogChunks of
buildbot/db/logs.py and deleteOldBuildData of buildbot/db/build_data.py
"""

from __future__ import annotations

from typing import Any

from litebot.store.sql import Sql

LOGS_A_PIECE = 500
CHUNKS_A_PIECE = 50  # of up to 64 KiB
BUILD_DATA_A_PIECE = 50


async def delete_log_chunks(db: Any, older_than: int) -> int:
    """Make the logs of steps that began before `older_than` deleted ones; how many chunks went.

    Also takes what an earlier, interrupted one has left.
    """
    deleted = 0
    last_step = await db.do_sql(_last_old_step, older_than)
    first, end = await db.do_sql(_range_of, "logs")
    while first <= end:
        logs = (first, first + LOGS_A_PIECE)
        # First the type, so that no page offers lines that are gone.
        await db.do_sql(_mark, logs, last_step)
        while piece := await db.do_sql(_delete_chunks, logs):
            deleted += piece
        first = logs[1]
    return deleted


async def delete_build_data(db: Any, older_than: int) -> int:
    """Delete the data of builds that were complete before `older_than`; how many rows went."""
    deleted = 0
    first, end = await db.do_sql(_range_of, "build_data")
    while first <= end:
        deleted += await db.do_sql(
            _delete_build_data, (first, first + BUILD_DATA_A_PIECE), older_than
        )
        first += BUILD_DATA_A_PIECE
    return deleted


def _range_of(sql: Sql, table: str) -> tuple[int, int]:
    """The first and the last id of a table; of an empty one (0, -1)."""
    row = sql.row(f"SELECT min(id), max(id) FROM {table}")
    return (0, -1) if row is None or row[0] is None else (row[0], row[1])


def _last_old_step(sql: Sql, older_than: int) -> int:
    # Steps are numbered in the order in which they begin.
    row = sql.row("SELECT id FROM steps WHERE started_at < ? ORDER BY id DESC LIMIT 1", older_than)
    return row[0] if row else 0


def _mark(sql: Sql, logs: tuple[int, int], last_step: int) -> int:
    return sql.write(
        "UPDATE logs SET type = 'd' WHERE id >= ? AND id < ? AND stepid <= ? AND type != 'd'",
        *logs,
        last_step,
    )


def _delete_chunks(sql: Sql, logs: tuple[int, int]) -> int:
    return sql.write(
        "DELETE FROM logchunks WHERE (logid, first_line) IN (SELECT c.logid, c.first_line"
        " FROM logs JOIN logchunks AS c ON c.logid = logs.id"
        " WHERE logs.id >= ? AND logs.id < ? AND logs.type = 'd' LIMIT ?)",
        *logs,
        CHUNKS_A_PIECE,
    )


def _delete_build_data(sql: Sql, rows: tuple[int, int], older_than: int) -> int:
    return sql.write(
        "DELETE FROM build_data WHERE id >= ? AND id < ? AND NOT EXISTS (SELECT 1 FROM builds"
        " WHERE builds.id = build_data.buildid"
        " AND (builds.complete_at >= ? OR builds.complete_at IS NULL))",
        *rows,
        older_than,
    )
