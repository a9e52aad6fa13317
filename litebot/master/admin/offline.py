"""Work on the database of a basedir whose master is stopped."""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from typing import TypeVar

from buildbot.config.master import MasterConfig

from litebot.basedir import Basedir
from litebot.basedir import OwnerLock
from litebot.master.database import Database
from litebot.master.db import move_away
from litebot.master.db import postgres
from litebot.master.runtime.reactor import run
from litebot.master.service import BuildMaster
from litebot.settings import load

T = TypeVar("T")


def with_database(files: Basedir, work: Callable[[Database], Awaitable[T]]) -> T:
    """Open the database as the master would, own the basedir meanwhile, and run `work` on it.

    Runs the reactor, which a process can do once.  Raises MasterRunning where a master owns the
    basedir, BasedirError where this user should not write there, StoreError where the database
    can't be opened or was moved away, and what `work` raises.
    """
    settings = load(files.settings_file)
    files.refuse_owner("this needs it stopped")
    files.require_writable()
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
