"""The options of `litebot project` that are keys of a project."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from litebot.projects.definition import KEYS

# What their defaults are is not to be seen from the others' documentation.
SHOWN_DEFAULTS = ("timeout", "poll", "at_once")


class StepsFile(click.File):
    """The text of a file; '' is no file, and no steps."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return "" if value == "" else super().convert(value, param, ctx).read()


def _option(name: str, *, adds: bool) -> Callable[[Any], Any]:
    default, doc = KEYS[name].default, KEYS[name].metadata["doc"]
    flag = f"--{name.replace('_', '-')}"
    if name == "steps":
        text = f"A file with its steps; '' for none. {doc}"
        return click.option(flag, type=StepsFile(encoding="utf-8"), metavar="FILE", help=text)
    if isinstance(default, bool):
        return click.option(f"{flag}/--no-{flag.removeprefix('--')}", default=None, help=doc)
    if isinstance(default, tuple):
        metavar = "LINE" if name == "tell" else "NAME"
        return click.option(
            flag, multiple=True, metavar=metavar, help=f"{doc}  May be repeated; '' for none."
        )
    kind = int if isinstance(default, int) else str
    if adds and name == "branch":
        doc += "  [default: the repository's own]"
    elif name in SHOWN_DEFAULTS:
        doc += f"  [default: {default}]" if adds else f"  [of a new project: {default}]"
    return click.option(flag, type=kind, default=None, help=doc)


def key_options(*, adds: bool) -> Callable[[Any], Any]:
    """Return a decorator that adds an option for each key but the address and `enabled`.

    `adds` is whether the command adds a project, where what is not given has its default.
    """

    def decorate(command: Any) -> Any:
        for name in reversed(KEYS):
            if name not in ("url", "enabled"):
                command = _option(name, adds=adds)(command)
        return command

    return decorate


def given_keys(options: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that are among the options of a command, with their values."""
    given = {}
    for name, value in options.items():
        if name not in KEYS or value is None or value == ():
            continue
        given[name] = [each for each in value if each] if isinstance(value, tuple) else value
    return given
