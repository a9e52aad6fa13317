"""litebot status"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING
from typing import Any

import click

from litebot.basedir import Basedir
from litebot.cli.common import Exit
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import print_json
from litebot.cli.common import quiet_option
from litebot.errors import LitebotError

if TYPE_CHECKING:
    from litebot.master.admin.status import Status

# How long the master may take to say what only it knows.
ANSWER_S = 2.0


@example("litebot status ci")
@click.command()
@json_option
@quiet_option
@basedir_argument
def status(basedir: Basedir, as_json: bool) -> None:
    """Say what the master of BASEDIR does, and what it found and repaired at its last start.

    Exits with 0 where it runs and 3 where it does not.
    """
    basedir.require()
    from litebot.master.admin.status import status as look

    found = look(basedir)
    if found.running:
        known = _ask(basedir, "/refusals", {"counts": {}, "latest": {}, "lost": {}})
        found.refused, found.last_refused = known["counts"], known["latest"]
        found.lost_workers = known["lost"]
        found.sources = _ask(basedir, "/sources", {"problems": []})["problems"]
    if as_json:
        print_json(asdict(found))
    else:
        _print(found)
    if not found.running:
        sys.exit(Exit.FOUND)


def _ask(basedir: Basedir, path: str, otherwise: dict[str, Any]) -> dict[str, Any]:
    """Ask the master what only it knows; return `otherwise` if it does not answer in time."""
    from litebot.cli.client import post

    try:
        return post(basedir, path, {}, timeout_s=ANSWER_S)
    except (LitebotError, OSError):
        return otherwise


def _print(found: Status) -> None:
    for name, value in _rows(found):
        print(f"{name:<10}  {value}".rstrip())


def _rows(found: Status) -> list[tuple[str, str]]:
    if found.running:
        rows = [("running", f"since {_time(found.started_at)}, pid {found.pid}")]
    else:
        ended = "" if found.unreachable else _how_it_ended(found.last_start)
        rows = [("stopped", ended)]
    if found.url:
        rows.append(("page", found.url))
        rows.append(("projects", f"{found.url}litebot/"))
    rows.append(("database", _database(found.database)))
    if found.outage:
        rows.append(("away", f"since {_time(found.outage['since'])}: {found.outage['words']}"))
    if found.unreachable:
        rows.append(("unreadable", found.unreachable))
        return rows
    if found.missing:
        rows.append(("missing", found.missing))
    if found.masters:
        rows.append(("others", ", ".join(found.masters)))
    if found.running:  # a stopped master has no builders, only a history of some
        rows.append(("builders", ", ".join(found.builders) or "none"))
    for build in found.running_builds:
        where = f"on {build['worker']}, since {_time(build['started_at'])}"
        rows.append(("build", f"{build['builder']} {build['number']} {where}: {build['state']}"))
    if not found.running_builds:
        rows.append(("builds", "none running"))
    rows.append(("pending", str(found.pending) if found.pending else "nothing"))
    if found.running:
        rows += [
            ("", f"{count} for {builder!r}, which is not in the configuration")
            for builder, count in found.without_builder.items()
        ]
    rows += [
        ("lost", f"the worker {name}, since {_time(lost['since'])}: {lost['words']}")
        for name, lost in found.lost_workers.items()
    ]
    rows += _failed_reports(found)
    rows += _refused(found)
    rows += [("source", f"{p['source']} {source_problem(p)}") for p in found.sources]
    if found.last_start:
        repairs = found.last_start["repairs"]
        rows.append(("last start", f"{_time(found.last_start['started_at'])}, " + _found(repairs)))
        rows += [("", linked(repair["message"], repair["url"])) for repair in repairs]
    return rows


def _refused(found: Status) -> Iterator[tuple[str, str]]:
    for reason, count in found.refused.items():
        last = found.last_refused.get(reason)
        yield ("refused", f"{count:,} times: {reason}" + (f" (last: {last})" if last else ""))


def source_problem(problem: dict[str, Any]) -> str:
    """Return in words what a change source can't do."""
    return f"can't {problem['what']}, since {_time(problem['since'])}: {problem['error']}"


def _failed_reports(found: Status) -> Iterator[tuple[str, str]]:
    """Yield the oldest failed report of each reporter, and how many more it has.

    A reporter whose server is away has failed reports for all builds.
    """
    failed: dict[str, list[dict[str, Any]]] = {}
    for report in found.reports:
        if report["error"]:
            failed.setdefault(report["reporter"], []).append(report)
    for oldest, *others in failed.values():
        yield ("report", report_line(oldest))
        if others:
            listing = f"litebot report list {Basedir(found.basedir).quoted}"
            yield ("", f"and {len(others)} more of {oldest['reporter']}: {listing}")


def _found(repairs: list[dict[str, Any]]) -> str:
    if not repairs:
        return "found nothing to repair"
    return f"found and dealt with {len(repairs)}:"


def linked(text: str, url: str | None) -> str:
    """Return `text`, followed by the address of what it is about, if it has one."""
    return f"{text}  {url}" if url else text


def report_line(report: dict[str, Any]) -> str:
    """Return a line on a report that is not delivered yet: its subject, and its attempts so far."""
    what = f"{report['reporter']} has not reported {report['kind'][:-1]} id {report['about']}"
    if not report["error"]:
        return linked(f"{what} yet", report["url"])
    again = "not again before a restart"  # its server refuses it, or it can't be made
    if report["retry_at"] is not None:
        again = f"again at {_time(report['retry_at'])}"
    failed = f"{what} in {report['attempts']} attempts ({report['error']}); {again}"
    return linked(failed, report["url"])


def _how_it_ended(last_start: dict[str, Any] | None) -> str:
    if last_start is None:
        return "never started"
    if last_start["stopped_at"] is None:
        return f"it ended without a clean stop; it ran since {_time(last_start['started_at'])}"
    since = f"since {_time(last_start['stopped_at'])}"
    if last_start.get("taken_over_by"):
        return f"{since}: {last_start['taken_over_by']} found it dead and took over its builds"
    return since


def _database(database: dict[str, Any]) -> str:
    if "path" not in database:
        return str(database["url"])
    size, log = (f"{database[key] / 1e6:.1f} MB" for key in ("size_bytes", "log_bytes"))
    return f"{database['path']}, {size} (and {log} of log)"


def _time(epoch_s: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch_s or 0))
