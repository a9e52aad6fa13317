"""Writes docs/reference/cli.md from the commands' own help; a test checks that it is up to date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from litebot.cli.buildbot import HandedOn
from litebot.cli.main import COMMANDS
from litebot.cli.main import litebot

TARGET = Path(__file__).parent / "reference/cli.md"
HEAD = """\
# Commands

Written by `make docs` from the commands' own help. The basedir comes last in every command and
defaults to the current folder. Results go to stdout, progress and errors to stderr. Exit codes: 0
done, 1 failed, 2 wrong usage, 3 a check found something.
"""


def text() -> str:
    """The whole page."""
    parts = [HEAD]
    handed_on = []
    top = click.Context(litebot, info_name="litebot")
    for name, lazy in COMMANDS.items():
        command = litebot.get_command(top, name)
        assert command is not None
        if isinstance(command, HandedOn):
            handed_on.append(f"| `litebot {name}` | {lazy.help} |")
            continue
        for title, context in _contexts(command, name, top):
            parts.append(f"## litebot {title}\n\n{_help(context)}")
    rows = "\n".join(handed_on)
    parts.append(
        "## Buildbot's own\n\nThese take the options that Buildbot's manual describes.\n\n"
        f"| command | what it does |\n|---|---|\n{rows}\n"
    )
    return "\n".join(parts)


def _contexts(
    command: click.Command, name: str, parent: click.Context
) -> Iterator[tuple[str, click.Context]]:
    context = click.Context(command, info_name=name, parent=parent, terminal_width=96)
    if not isinstance(command, click.Group):
        yield name, context
        return
    for sub in command.list_commands(context):
        found = command.get_command(context, sub)
        assert found is not None
        for title, inner in _contexts(found, sub, context):
            yield f"{name} {title}", inner


def _help(context: click.Context) -> str:
    lines = context.get_help().splitlines()
    return "\n".join(f"    {line}".rstrip() for line in lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
