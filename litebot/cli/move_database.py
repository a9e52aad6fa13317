"""litebot move-database"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import counted
from litebot.cli.common import dry_run_option
from litebot.cli.common import example
from litebot.cli.common import print_plan
from litebot.cli.common import quiet_option
from litebot.cli.common import tell
from litebot.cli.progress import bars
from litebot.cli.progress import working
from litebot.errors import LitebotError

if TYPE_CHECKING:
    from litebot.master.admin.plan.move import Plan


@example("litebot move-database sqlite:///moved.sqlite ci")
@click.command()
@dry_run_option
@quiet_option
@click.argument("url")
@basedir_argument
def move_database(url: str, basedir: Basedir, dry_run: bool) -> None:
    """Move the database of BASEDIR to an empty one at URL; the master must be stopped.

    URL is sqlite:///FILE or postgresql://USER@HOST/NAME, as in litebot.toml.  Copies all rows,
    compares every table by count and by a hash over all columns, and only then has litebot.toml
    name the new database.  The old one is kept.  After an interrupt the same command goes on.
    With --dry-run the new one is looked at, too, and each value is, where Postgres may refuse it.
    """
    basedir.require()
    if dry_run:
        from litebot.master.admin.plan.move import plan

        with working(f"looking at {url}"):
            planned = plan(basedir, url)
        print_plan(list(_lines(planned, basedir, url)))
        return
    from litebot.master.admin.move.move import move

    with bars(stay=True) as progress:
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
        tell("all rows were moved by an earlier attempt, which is ended now")
    else:
        earlier = f", {copied.resumed} of them in an earlier attempt" if copied.resumed else ""
        tell(f"moved {copied.rows} rows of {copied.tables} tables{earlier}")
        tell(f"both databases have the hash {copied.hash}")
    tell(f"litebot.toml names {url}")
    tell(f"the old database is {report.old}; nothing uses it any more, and it may be deleted")
    tell(f"\nNext: litebot start {basedir.quoted}")


def _lines(plan: Plan, basedir: Basedir, url: str) -> Iterator[str]:
    if plan.ends:
        yield f"would end an attempt that has moved all rows to {plan.target}"
    else:
        yield from _moving(plan)
        yield f"would write url = {url} into {basedir.settings_file}"
    if not plan.put_aside:
        yield f"would leave {plan.source} as it is"
    elif plan.source.startswith("/"):
        yield f"would rename {plan.source} to {plan.source}.moved-DATE-TIME"
    else:
        yield f"would write into {plan.source} where it is now, in the table litebot_moved"


def _moving(plan: Plan) -> Iterator[str]:
    if plan.wiped:
        yield f"would empty {plan.target} of what an earlier attempt has left"
    size = "" if plan.size_bytes is None else f", {counted(plan.size_bytes, 'byte')} now,"
    yield (
        f"would copy {counted(plan.rows - plan.resumed, 'row')} of"
        f" {counted(plan.tables, 'table')}{size} from {plan.source} to {plan.target}"
        + (", which would be made" if plan.made else "")
    )
    if plan.resumed:
        yield f"  {counted(plan.resumed, 'row')} more of them are there from an earlier attempt"
    yield f"would compare {counted(plan.rows, 'row')} of both databases"


def _is_named(url: str, basedir: Basedir) -> bool:
    from litebot.settings import load

    return load(basedir.settings_file).database.url == url
