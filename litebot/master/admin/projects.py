"""What `litebot project` does while the master is stopped."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from litebot.basedir import Basedir
from litebot.master.admin.offline import with_database
from litebot.master.configuration.loader import ConfigLoader
from litebot.master.database import Database
from litebot.master.db import schema
from litebot.master.projects.stopped import StoppedProjects
from litebot.master.projects.verbs import do
from litebot.settings import load


def do_apart(files: Basedir, asked: dict[str, Any]) -> dict[str, Any]:
    """Like `do_stopped`, in a process of its own: a process can run the reactor only once."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as processes:
        return processes.submit(do_stopped, files, asked).result()


def do_stopped(files: Basedir, asked: dict[str, Any]) -> dict[str, Any]:
    """Do on the database what a running master would do; see projects.verbs.

    Raises what `with_database` raises, and LitebotError if it can't be done.
    """
    loader = ConfigLoader(str(files.path), str(files.config_file))

    async def work(db: Database) -> dict[str, Any]:
        from twisted.internet import reactor

        await db.pool.do(schema.require_current, "the database", files.quoted)
        projects = StoppedProjects(files, db, loader)
        await projects.read(load(files.settings_file))
        return await do(projects, reactor, asked)

    return with_database(files, work)
