"""Adds a master to the database of other masters: create-master --join."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from litebot.basedir import Basedir
from litebot.errors import StoreError
from litebot.files import sync
from litebot.master.cluster.checks import refuse_strangers
from litebot.master.cluster.checks import refuse_two_sites
from litebot.master.db import move_away
from litebot.master.db import postgres
from litebot.master.db import tables
from litebot.master.db.move_into import record
from litebot.settings import Settings
from litebot.settings import load
from litebot.settings import set_value


def require_masters(url: str, basedir: Path) -> None:
    """Raise StoreError unless a further master can join the masters on a database.

    None can if the database can't be reached, has no tables of a litebot master, was moved away, or
    holds an unfinished move; if another schema in it holds a master's tables; or if this user and
    that of a running master can't end each other's connections.
    """
    engine = postgres.engine_for(url, basedir)
    name = postgres.shown(url)
    try:
        with postgres.translated_errors(url), engine.connect() as conn:
            present = set(sa.inspect(conn).get_table_names())
            refuse_two_sites(conn, name)
            refuse_strangers(conn, name)
            move_away.refuse(conn, name)
    finally:
        engine.dispose()
    if record.name in present:
        raise StoreError(
            f"{name} holds an unfinished move of a database", "finish that, and join then"
        )
    if tables.versions.name not in present:
        raise StoreError(
            f"{name} holds no master's tables, so there is nothing to join",
            f"litebot create-master --database '{name}' BASEDIR",
        )


def to_copy(other: Basedir) -> Iterator[Path]:
    """Yield the files that masters on one database have in common, if they are in this basedir.

    They are the configuration, the modules beside it, the users and the secrets.
    """
    modules = sorted(other.path.glob("*.py"))
    for path in (other.config_file, *modules, other.users_file, other.secrets):
        if path.exists() and path.is_relative_to(other.path):
            yield path


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder with everything in it, and its mode."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        target.touch(mode=0o600)
        shutil.copyfile(source, target)
        target.chmod(source.stat().st_mode & 0o777)
        sync(target)


def settings_like(other: Basedir, target: Path, settings: Settings) -> None:
    """Write another master's litebot.toml to `target`, with database and ports of `settings`.

    If it names a url of the web page, that is removed: it is the url of the other master's page.
    """
    copy(other.settings_file, target)
    set_value(target, "database.url", settings.database.url)
    set_value(target, "web.port", settings.web.port)
    set_value(target, "workers.port", settings.workers.port)
    if load(target).web.url:
        set_value(target, "web.url", "")
