"""litebot cleanupdb"""

from __future__ import annotations

import sys

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import example


@example("litebot cleanupdb ci")
@click.command()
@click.option("--quiet", "-q", is_flag=True, help="Say nothing when all is well.")
@click.option("--force", "-f", is_flag=True, help="Compress logs anew that are compressed.")
@basedir_argument
def cleanupdb(basedir: Basedir, quiet: bool, force: bool) -> None:
    """Compress the logs in the database and give free space back; the master must be stopped."""
    basedir.require()
    from rich.progress import Progress

    from litebot.master.admin.cleanup import clean_up
    from litebot.master.admin.offline import with_database
    from litebot.settings import load

    with Progress(disable=quiet or not sys.stderr.isatty(), transient=True) as bars:
        tasks = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        saved = with_database(basedir, lambda db: clean_up(db, progress, force=force))
    on_file = load(basedir.settings_file).database.sqlite_path(basedir.path) is not None
    if not quiet:
        # Anew, what was compressed as well may come out a little larger.
        effect = f"saved {saved} bytes" if saved >= 0 else f"took {-saved} bytes more"
        where = "went back to the file system" if on_file else "is the server's to use anew"
        print(f"compression {effect}; free space {where}")
