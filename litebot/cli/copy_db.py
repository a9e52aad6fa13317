"""litebot copy-db"""

from __future__ import annotations

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

if TYPE_CHECKING:
    from litebot.master.admin.plan.copy import Plan

MISSING = "what is not there"


@example("litebot copy-db sqlite:///copy.sqlite ci")
@click.command()
@click.option(
    "--ignore-fk-error-rows",
    "skip_orphans",
    is_flag=True,
    help="Leave out rows that refer to one that does not exist.",
)
@dry_run_option
@quiet_option
@click.argument("destination_url")
@basedir_argument
def copy_db(destination_url: str, basedir: Basedir, skip_orphans: bool, dry_run: bool) -> None:
    """Copy the database of BASEDIR into an empty one; the master must be stopped.

    Only the copy is made: litebot.toml keeps its url.  A relative file lies in BASEDIR.
    """
    basedir.require()
    if dry_run:
        from litebot.master.admin.plan.copy import plan

        with working("counting rows"):
            planned = plan(basedir, destination_url, skip_orphans=skip_orphans)
        print_plan(list(_lines(planned)))
        return
    from litebot.master.admin.copy import copy

    with bars() as progress:
        rows, target = copy(basedir, destination_url, progress, skip_orphans=skip_orphans)
    tell(f"copied {rows} rows to {target}")


def _lines(plan: Plan) -> Iterator[str]:
    if plan.wiped:
        yield f"would empty {plan.target} of what an interrupted copy has left"
    size = "" if plan.size_bytes is None else f", {counted(plan.size_bytes, 'byte')} now,"
    yield (
        f"would copy {counted(plan.rows, 'row')} of {counted(plan.tables, 'table')}{size}"
        f" to {plan.target}" + (", which would be made" if plan.made else "")
    )
    for table, rows in plan.left_out.items():
        yield f"would leave out {counted(rows, 'row')} of {table}, which refer to {MISSING}"
    for column, rows in plan.references.items():
        yield f"would leave out {column} of {counted(rows, 'row')}, where it refers to {MISSING}"
