"""litebot move-database"""

from __future__ import annotations

import shlex
import sys

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.errors import LitebotError


@example("litebot move-database sqlite:///moved.sqlite ci")
@click.command()
@click.argument("url")
@basedir_argument
def move_database(url: str, basedir: Basedir) -> None:
    """Move the database of BASEDIR to an empty one at URL; the master must be stopped.

    URL is sqlite:///FILE or postgresql://USER@HOST/NAME, as in litebot.toml.  Copies all rows,
    compares every table by count and by a hash over all columns, and only then has litebot.toml
    name the new database.  The old one is kept.  After an interrupt the same command goes on.
    """
    basedir.require()
    from rich.console import Console
    from rich.progress import BarColumn
    from rich.progress import MofNCompleteColumn
    from rich.progress import Progress
    from rich.progress import TextColumn
    from rich.progress import TimeRemainingColumn

    from litebot.master.admin.move.move import move

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        disable=not sys.stderr.isatty(),
        console=Console(stderr=True),
    ) as bars:
        tasks = {}
        begun = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, completed=done, rate="")
                begun[what] = done
            elapsed = bars.tasks[tasks[what]].elapsed
            rate = f"{(done - begun[what]) / elapsed:,.0f}/s" if elapsed else ""
            bars.update(tasks[what], completed=done, total=total, rate=rate)

        try:
            report = move(basedir, url, progress)
        except KeyboardInterrupt:
            named = "names the new one" if _is_named(url, basedir) else "is as it was"
            raise LitebotError(
                f"interrupted; litebot.toml {named}",
                f"litebot move-database {shlex.quote(url)} {basedir.quoted}"
                "   (goes on where it was)",
            ) from None
    copied = report.copied
    if copied is None:
        print("all rows were moved by an earlier attempt, which is ended now")
    else:
        earlier = f", {copied.resumed} of them in an earlier attempt" if copied.resumed else ""
        print(f"moved {copied.rows} rows of {copied.tables} tables{earlier}")
        print(f"both databases have the hash {copied.hash}")
    print(f"litebot.toml names {url}")
    print(f"the old database is {report.old}; nothing uses it any more, and it may be deleted")
    print(f"\nNext: litebot start {basedir.quoted}")


def _is_named(url: str, basedir: Basedir) -> bool:
    from litebot.settings import load

    return load(basedir.settings_file).database.url == url
