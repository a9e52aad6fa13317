"""Copying all rows from one side to another: what `copy-db` and `move-database` do alike."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from itertools import chain
from itertools import islice
from pathlib import Path

from litebot.master.admin.move import unfinished
from litebot.master.admin.move.postgres_side import PostgresSide
from litebot.master.admin.move.side import Side
from litebot.master.admin.move.sqlite_side import SqliteSide
from litebot.master.admin.move.tables import Moved
from litebot.master.admin.move.tables import Row
from litebot.master.db import move_into
from litebot.settings import Database

# Told what goes on, how many rows or indexes of it are done, and how many there are.
Progress = Callable[[str, int, int], None]

# An interrupt costs at most what a transaction has: this many.
BATCHES = 10

COPYING, INDEXES = "copying rows", "making indexes"


def open_side(url: str, basedir: Path, *, target: bool, dry_run: bool = False) -> Side:
    """A database by its url as litebot.toml has it.  Raises StoreError.

    In a `dry_run` it is only read, and a state file has to exist.
    """
    path = Database(url).sqlite_path(basedir)
    if path is not None:
        return SqliteSide(path, target=target, dry_run=dry_run)
    return PostgresSide(url, basedir)


def copy_rows(source: Side, target: Side, tables: list[Moved], progress: Progress) -> int:
    """Copy what is not there yet; how many rows were."""
    there = {table.name: target.count(table) for table in tables}
    total = sum(source.count(table) for table in tables)
    done = resumed = sum(there.values())
    progress(COPYING, done, total)

    def counted(batches: Iterable[list[Row]]) -> Iterator[list[Row]]:
        nonlocal done
        for batch in batches:
            yield batch
            done += len(batch)
            progress(COPYING, done, total)

    for table in tables:
        batches = table.batches(source.rows(table, skip=there[table.name]))
        for first in batches:
            # The target works on these while more are read.
            target.write(table, counted(chain([first], islice(batches, BATCHES - 1))))
    return resumed


def complete(target: Side, tables: list[Moved], later: tuple[str, ...], progress: Progress) -> None:
    """Make what was left out, in one transaction; once is enough."""
    if not later:
        return
    with target.translated_errors(), target.engine.begin() as conn:
        for number, statement in enumerate(later):
            progress(INDEXES, number, len(later))
            unfinished.run(conn, statement)
        target.settle(conn, tables)
        conn.execute(move_into.record.update().values(later="[]"))
    progress(INDEXES, len(later), len(later))
    target.analyze()
