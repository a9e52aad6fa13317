"""Copies the database of a basedir into an empty one, of the same kind or of another."""

from __future__ import annotations

from contextlib import closing
from contextlib import suppress
from pathlib import Path

from litebot.basedir import Basedir
from litebot.basedir import OwnerLock
from litebot.errors import StoreError
from litebot.master.admin.move import unfinished
from litebot.master.admin.move.compare import compare_all
from litebot.master.admin.move.copying import Progress
from litebot.master.admin.move.copying import complete
from litebot.master.admin.move.copying import copy_rows
from litebot.master.admin.move.copying import open_side
from litebot.master.admin.move.postgres_side import PostgresSide
from litebot.master.admin.move.side import Side
from litebot.master.admin.move.sqlite_side import SqliteSide
from litebot.master.admin.move.tables import Moved
from litebot.master.admin.move.tables import all_tables
from litebot.master.admin.move.tables import without_orphans
from litebot.master.admin.move.unsuited import refuse_unsuited
from litebot.master.db.move_into import COPY
from litebot.master.db.move_into import Unfinished
from litebot.master.db.urls import parsed
from litebot.master.db.urls import settings_url
from litebot.settings import load

NEED = "a copy needs it stopped"


def copy(
    files: Basedir, destination: str, progress: Progress, *, skip_orphans: bool
) -> tuple[int, str]:
    """Copy every row of the database of a basedir whose master is stopped.

    Returns the number of rows and the name of the target.  `destination` is a url of SQLAlchemy's;
    a file in it is relative to the basedir.  The source is copied as it is at the beginning,
    whatever is written to it meanwhile.  The target must hold no table, except those that an
    interrupted copy of this source left.  It gets all rows or none, and is compared with the
    source.  With `skip_orphans`, rows that refer to a row that does not exist are left out, and so
    are rows that refer to those.

    Raises MasterRunning, BasedirError and SettingsError for the basedir, ConfigError if
    `destination` is no url that litebot supports, StoreError if the source or the target can't be
    used, and Difference if the copy is not equal.
    """
    files.require()
    files.refuse_owner(NEED)
    tables = copied_tables(skip_orphans=skip_orphans)
    url = settings_url(destination, files.path)
    lock = OwnerLock(files)
    try:
        here = load(files.settings_file).database.url
        with closing(open_side(here, files.path, target=False)) as source:
            source.require_current(files.quoted)
            with closing(open_target(destination, url, files.path)) as target:
                if holds_unfinished(target, source, files):
                    target.wipe(tables)
                source.take_snapshot()
                if isinstance(source, SqliteSide) and isinstance(target, PostgresSide):
                    refuse_unsuited(source, tables, files.quoted, references=not skip_orphans)
                new = Unfinished(source.name, "", files.master_name, url, COPY)
                return _copy(source, target, new, tables, progress), target.name
    finally:
        lock.release()


def copied_tables(*, skip_orphans: bool) -> list[Moved]:
    """Return all tables, with `skip_orphans` without rows that refer to one that does not exist."""
    tables = all_tables()
    return [without_orphans(table) for table in tables] if skip_orphans else tables


def open_target(destination: str, url: str, basedir: Path, *, dry_run: bool = False) -> Side:
    """Open the database `destination`, whose url in the form of litebot.toml is `url`.

    Raises StoreError.
    """
    given = parsed(destination)
    if given.get_backend_name() == "postgresql":
        return PostgresSide(given, basedir)  # unlike `url`, it may hold a password
    return open_side(url, basedir, target=True, dry_run=dry_run)


def holds_unfinished(target: Side, source: Side, files: Basedir) -> bool:
    """Return whether an interrupted copy of `source` has left something that must be wiped.

    Raises StoreError if the target is the source, or holds anything else.
    """
    if source.identity() == target.identity():
        raise StoreError(
            f"{target.name} is the database of {files.path} itself", "name another one"
        )
    begun = unfinished.found(target)
    if begun is None:
        return False
    if begun.state != COPY or begun.source != source.name:
        raise begun.refusal(target.name)
    return True


def _copy(
    source: Side, target: Side, new: Unfinished, tables: list[Moved], progress: Progress
) -> int:
    try:
        begun = unfinished.begin(target, new, tables)
        copy_rows(source, target, tables, progress)
        complete(target, tables, begun.later, progress)
        rows, _ = compare_all(source, target, tables, progress)
        target.sync()
        unfinished.forget(target)
    except BaseException:
        with suppress(StoreError):
            target.wipe(tables)
        raise
    return rows
