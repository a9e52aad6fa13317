"""The variants to compare: stock Buildbot, with settings that its users have, and litebot."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url
from twisted.internet import defer

from bench import postgres

BIN = Path(sys.executable).parent
STATE_FILE = "state.sqlite"
URL_FILE = "database.url"  # has the URL of a database that is not STATE_FILE

STOCK = "stock"
ONE_LINE = "stock-one-line"
MEMORY = "stock-memory"
POSTGRES = "stock-postgres"
LITEBOT = "litebot"
LITEBOT_POSTGRES = "litebot-postgres"

ON_POSTGRES = (POSTGRES, LITEBOT_POSTGRES)
LITEBOTS = (LITEBOT, LITEBOT_POSTGRES)

VARIANTS = {
    STOCK: "stock Buildbot on its SQLite file",
    ONE_LINE: "the same with engine_kwargs={'poolclass': SingletonThreadPool}",
    MEMORY: "stock Buildbot with its database in memory: nothing survives a stop",
    POSTGRES: "stock Buildbot on a Postgres server of its own, settings as initdb makes them",
    LITEBOT: "litebot as create-master makes it, durability = 'acknowledged'",
    LITEBOT_POSTGRES: "litebot on the same server, as create-master --database makes it",
}


def reason_to_skip(variant: str) -> str | None:
    """Return why a variant can't run on this machine, or None."""
    if variant == LITEBOT_POSTGRES and importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    return postgres.reason_to_skip() if variant in ON_POSTGRES else None


def prepare(variant: str, basedir: Path) -> None:
    """Make a basedir and a database with the variant's own create-master.

    Raises RuntimeError, with the output of the command, if it fails.
    """
    if variant == MEMORY:
        basedir.mkdir(parents=True)
        return
    url = postgres.new_database() if variant in ON_POSTGRES else f"sqlite:///{STATE_FILE}"
    environment = dict(os.environ)
    if variant in LITEBOTS:
        command = [str(BIN / "litebot"), "create-master", str(basedir)]
        if variant == LITEBOT_POSTGRES:
            made = make_url(url)
            command.append(f"--database={made._replace(drivername='postgresql', password=None)}")
            if made.password is not None:
                environment["PGPASSWORD"] = made.password
    else:
        command = [str(BIN / "buildbot"), "create-master", "--quiet", f"--db={url}", str(basedir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    if variant in ON_POSTGRES:
        (basedir / URL_FILE).write_text(url, encoding="utf-8")


def make_master(variant: str, basedir: Path, config: dict[str, Any]) -> Any:
    """Return a master on a prepared basedir, not started.

    `config` is a BuildmasterConfig without a database, which is filled in.
    """
    from buildbot.config.master import MasterConfig
    from buildbot.interfaces import IConfigLoader
    from zope.interface import implementer

    @implementer(IConfigLoader)
    class Loader:
        def loadConfig(self) -> Any:
            return MasterConfig.loadFromDict(config, "bench")

    config["db"] = _database(variant, basedir)
    if variant in LITEBOTS:
        from litebot.master.configuration.loader import CACHED
        from litebot.master.configuration.loader import CACHES
        from litebot.master.service import BuildMaster

        config["caches"] = dict.fromkeys(CACHES, CACHED)  # as litebot's own loader does
        return BuildMaster(str(basedir), config_loader=Loader())
    from buildbot.master import BuildMaster as StockMaster

    return StockMaster(str(basedir), config_loader=Loader())


def _database(variant: str, basedir: Path) -> dict[str, Any]:
    if variant == MEMORY:
        return {"db_url": "sqlite://"}
    if variant in ON_POSTGRES:
        return {"db_url": (basedir / URL_FILE).read_text(encoding="utf-8")}
    db: dict[str, Any] = {"db_url": f"sqlite:///{STATE_FILE}"}
    if variant == ONE_LINE:
        from sqlalchemy.pool import SingletonThreadPool

        db["engine_kwargs"] = {"poolclass": SingletonThreadPool}
    return db


async def start(variant: str, master: Any) -> None:
    """Start a master.  Raises RuntimeError if it does not run then."""
    if variant == MEMORY:  # create-master can't make tables in memory
        master.config = master.config_loader.loadConfig()
        await master.db.setup(check_version=False)
        await master.db.model.upgrade()
        master.db.setup = lambda: defer.succeed(None)
    await master.startService()
    # A start that succeeds sets the parent of the heartbeat as its last step.
    if master.masterHeartbeatService.parent is None:
        raise RuntimeError(f"the {variant} master did not start; its log has the reason")
