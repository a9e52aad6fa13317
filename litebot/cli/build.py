"""litebot build"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from typing import Any

import click

from litebot.basedir import Basedir
from litebot.cli.client import post
from litebot.cli.client import stream
from litebot.cli.common import Exit
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import quiet_option
from litebot.cli.common import say
from litebot.errors import LitebotError

# Buildbot's results; importing buildbot.process.results would take half a second.
SUCCESS, WARNINGS = 0, 1


def _properties(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    properties = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        properties[name] = text
    return properties


@example("litebot build hello ci")
@click.command()
@click.option("--branch", metavar="NAME", help="Build this branch.")
@click.option("--revision", metavar="ID", help="Build this revision.")
@click.option(
    "--property",
    "-p",
    "properties",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_properties,
    help="Give the build a property; may be repeated.",
)
@click.option("--reason", default="litebot build", show_default=True, help="Shown with the build.")
@click.option("--headers", is_flag=True, help="Also print how each command was run.")
@click.option("--no-wait", is_flag=True, help="Print the build request's id and return.")
@quiet_option
@click.argument("builder")
@basedir_argument
def build(
    builder: str,
    basedir: Basedir,
    branch: str | None,
    revision: str | None,
    properties: dict[str, str],
    reason: str,
    headers: bool,
    no_wait: bool,
) -> None:
    """Force a build of BUILDER and follow its log to the end.

    Exits with 0 for success (also with warnings) and 1 for everything else.  Interrupted, it
    stops following; the build goes on.
    """
    if not basedir.tac_file.exists() and Basedir(builder).tac_file.exists():
        raise click.UsageError(
            f"{builder!r} is the folder of a master; the builder comes before it:"
            f" litebot build BUILDER {shlex.quote(builder)}"
        )
    basedir.require()
    asked = {
        "builder": builder,
        "branch": branch,
        "revision": revision,
        "properties": properties,
        "reason": reason,
    }
    brid = post(basedir, "/build", asked)["buildrequestid"]
    if no_wait:
        print(brid)
        return
    say(f"build request {brid} for {builder}")
    try:
        results = show(stream(basedir, f"/follow?buildrequestid={brid}"), headers)
    except KeyboardInterrupt:
        say(f"\nbuild request {brid} goes on without you")
        sys.exit(Exit.FAILED)
    if results is None:
        raise LitebotError(
            f"the master stopped before build request {brid} was complete; it goes on when the"
            " master does",
            f"litebot start {basedir.quoted}",
        )
    if results not in (SUCCESS, WARNINGS):
        sys.exit(Exit.FAILED)


def show(events: Iterator[dict[str, Any]], headers: bool = False) -> int | None:
    """Print the events of a build; return its results, or None if the events stop before its end.

    Raises LitebotError if the master reports an error.
    """
    text = _Text(headers)
    for event in events:
        kind = event["event"]
        if kind == "waiting":
            say(f"waiting: {event['why']}")
        elif kind == "build":
            say(f"build {event['number']} on worker {event['worker']}: {event['url']}")
        elif kind == "step":
            say(f"--- {event['name']}")
        elif kind == "log":
            print(text.plain(event["text"], event["type"]), end="", flush=True)
        elif kind == "step-finished" and event["results"] != SUCCESS:
            say(f"--- {event['name']}: {event['text'].upper()} ({event['state']})")
        elif kind == "build-finished":
            say(f"{event['text'].upper()}: {event['state']}")
        elif kind == "cell":
            say(f"=== build {event['number']} of the {event['cells']} of its matrix")
        elif kind == "finished":
            results: int = event["results"]
            return results
        elif kind == "error":
            raise LitebotError(event["what"], event["hint"])
    return None


class _Text:
    """The text of logs without the letter at the start of each line, which names its stream.

    The stream h holds headers: how the command was run and how it ended.  They are left out unless
    `headers`.
    """

    def __init__(self, headers: bool) -> None:
        self._headers = headers
        self._is_within_line = False
        self._is_shown = True

    def plain(self, text: str, log_type: str) -> str:
        """Return what is to be printed of a piece of a log; it may end within a long line."""
        if log_type != "s":
            return text
        # Only \n ends a line here; \r and other control characters are the program's own.
        *lines, rest = text.split("\n")
        shown = [self._line(line, "\n") for line in lines]
        if rest:
            shown.append(self._line(rest, ""))
        return "".join(shown)

    def _line(self, line: str, end: str) -> str:
        if not self._is_within_line:
            self._is_shown = self._headers or not line.startswith("h")
            line = line[1:]
        self._is_within_line = not end
        return f"{line}{end}" if self._is_shown else ""
