"""Bringing a basedir up to date: one of an older litebot, or one of stock Buildbot."""

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
from litebot.settings import Settings
from litebot.settings import load
from litebot.settings import set_value

STOCK_IMPORT = re.compile(r"^from buildbot\.master import BuildMaster$", re.MULTILINE)
OUR_IMPORT = "from litebot.master.service import BuildMaster"


def upgrade(files: Basedir) -> Created:
    """Upgrade files and database of a basedir whose master is stopped.

    A basedir of stock Buildbot becomes one of litebot: its master.cfg stays as it is, its database
    stays where it is, buildbot.tac starts litebot (the old one is kept as buildbot.tac.stock).
    Other masters on the database have to be stopped, too.
    Raises MasterRunning, BasedirError, ConfigError, SettingsError and StoreError.
    """
    files.require()
    files.refuse_owner("the upgrade needs it stopped")
    files.require_writable()
    if not files.settings_file.exists():
        set_value(files.settings_file, "database.url", stock_database_url(files))
    state_file = load(files.settings_file).database.sqlite_path(files.path)
    if state_file is not None and not state_file.exists():
        raise BasedirError(
            f"{state_file} does not exist: there is nothing to upgrade",
            f"litebot create-master --force {files.quoted}",
        )
    if state_file is None:
        _refuse_masters(files)
    use_litebot(files.tac_file)
    created = create(files.path, force=True)
    with_database(files, _upgrade_tables)
    if state_file is not None:
        state_file.chmod(0o600)  # it holds the key of the login cookies
    return created


def _refuse_masters(files: Basedir) -> None:
    """Raise StoreError while another master runs on the tables, or where they were moved away."""
    url = load(files.settings_file).database.url
    name = postgres.shown(url)
    engine = postgres.engine_for(url, files.path)
    with postgres.translated_errors(url), engine.connect() as conn:
        move_away.refuse_others(conn, name, files.master_name)
        refuse_running(conn, name, files.master_name)


async def _upgrade_tables(db: Database) -> None:
    await db.model.upgrade()
    await db.pool.do(schema.upgrade)


def stock_database_url(files: Basedir) -> str:
    """The database of a basedir without litebot.toml, as litebot.toml names it.

    Raises ConfigError where it can't be told, or is none that litebot can use.
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
    """Make a buildbot.tac of stock Buildbot start litebot, on the folder that it lies in.

    One that does stays as it is.
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
    if changed == text:
        return
    with locked(tac.parent):
        if is_stock:
            replace_file(tac.with_name(tac.name + ".stock"), text, new_mode=0o644)
        replace_file(tac, changed, new_mode=0o644)
