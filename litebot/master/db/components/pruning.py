"""Deletes old rows in pieces of bounded size, so that no other work waits for a whole history.

Buildbot's janitor deletes all of them in one statement.  Source: deleteOldLogChunks of
buildbot/db/logs.py and deleteOldBuildData of buildbot/db/build_data.py
"""

from __future__ import annotations

from typing import Any

from litebot.store.sql import Sql

LOGS_A_PIECE = 500
CHUNKS_A_PIECE = 50  # a chunk has up to 64 KiB
BUILD_DATA_A_PIECE = 50


async def delete_log_chunks(db: Any, older_than: int) -> int:
    """Delete the chunks of logs whose steps began before `older_than`, in epoch seconds.

    Marks these logs as deleted, and returns how many chunks were deleted.  Also deletes what an
    earlier run left when it was interrupted.
    """
    deleted = 0
    last_step = await db.do_sql(_last_old_step, older_than)
    first, end = await db.do_sql(_range_of, "logs")
    while first <= end:
        logs = (first, first + LOGS_A_PIECE)
        # The logs are marked first, so that no page offers lines that are gone.
        await db.do_sql(_mark_deleted, logs, last_step)
        while piece := await db.do_sql(_delete_chunks, logs):
            deleted += piece
        first = logs[1]
    return deleted


async def delete_build_data(db: Any, older_than: int) -> int:
    """Delete the data of builds that were complete before `older_than`, in epoch seconds.

    Returns how many rows were deleted.
    """
    deleted = 0
    first, end = await db.do_sql(_range_of, "build_data")
    while first <= end:
        deleted += await db.do_sql(
            _delete_build_data, (first, first + BUILD_DATA_A_PIECE), older_than
        )
        first += BUILD_DATA_A_PIECE
    return deleted


def _range_of(sql: Sql, table: str) -> tuple[int, int]:
    """Return the lowest and the highest id of a table, or (0, -1) if it is empty."""
    row = sql.row(f"SELECT min(id), max(id) FROM {table}")
    return (0, -1) if row is None or row[0] is None else (row[0], row[1])


def _last_old_step(sql: Sql, older_than: int) -> int:
    # The ids of steps follow the order in which they begin.
    row = sql.row("SELECT id FROM steps WHERE started_at < ? ORDER BY id DESC LIMIT 1", older_than)
    return row[0] if row else 0


def _mark_deleted(sql: Sql, logs: tuple[int, int], last_step: int) -> int:
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
