"""Copies all rows from one side to another, for `copy-db` and for `move-database`."""

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

# Called with a description of the work, the rows or indexes done so far, and their total.
Progress = Callable[[str, int, int], None]

# The batches in one transaction: an interruption undoes no more than these.
BATCHES = 10

COPYING, INDEXES = "copying rows", "making indexes"


def open_side(url: str, basedir: Path, *, target: bool, dry_run: bool = False) -> Side:
    """Open a database by its url in the form of litebot.toml.  Raises StoreError.

    In a `dry_run` it is only read, and a state file must exist.
    """
    path = Database(url).sqlite_path(basedir)
    if path is not None:
        return SqliteSide(path, target=target, dry_run=dry_run)
    return PostgresSide(url, basedir)


def copy_rows(source: Side, target: Side, tables: list[Moved], progress: Progress) -> int:
    """Copy the rows that the target lacks; return how many it had already."""
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
            # The target gets an iterator, so it works on some rows while more are read.
            target.write(table, counted(chain([first], islice(batches, BATCHES - 1))))
    return resumed


def complete(target: Side, tables: list[Moved], later: tuple[str, ...], progress: Progress) -> None:
    """Create the indexes and references that were left out, in one transaction.

    `later` holds the statements.  It is empty if this was done before; then this does nothing.
    """
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
