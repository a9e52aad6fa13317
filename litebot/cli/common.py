"""What the commands share: their last argument, their options, and the rules for their output.

The result that the user asked for goes to stdout, whatever the options.  --quiet silences the rest:
confirmations that something is done (on stdout), progress and notes (on stderr).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any
from typing import TypeVar

import click

from litebot.basedir import Basedir


class Exit(IntEnum):
    """The exit codes of all commands; an error has its own in `exit_code`."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    FOUND = 3  # a check found something


class BasedirType(click.ParamType):  # type: ignore[type-arg]
    """The last argument of every command; a folder that need not exist yet."""

    name = "basedir"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Basedir:
        return value if isinstance(value, Basedir) else Basedir(value)


basedir_argument = click.argument("basedir", type=BasedirType(), default=".")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would be done, and change nothing."
)

QUIET = f"{__name__}.quiet"


def _be_quiet(ctx: click.Context, _param: click.Parameter, quiet: bool) -> None:
    if quiet:
        ctx.meta[QUIET] = True


quiet_option = click.option(
    "--quiet",
    "-q",
    is_flag=True,
    expose_value=False,
    callback=_be_quiet,
    help="Print nothing but errors and what was asked for.",
)


def is_quiet() -> bool:
    """Return whether the command that runs has the option --quiet."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and QUIET in ctx.meta


C = TypeVar("C", bound=click.Command)


def example(line: str) -> Callable[[C], C]:
    """Return a decorator that ends a command's help with an example."""

    def add(command: C) -> C:
        command.epilog = f"Example:  {line}"
        return command

    return add


def tell(text: str) -> None:
    """Print to stdout what a command has done, unless --quiet.  Not for results."""
    if not is_quiet():
        print(text, flush=True)


def say(text: str) -> None:
    """Print progress or a note to stderr, unless --quiet, so that stdout holds only results."""
    if not is_quiet():
        print(text, file=sys.stderr, flush=True)


def note_spelling(old: str, new: str) -> None:
    """Tell the user that a command was typed in its old form, and which is the new one."""
    say(f"note: litebot {old} is spelled litebot {new} now")


def print_json(value: Any) -> None:
    """Print the result of a command with --json."""
    print(json.dumps(value, indent=1))


def print_plan(lines: list[str], otherwise: str = "") -> None:
    """Print the result of a command with --dry-run, or `otherwise` if nothing would be done."""
    print("\n".join(lines) or otherwise)
    tell("nothing was changed")


def counted(count: int, what: str) -> str:
    """Return a count with its noun: 1 row, 2,000 rows."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def discard_log() -> None:
    """Discard Buildbot's log.

    Its tracebacks would go to stderr, where the user gets the reason as an error.
    """
    from twisted.logger import globalLogBeginner

    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
