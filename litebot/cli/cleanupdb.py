"""litebot cleanupdb"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import example

if TYPE_CHECKING:
    from litebot.master.database import Database


@example("litebot cleanupdb ci")
@click.command()
@click.option("--quiet", "-q", is_flag=True, help="Say nothing when all is well.")
@click.option("--force", "-f", is_flag=True, help="Compress logs anew that are compressed.")
@basedir_argument
def cleanupdb(basedir: Basedir, quiet: bool, force: bool) -> None:
    """Compress the logs in the database and give free space back; the master must be stopped."""
    basedir.require()
    import sqlalchemy as sa
    from rich.progress import Progress

    from litebot.master.offline import with_database

    def vacuum(conn: sa.engine.Connection) -> None:
        conn.execution_options(isolation_level="AUTOCOMMIT")
        conn.exec_driver_sql("VACUUM").close()
        conn.close()

    async def work(db: Database) -> int:
        logs = await db.logs.getLogs()
        saved = 0
        with Progress(disable=quiet or not sys.stderr.isatty(), transient=True) as progress:
            for log in progress.track(logs, description="compressing logs"):
                saved += await db.logs.compressLog(log.id, force=force)
        await db.pool.do(vacuum)
        return saved

    saved = with_database(basedir, work)
    if not quiet:
        print(f"compression saved {saved} bytes; free space went back to the file system")
