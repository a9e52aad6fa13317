"""A further master on the database of others: create-master --join."""

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
    """Raise StoreError where a database can't be reached or has no tables of a litebot master.

    Or where these were moved elsewhere.
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
    """What masters on one database have alike, as far as it is in this basedir.

    The configuration with the modules beside it, the users and the secrets.
    """
    modules = sorted(other.path.glob("*.py"))
    for path in (other.config_file, *modules, other.users_file, other.secrets):
        if path.exists() and path.is_relative_to(other.path):
            yield path


def copy(source: Path, target: Path) -> None:
    """A file, or a folder with all that is in it; with its mode."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        target.touch(mode=0o600)
        shutil.copyfile(source, target)
        target.chmod(source.stat().st_mode & 0o777)
        sync(target)


def settings_like(other: Basedir, target: Path, settings: Settings) -> None:
    """Another master's litebot.toml with the database and the ports of `settings`.

    A url of the page is that of the other one's.
    """
    copy(other.settings_file, target)
    set_value(target, "database.url", settings.database.url)
    set_value(target, "web.port", settings.web.port)
    set_value(target, "workers.port", settings.workers.port)
    if load(target).web.url:
        set_value(target, "web.url", "")
