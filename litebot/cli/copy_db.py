"""litebot copy-db"""

from __future__ import annotations

import sys

import click

from litebot.basedir import Basedir
from litebot.basedir import OwnerLock
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import quiet_option
from litebot.errors import LitebotError


@example("litebot copy-db sqlite:///copy.sqlite ci")
@click.command()
@click.option(
    "--ignore-fk-error-rows",
    "skip_orphans",
    is_flag=True,
    help="Leave out rows that refer to one that does not exist.",
)
@quiet_option
@click.argument("destination_url")
@basedir_argument
def copy_db(destination_url: str, basedir: Basedir, skip_orphans: bool) -> None:
    """Copy the database of BASEDIR into an empty one; the master must be stopped.

    Only the copy is made: litebot.toml keeps its url.  A relative file lies in BASEDIR.
    """
    basedir.require()
    basedir.refuse_owner("a copy needs it stopped")
    lock = OwnerLock(basedir)
    try:
        _copy(destination_url, basedir, skip_orphans)
    finally:
        lock.release()


def _copy(destination_url: str, basedir: Basedir, skip_orphans: bool) -> None:
    import sqlalchemy as sa
    from rich.progress import Progress

    from litebot.master.admin.copy import copy
    from litebot.master.db import postgres
    from litebot.master.db.sqlite.state_file import create_file
    from litebot.master.db.urls import sqlite_path
    from litebot.settings import load
    from litebot.store.dialect import engine_for

    try:
        url = sa.engine.make_url(destination_url)
    except sa.exc.ArgumentError:
        raise LitebotError(
            f"{destination_url!r} is not the url of a database",
            "sqlite:////ABSOLUTE/FILE or postgresql://USER@HOST/NAME",
        ) from None

    def engine(url: sa.engine.URL) -> sa.Engine:
        path = sqlite_path(url, basedir.path) if url.get_backend_name() == "sqlite" else None
        if url.drivername == "postgresql":  # as litebot.toml names it
            return postgres.engine_for(url, basedir.path)
        if path is None:
            return sa.create_engine(url)
        if not path.exists():
            create_file(path)
        return engine_for(path)

    source = engine(sa.engine.make_url(load(basedir.settings_file).database.url))
    target = engine(url)
    if source.url == target.url:
        raise LitebotError(f"{destination_url} is the database of {basedir.path} itself")
    with Progress(disable=not sys.stderr.isatty(), transient=True) as bars:
        tasks = {}

        def progress(table: str, rows: int) -> None:
            if table not in tasks:
                tasks[table] = bars.add_task(table, total=None)
            bars.update(tasks[table], completed=rows)

        with source.connect() as reading, target.connect() as writing:
            rows = copy(reading, writing, progress, skip_orphans=skip_orphans)
    print(f"copied {rows} rows to {url.render_as_string()}")
