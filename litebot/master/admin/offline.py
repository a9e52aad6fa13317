"""Opens the database of a basedir whose master is stopped, to work on it or to inspect it."""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import sqlalchemy as sa
from buildbot.config.master import MasterConfig

from litebot.basedir import Basedir
from litebot.basedir import OwnerLock
from litebot.errors import StoreError
from litebot.master.database import Database
from litebot.master.db import move_away
from litebot.master.db import postgres
from litebot.master.db.inspection import inspected
from litebot.master.runtime.reactor import run
from litebot.master.service import BuildMaster
from litebot.settings import Database as DatabaseSettings
from litebot.settings import load

NEED = "this needs it stopped"
T = TypeVar("T")


def with_database(files: Basedir, work: Callable[[Database], Awaitable[T]]) -> T:
    """Open the database as the master would, run `work` on it, and return its result.

    Owns the basedir meanwhile.  Runs the reactor, which a process can do only once.

    Raises MasterRunning if a master owns the basedir, BasedirError if this user should not write
    there, SettingsError, StoreError if the database can't be opened or was moved away, and what
    `work` raises.
    """
    settings = load(files.settings_file)
    files.refuse_owner(NEED)
    files.require_writable()
    _require_file(files, settings.database)
    lock = OwnerLock(files)

    async def opened() -> T:
        config = MasterConfig()
        config.db.db_url = settings.database.url
        master = BuildMaster(str(files.path))
        master.config = config
        db = master.db
        db.durability = settings.database.durability
        try:
            await db.setup(check_version=False, verbose=False)
            await db.startService()
            if db.is_on_server:
                name = postgres.shown(settings.database.url)
                await db.pool.do(move_away.refuse_others, name, files.master_name)
            return await work(db)
        finally:
            if db.pool is not None:
                await db.stopService()

    try:
        return run(opened)
    finally:
        lock.release()


@contextmanager
def inspected_database(
    files: Basedir, need: str = NEED, *, database: DatabaseSettings | None = None
) -> Iterator[sa.engine.Connection]:
    """Yield a connection, for a dry run, to the database of a basedir whose master is stopped.

    Writes nothing and touches no file.  Opens the database of litebot.toml, or `database` if given.
    Raises what `with_database` raises.
    """
    database = database or load(files.settings_file).database
    files.refuse_owner(need)
    files.require_writable()
    _require_file(files, database)
    with inspected(files, database, stopped=True) as conn:
        yield conn


def _require_file(files: Basedir, database: DatabaseSettings) -> None:
    """Raise StoreError if the state file does not exist; opening it would create an empty one."""
    path = database.sqlite_path(files.path)
    if path is not None and not path.exists():
        raise StoreError(f"{path} does not exist", f"litebot create-master --force {files.quoted}")
