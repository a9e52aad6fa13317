"""litebot report"""

from __future__ import annotations

import json

import click

from litebot.basedir import Basedir
from litebot.cli.client import post
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.status import report_line


@example("litebot report ci")
@click.command()
@click.option(
    "--drop",
    "dropped",
    type=click.IntRange(min=1),
    metavar="ID",
    help="Never tell this one; the master must run.",
)
@json_option
@basedir_argument
def report(basedir: Basedir, dropped: int | None, as_json: bool) -> None:
    """List what reporters of BASEDIR have still to tell (mails, commit statuses).

    Each is told again, later and later, until it is taken; what a server refuses, or what can't
    be made, is tried five times, and then once at each start.
    """
    basedir.require()
    if dropped is not None:
        post(basedir, "/drop-report", {"id": dropped})
    from litebot.master.admin.status import status

    found = status(basedir).reports
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for waiting in found:
        print(f"{waiting['id']:>6}  {report_line(waiting)}")
    if not found:
        print("everything is told")
