"""What `litebot move-database` would do."""

from __future__ import annotations

from contextlib import ExitStack
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from litebot.basedir import Basedir
from litebot.files import refuse_unwritable
from litebot.master.admin.move.copying import open_side
from litebot.master.admin.move.move import NEED
from litebot.master.admin.move.move import begun_by
from litebot.master.admin.move.move import is_as_it_was
from litebot.master.admin.move.move import judge
from litebot.master.admin.move.move import refuse_moved
from litebot.master.admin.move.sqlite_side import SqliteSide
from litebot.master.admin.move.tables import all_tables
from litebot.master.admin.move.unsuited import refuse_unsuited
from litebot.master.db.move_into import Unfinished
from litebot.settings import Database
from litebot.settings import load


@dataclass(frozen=True)
class Plan:
    """What would be moved from `source` to `target`.

    `resumed` rows are in the target already, from an unfinished attempt that would be continued.
    `wiped` says that what an attempt has left would be removed first.  `ends` says that an earlier
    attempt has moved everything and only has to be finished, and `put_aside` whether the old
    database would be put aside.  `made` says that the target is a file that does not exist yet.
    `size_bytes` is the size of the source if it is a state file, and None on a server.
    """

    source: str
    target: str
    rows: int = 0
    tables: int = 0
    resumed: int = 0
    wiped: bool = False
    ends: bool = False
    put_aside: bool = True
    made: bool = False
    size_bytes: int | None = None


def plan(files: Basedir, url: str) -> Plan:
    """Return what would be done.  Raises what the command would raise, as while a master runs."""
    files.require()
    files.refuse_owner(NEED)
    files.require_writable()
    settings = load(files.settings_file)
    path = Database(url).sqlite_path(files.path)
    absolute = url if path is None else f"sqlite:///{path}"
    with ExitStack() as sides:
        here = settings.database.url
        source = sides.enter_context(
            closing(open_side(here, files.path, target=False, dry_run=True))
        )
        source.refuse_users()
        source.require_current(files.quoted)
        made = path is not None and not path.exists()
        if path is not None and made:
            refuse_unwritable(path)
            target = None
        else:
            target = sides.enter_context(
                closing(open_side(url, files.path, target=True, dry_run=True))
            )
            if source.identity() == target.identity():
                begun = begun_by(target, files)
                aside = _is_there(begun, files)
                return Plan(begun.source, target.name, ends=True, put_aside=aside)
        refuse_moved(source, absolute, files.master_name)
        tables = all_tables()
        source.take_snapshot()
        new = Unfinished(source.name, source.mark(tables), files.master_name, absolute)
        goes_on, wiped = (None, False) if target is None else judge(target, new)
        if isinstance(source, SqliteSide) and goes_on is None and path is None:
            refuse_unsuited(source, tables, files.quoted)
        resumed = 0
        if target is not None and goes_on is not None:
            resumed = sum(target.count(table) for table in tables)
        return Plan(
            source.name,
            str(path) if target is None else target.name,
            rows=sum(source.count(table) for table in tables),
            tables=len(tables),
            resumed=resumed,
            wiped=wiped,
            made=made,
            size_bytes=source.path.stat().st_size if isinstance(source, SqliteSide) else None,
        )


def _is_there(begun: Unfinished, files: Basedir) -> bool:
    """Return whether the old database of a move to be finished still exists as it was moved."""
    path = Path(begun.source)
    if path.is_absolute() and not path.exists():
        return False
    old = f"sqlite:///{path}" if path.is_absolute() else begun.source
    with closing(open_side(old, files.path, target=False, dry_run=True)) as source:
        return is_as_it_was(source, begun)
