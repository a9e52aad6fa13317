"""Writes docs/reference/cli.md from the commands' own help; a test checks that it is up to date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from litebot.cli.buildbot import HandedOn
from litebot.cli.json_fields import FIELDS
from litebot.cli.main import ALIASES
from litebot.cli.main import GROUPS
from litebot.cli.main import Lazy
from litebot.cli.main import litebot

OF_BUILDBOT = "Buildbot's: "
TARGET = Path(__file__).parent / "reference/cli.md"
HEAD = """\
# Commands

Written by `make docs` from the commands' own help. The basedir comes last in every command and
defaults to the current folder. Buildbot's names for what has another here, {aliases}, work too.

- Results go to stdout, progress, notes and errors to stderr. With `--quiet` (`-q`) there is nothing
  but errors and what was asked for.
- Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a check found something.
- What reads takes [`--json`](#fields-of-json-output). What deletes, moves or rewrites takes
  `--dry-run`: it looks at all that the command would, refuses what that would, says what would be
  done, and changes nothing.
"""


JSON = """\
## Fields of JSON output

One value, on stdout; the exit code is the same as without. An error is text on stderr with the
code 1 or 2, as without, and stdout is empty then. Names that end in `_at` and `outage.since` are
seconds since 1970, `_bytes` are bytes; an id is that of the database. `[]` stands for each of a
list, `{}` for each name of an object whose names are data. A field keeps its name and its meaning;
new ones may come.
"""


def text() -> str:
    """The whole page."""
    aliases = " and ".join(f"`{old}` ({new})" for old, new in ALIASES.items())
    parts = [HEAD.format(aliases=aliases)]
    top = click.Context(litebot, info_name="litebot", **litebot.context_settings)
    for title, group in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += _section(group, top)
    parts.append(JSON)
    for command, fields in FIELDS.items():
        rows = "\n".join(f"| `{path}` | {meaning} |" for path, meaning in fields.items())
        parts.append(f"### {command} --json\n\n| field | what it is |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


def _section(group: dict[str, Lazy], top: click.Context) -> Iterator[str]:
    handed_on = []
    for name, lazy in group.items():
        command = litebot.get_command(top, name)
        assert command is not None
        if isinstance(command, HandedOn):
            assert command.epilog is not None
            example = command.epilog.split("Example:")[1].strip()
            handed_on.append(f"| {lazy.help.removeprefix(OF_BUILDBOT)} | `{example}` |")
            continue
        for title, context in _contexts(command, name, top):
            yield f"### litebot {title}\n\n{_help(context)}"
    if handed_on:
        yield "Buildbot's own, with the options that its manual describes:\n"
        rows = "\n".join(handed_on)
        yield f"| what it does | example |\n|---|---|\n{rows}\n"


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
