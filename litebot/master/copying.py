"""Copying a basedir's database to wherever a url says: `litebot copy-db`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.errors import StoreError
from litebot.master import postgres
from litebot.master import schema
from litebot.master.copy import copy
from litebot.master.copy import refuse_full
from litebot.master.database import create_file
from litebot.master.moving.sqlite import SqliteSide
from litebot.master.moving.tables import all_tables
from litebot.master.moving.unsuited import refuse_unsuited
from litebot.master.urls import sqlite_path
from litebot.settings import load
from litebot.store.dialect import engine_for


def copy_database(
    files: Basedir,
    destination: str,
    progress: Callable[[str, int], None],
    *,
    skip_orphans: bool,
) -> tuple[int, str]:
    """Copy into an empty database; how many rows, and its url as it may be shown.

    Raises LitebotError for what can't be copied, or not to there.
    """
    url = parsed(destination)
    here = sa.engine.make_url(load(files.settings_file).database.url)
    source = engine_of(here, files.path)
    name = shown(here, files.path)
    with source.connect() as reading:
        schema.require_current(reading, name, files.quoted)
    refuse_values(files, url, skip_orphans=skip_orphans)
    target = engine_of(url, files.path, make=True)
    if source.url == target.url:
        raise itself(destination, files)
    with source.connect() as reading, target.connect() as writing:
        refuse_full(writing, url.render_as_string())
        rows = copy(reading, writing, progress, skip_orphans=skip_orphans)
    return rows, url.render_as_string()


def parsed(destination: str) -> sa.engine.URL:
    """The url of a database, wherever that is."""
    try:
        return sa.engine.make_url(destination)
    except sa.exc.ArgumentError:
        raise LitebotError(
            f"{destination!r} is not the url of a database",
            "sqlite:////ABSOLUTE/FILE or postgresql://USER@HOST/NAME",
        ) from None


def file_of(url: sa.engine.URL, basedir: Path) -> Path | None:
    """The file that a url names, if it names one."""
    return sqlite_path(url, basedir) if url.get_backend_name() == "sqlite" else None


def shown(url: sa.engine.URL, basedir: Path) -> str:
    """What a database is called in messages."""
    return str(file_of(url, basedir) or url.render_as_string())


def engine_of(url: sa.engine.URL, basedir: Path, *, make: bool = False) -> sa.Engine:
    """An engine for a database; with `make` a file that is missing is made."""
    if url.drivername == "postgresql":  # as litebot.toml names it
        return postgres.engine_for(url, basedir)
    path = file_of(url, basedir)
    if path is not None:
        if make and not path.exists():
            create_file(path)
        return engine_for(path)
    try:
        return sa.create_engine(url)
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        raise LitebotError(f"{url.render_as_string()} needs a driver: {error}") from error


def itself(destination: str, files: Basedir) -> StoreError:
    """What to tell where a database is to be copied onto itself."""
    return StoreError(f"{destination} is the database of {files.path} itself", "name another one")


def refuse_values(
    files: Basedir, url: sa.engine.URL, *, skip_orphans: bool, stopped: bool = False
) -> None:
    """Raise StoreError where a state file holds what a Postgres at `url` can't take."""
    path = load(files.settings_file).database.sqlite_path(files.path)
    if path is None or url.get_backend_name() != "postgresql":
        return
    with closing(SqliteSide(path, target=False, looks=stopped)) as side:
        refuse_unsuited(side, all_tables(), files.quoted, references=not skip_orphans)
