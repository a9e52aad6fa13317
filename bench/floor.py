"""Measures litebot's own SQL statements in plain apsw: the least CPU that a build could take.

The statements of a full load are recorded with their values.  They are then run again on a copy of
the file from before the load, in transactions of GROUP builds, without Buildbot around them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from litebot.store.connection import DURABILITY
from litebot.store.connection import MASTER
from litebot.store.connection import connect

Statement = tuple[str, Any]

GROUP = 32
# Statements that are not recorded, as the second run has its own transactions.
TRANSACTION_STATEMENTS = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "ROLLBACK")


def copy(handle: apsw.Connection, target: Path) -> None:
    """Copy the database of `handle` to `target`; nobody may write to it meanwhile."""
    with apsw.Connection(str(target)) as new, new.backup("main", handle, "main") as backup:
        backup.step(-1)


@contextmanager
def recorded(handle: apsw.Connection, statements: list[Statement]) -> Any:
    """Append every statement that runs on `handle` within the context to `statements`."""

    def record(_cursor: apsw.Cursor, sql: str, values: Any) -> bool:
        if not sql.startswith(TRANSACTION_STATEMENTS):
            statements.append((sql, values))
        return True

    handle.exec_trace = record
    try:
        yield
    finally:
        handle.exec_trace = None


def run_again(path: Path, statements: list[Statement], builds: int) -> float:
    """Run the statements of `builds` builds on a database and return the seconds of CPU.

    The database at `path` must be in the state from before the first statement.
    """
    db = connect(path, MASTER + DURABILITY["process"])
    group = max(1, len(statements) * GROUP // builds)
    execute: Callable[..., Any] = db.execute
    began = time.thread_time()
    for start in range(0, len(statements), group):
        execute("BEGIN IMMEDIATE")
        for sql, values in statements[start : start + group]:
            execute(sql, values).fetchall()
        execute("COMMIT")
    took_s = time.thread_time() - began
    db.close()
    return took_s
