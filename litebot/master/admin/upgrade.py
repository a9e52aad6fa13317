"""Upgrades a basedir of an older litebot or of stock Buildbot."""

from __future__ import annotations

import re
from contextlib import chdir
from pathlib import Path

from buildbot.config.errors import ConfigErrors

from litebot.basedir import NAMED_BASEDIR
from litebot.basedir import Basedir
from litebot.errors import BasedirError
from litebot.errors import ConfigError
from litebot.errors import LitebotError
from litebot.files import locked
from litebot.files import replace_file
from litebot.master.admin.create import Created
from litebot.master.admin.create import create
from litebot.master.admin.offline import with_database
from litebot.master.cluster.checks import refuse_running
from litebot.master.configuration.loader import execute
from litebot.master.database import Database
from litebot.master.db import move_away
from litebot.master.db import postgres
from litebot.master.db import schema
from litebot.master.db.urls import configured_url
from litebot.master.db.urls import url_without_password
from litebot.settings import Database as DatabaseSettings
from litebot.settings import Settings
from litebot.settings import load
from litebot.settings import set_value

NEED = "the upgrade needs it stopped"
STOCK_IMPORT = re.compile(r"^from buildbot\.master import BuildMaster$", re.MULTILINE)
OUR_IMPORT = "from litebot.master.service import BuildMaster"


def upgrade(files: Basedir) -> Created:
    """Upgrade the files and the database of a basedir whose master is stopped.

    A basedir of stock Buildbot becomes one of litebot: its master.cfg stays as it is, its database
    stays where it is, and buildbot.tac starts litebot (the old one is kept as buildbot.tac.stock).
    Other masters on the database must be stopped, too.

    Raises MasterRunning, BasedirError, ConfigError, SettingsError and StoreError, and LitebotError
    if buildbot.tac can't be changed.
    """
    files.require()
    files.refuse_owner(NEED)
    files.require_writable()
    if not files.settings_file.exists():
        set_value(files.settings_file, "database.url", stock_database_url(files))
    database = load(files.settings_file).database
    state_file = require_database(files, database)
    use_litebot(files.tac_file)
    created = create(files.path, force=True)
    with_database(files, lambda db: _upgrade_tables(db, shown(files, database)))
    if state_file is not None:
        state_file.chmod(0o600)  # it holds the key of the login cookies
    return created


def require_database(files: Basedir, database: DatabaseSettings) -> Path | None:
    """Return the state file, or None for a database on a server.

    Raises LitebotError if the database can't be upgraded: it does not exist, was moved away, or has
    another running master.
    """
    state_file = database.sqlite_path(files.path)
    if state_file is not None:
        if not state_file.exists():
            raise BasedirError(
                f"{state_file} does not exist: there is nothing to upgrade",
                f"litebot create-master --force {files.quoted}",
            )
        return state_file
    name = postgres.shown(database.url)
    engine = postgres.engine_for(database.url, files.path)
    with postgres.translated_errors(database.url), engine.connect() as conn:
        move_away.refuse_others(conn, name, files.master_name)
        refuse_running(conn, name, files.master_name)
    return None


def shown(files: Basedir, database: DatabaseSettings) -> str:
    """Return what messages call a database."""
    return str(database.sqlite_path(files.path) or postgres.shown(database.url))


async def _upgrade_tables(db: Database, name: str) -> None:
    await db.pool.do(schema.refuse_upgrade, name)
    await db.model.upgrade()
    await db.pool.do(schema.upgrade)


def stock_database_url(files: Basedir) -> str:
    """Return the url of the database of a basedir without litebot.toml, in litebot.toml's form.

    Raises ConfigError if master.cfg can't be loaded, or names a database that litebot can't use.
    """
    path = files.config_file
    try:
        with chdir(files.path):  # as a start does
            config = execute(path, files.path)
    except ConfigErrors as errors:
        raise ConfigError(
            f"{path} can't be loaded to see which database it uses: {errors}",
            f"litebot check-config {files.quoted}",
        ) from errors
    try:
        url = configured_url(config) or Settings().database.url  # Buildbot has the same default
        return url_without_password(url, files.path)
    except ConfigError as error:
        raise ConfigError(f"{path}: c['db']: {error.what}", error.hint) from error


def use_litebot(tac: Path) -> None:
    """Make a buildbot.tac start litebot on the folder that it is in.

    One of stock Buildbot is kept with the suffix .stock.  One that does so already stays as it is.
    Raises LitebotError if it can't be changed.
    """
    text, changed, is_stock = changed_tac(tac)
    if changed == text:
        return
    with locked(tac.parent):
        if is_stock:
            replace_file(tac.with_name(tac.name + ".stock"), text, new_mode=0o644)
        replace_file(tac, changed, new_mode=0o644)


def changed_tac(tac: Path) -> tuple[str, str, bool]:
    """Return the text of a buildbot.tac, the text it needs, and whether it is stock Buildbot's.

    Raises LitebotError if it is stock Buildbot's but does not import BuildMaster as Buildbot writes
    it.
    """
    text = tac.read_text(encoding="utf-8")
    is_stock = "litebot.master" not in text
    changed = NAMED_BASEDIR.sub("basedir = '.'", text)
    if is_stock:
        changed, count = STOCK_IMPORT.subn(OUR_IMPORT, changed)
        if count != 1:
            raise LitebotError(
                f"{tac} does not import BuildMaster from buildbot.master as Buildbot writes it",
                f"edit it to say: {OUR_IMPORT}",
            )
    return text, changed, is_stock
