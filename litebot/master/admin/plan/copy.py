"""What `litebot copy-db` would do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import closing
from dataclasses import dataclass
from dataclasses import replace

from litebot.basedir import Basedir
from litebot.files import refuse_unwritable
from litebot.master.admin.copy import NEED
from litebot.master.admin.copy import copied_tables
from litebot.master.admin.copy import holds_unfinished
from litebot.master.admin.copy import open_target
from litebot.master.admin.move.copying import open_side
from litebot.master.admin.move.side import Side
from litebot.master.admin.move.sqlite_side import SqliteSide
from litebot.master.admin.move.tables import Moved
from litebot.master.admin.move.unsuited import refuse_unsuited
from litebot.master.db.urls import settings_url
from litebot.settings import Database
from litebot.settings import load


@dataclass(frozen=True)
class Plan:
    """How many rows, of how many tables, would be copied to `target`.

    `made` says that the target is a file that does not exist yet, `wiped` that what an interrupted
    copy has left in it would be removed first.  `left_out` maps tables to the number of rows that
    would be left out, and `references` maps columns to the number of rows that would be copied
    without their value: all these refer to rows that do not exist.  `size_bytes` is the size of the
    source if it is a state file, and None on a server.
    """

    target: str
    made: bool
    wiped: bool
    rows: int
    tables: int
    left_out: dict[str, int]
    references: dict[str, int]
    size_bytes: int | None


def plan(files: Basedir, destination: str, *, skip_orphans: bool) -> Plan:
    """Return what would be done.  Raises what the command would raise, as while a master runs."""
    files.require()
    files.refuse_owner(NEED)
    url = settings_url(destination, files.path)
    here = load(files.settings_file).database.url
    tables = copied_tables(skip_orphans=skip_orphans)
    with ExitStack() as sides:
        source = sides.enter_context(
            closing(open_side(here, files.path, target=False, dry_run=True))
        )
        source.require_current(files.quoted)
        path = Database(url).sqlite_path(files.path)
        made, wiped, name = path is not None and not path.exists(), False, str(path)
        if path is not None and made:
            refuse_unwritable(path)
        else:
            target = sides.enter_context(
                closing(open_target(destination, url, files.path, dry_run=True))
            )
            name, wiped = target.name, holds_unfinished(target, source, files)
        source.take_snapshot()
        if isinstance(source, SqliteSide) and path is None:
            refuse_unsuited(source, tables, files.quoted, references=not skip_orphans)
        copied = {table.name: source.count(table) for table in tables}
        whole = {table.name: source.count(table) for table in copied_tables(skip_orphans=False)}
        return Plan(
            name,
            made,
            wiped,
            sum(copied.values()),
            len(tables),
            {table: rows - copied[table] for table, rows in whole.items() if rows > copied[table]},
            dict(_references(source, tables)),
            source.path.stat().st_size if isinstance(source, SqliteSide) else None,
        )


def _references(source: Side, tables: list[Moved]) -> Iterator[tuple[str, int]]:
    """Yield each column whose value some rows would be copied without, and how many rows."""
    for table in tables:
        for column, condition in table.kept_if.items():
            # Where the column is NULL, the condition holds.
            left_out = replace(table, wanted=f"{table.wanted} AND NOT {condition}")
            if rows := source.count(left_out):
                yield f"{table.name}.{column}", rows
