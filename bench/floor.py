"""How fast litebot's own statements are in plain apsw: how far there is to go.

The statements of a full load are recorded with their values, and run once more on a copy of the
file as it was before, in transactions of GROUP builds, with nothing else around them.
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
# What makes transactions of them, which the second run does in its own way.
BOUNDS = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "ROLLBACK")


def copy(handle: apsw.Connection, target: Path) -> None:
    """A copy of the database of `handle`, to which nobody writes meanwhile."""
    with apsw.Connection(str(target)) as new, new.backup("main", handle, "main") as backup:
        backup.step(-1)


@contextmanager
def recorded(handle: apsw.Connection, statements: list[Statement]) -> Any:
    """Append to `statements` all that is run on `handle` meanwhile."""

    def note(_cursor: apsw.Cursor, sql: str, values: Any) -> bool:
        if not sql.startswith(BOUNDS):
            statements.append((sql, values))
        return True

    handle.exec_trace = note
    try:
        yield
    finally:
        handle.exec_trace = None


def run_again(path: Path, statements: list[Statement], builds: int) -> float:
    """Seconds of CPU; `path` is as it was before the first of them."""
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
