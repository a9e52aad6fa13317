"""litebot report"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from litebot.basedir import Basedir
from litebot.cli.client import post
from litebot.cli.common import basedir_argument
from litebot.cli.common import dry_run_option
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import note_spelling
from litebot.cli.common import print_json
from litebot.cli.common import print_plan
from litebot.cli.common import quiet_option
from litebot.cli.common import tell
from litebot.cli.status import report_line
from litebot.errors import LitebotError
from litebot.errors import StoreError

AS_BEFORE = f"{__name__}.as_before"


class ReportCommands(click.Group):
    """Also accepts the options of the former single command: [--json] [--drop ID] [BASEDIR]."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = args[0] if args else "."
        option = first.partition("=")[0] in ("--drop", "--json", "--quiet", "-q")
        if option or (first not in self.commands and Path(first).is_dir()):
            ctx.meta[AS_BEFORE] = True
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return before if AS_BEFORE in ctx.meta else super().get_command(ctx, cmd_name)


@example("litebot report list ci")
@click.group(cls=ReportCommands)
def report() -> None:
    """List and drop reports that are still to be sent (mails, commit statuses).

    Each is sent again, at growing intervals, until it is accepted; what a server refuses, or what
    can't be made, is tried five times, and then once at each start.
    """


@example("litebot report list ci")
@report.command(name="list")
@json_option
@quiet_option
@basedir_argument
def list_reports(basedir: Basedir, as_json: bool) -> None:
    """List the reports that are still to be sent.

    The master of BASEDIR may run or not.
    """
    _print(_waiting(basedir), as_json)


@example("litebot report drop 1 ci")
@report.command()
@dry_run_option
@quiet_option
@click.argument("report_id", metavar="ID", type=click.IntRange(min=1))
@basedir_argument
def drop(report_id: int, basedir: Basedir, dry_run: bool) -> None:
    """Never send the report with this ID.

    The list has the ids; the master of BASEDIR must run.
    """
    line = _line_of(report_id, basedir)
    if dry_run:
        print_plan([f"would drop {line}"])
        return
    _drop(report_id, basedir)
    tell(f"dropped {line}")


@click.command()
@quiet_option
@click.option("--drop", "dropped", type=click.IntRange(min=1))
@json_option
@basedir_argument
def before(basedir: Basedir, dropped: int | None, as_json: bool) -> None:
    """The former spelling, `litebot report --drop`."""
    if dropped is None:
        note_spelling("report", "report list")
    else:
        note_spelling("report --drop ID", "report drop ID")
        basedir.require()
        _drop(dropped, basedir)
    _print(_waiting(basedir), as_json)


def _waiting(basedir: Basedir) -> list[dict[str, Any]]:
    basedir.require()
    from litebot.master.admin.status import status

    found = status(basedir)
    if found.unreachable:
        raise StoreError(found.unreachable, f"litebot status {basedir.quoted}")
    return found.reports


def _line_of(report_id: int, basedir: Basedir) -> str:
    """Return a line that describes a report.

    Raises LitebotError if there is no such report, and MasterNotRunning.
    """
    basedir.require()
    basedir.require_owner()
    for waiting in _waiting(basedir):
        if waiting["id"] == report_id:
            return f"report {report_id}: {report_line(waiting)}"
    raise LitebotError(
        f"no report with the id {report_id} is waiting", f"litebot report list {basedir.quoted}"
    )


def _drop(report_id: int, basedir: Basedir) -> None:
    post(basedir, "/drop-report", {"id": report_id})


def _print(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for waiting in found:
        print(f"{waiting['id']:>6}  {report_line(waiting)}")
    if not found:
        tell("no report is waiting")
