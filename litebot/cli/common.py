"""What several commands share: the basedir argument, examples in help texts, progress."""

from __future__ import annotations

import sys
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from typing import TypeVar

import click

from litebot.basedir import Basedir


class BasedirType(click.ParamType):  # type: ignore[type-arg]
    """The last argument of every command; a folder that need not exist yet."""

    name = "basedir"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Basedir:
        return value if isinstance(value, Basedir) else Basedir(value)


basedir_argument = click.argument("basedir", type=BasedirType(), default=".")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")


# Buildbot's, for scripts that were written for it; ours say little as it is.
quiet_option = click.option("--quiet", "-q", is_flag=True, hidden=True, expose_value=False)

C = TypeVar("C", bound=click.Command)


def example(line: str) -> Callable[[C], C]:
    """End a command's help with an example."""

    def add(command: C) -> C:
        command.epilog = f"Example:  {line}"
        return command

    return add


def say(text: str) -> None:
    """Progress, for people: to stderr, so that stdout holds results alone."""
    print(text, file=sys.stderr, flush=True)


def discard_log() -> None:
    """Keep Buildbot's tracebacks, which would go to stderr, from those who get the reason."""
    from twisted.logger import globalLogBeginner

    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show that something goes on, while it does, where somebody looks."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
