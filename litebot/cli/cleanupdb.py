"""litebot cleanupdb"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import counted
from litebot.cli.common import discard_log
from litebot.cli.common import dry_run_option
from litebot.cli.common import example
from litebot.cli.common import print_plan
from litebot.cli.common import quiet_option
from litebot.cli.common import tell
from litebot.cli.progress import bars

if TYPE_CHECKING:
    from litebot.master.admin.plan.cleanup import Plan


@example("litebot cleanupdb ci")
@click.command()
@click.option("--force", "-f", is_flag=True, help="Compress logs anew that are compressed.")
@dry_run_option
@quiet_option
@basedir_argument
def cleanupdb(basedir: Basedir, force: bool, dry_run: bool) -> None:
    """Compress the logs in the database and give free space back; the master must be stopped.

    With --dry-run they are compressed, too, but not stored: it takes as long, and says how many
    bytes that saves.
    """
    basedir.require()
    from litebot.master.admin.cleanup import clean_up
    from litebot.master.admin.offline import with_database
    from litebot.master.admin.plan.cleanup import plan
    from litebot.settings import load

    discard_log()
    with bars() as progress:
        if dry_run:
            planned = plan(basedir, progress, force=force)
        else:
            saved = with_database(basedir, lambda db: clean_up(db, basedir, progress, force=force))
    if dry_run:
        print_plan(list(_lines(planned)))
        return
    on_file = load(basedir.settings_file).database.sqlite_path(basedir.path) is not None
    # A log that was compressed before may become a little larger when it is compressed again.
    effect = f"saved {saved} bytes" if saved >= 0 else f"took {-saved} bytes more"
    where = "went back to the file system" if on_file else "is the server's to use anew"
    tell(f"compression {effect}; free space {where}")


def _lines(plan: Plan) -> Iterator[str]:
    before, after = plan.before, plan.after
    if not before.logs:
        yield f"would compress none of {counted(plan.logs, 'log')}"
    else:
        saved = before.size_bytes - after.size_bytes
        yield (
            f"would compress {before.logs:,} of {counted(plan.logs, 'log')}:"
            f" {counted(before.chunks, 'chunk')} of {counted(before.size_bytes, 'byte')} would"
            f" become {counted(after.chunks, 'chunk')} of {counted(after.size_bytes, 'byte')},"
            + (f" saving {saved}" if saved >= 0 else f" taking {-saved} more")
        )
    database = f"{plan.name}, which has {counted(plan.size_bytes, 'byte')}"
    if plan.free_bytes is None:
        yield f"would have the server clean up {database}"
        return
    free = f"{counted(plan.free_bytes, 'byte')} of it are free" + (
        ", beside what compression frees" if before.logs else ""
    )
    if plan.rewritten:
        yield f"would write all of {database}, anew, as stock Buildbot has made it; {free}"
    else:
        yield f"would take out of {database}, what is free; {free}"
