"""litebot copy-db"""

from __future__ import annotations

import sys

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import quiet_option


@example("litebot copy-db sqlite:///copy.sqlite ci")
@click.command()
@click.option(
    "--ignore-fk-error-rows",
    "skip_orphans",
    is_flag=True,
    help="Leave out rows that refer to one that does not exist.",
)
@quiet_option
@click.argument("destination_url")
@basedir_argument
def copy_db(destination_url: str, basedir: Basedir, skip_orphans: bool) -> None:
    """Copy the database of BASEDIR into an empty one; the master must be stopped.

    Only the copy is made: litebot.toml keeps its url.  A relative file lies in BASEDIR.
    """
    basedir.require()
    from rich.console import Console
    from rich.progress import Progress

    from litebot.master.admin.copy import copy

    with Progress(
        disable=not sys.stderr.isatty(), transient=True, console=Console(stderr=True)
    ) as bars:
        tasks = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        rows, target = copy(basedir, destination_url, progress, skip_orphans=skip_orphans)
    print(f"copied {rows} rows to {target}")
