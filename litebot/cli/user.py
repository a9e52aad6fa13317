"""litebot user"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from litebot.basedir import Basedir
from litebot.cli.buildbot_user import buildbot_user
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.users import ROLES
from litebot.users import UserFile
from litebot.users import generate_password


class UserCommands(click.Group):
    """Ours are nouns and verbs; Buildbot's command of this name takes options only."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            buildbot_user(args)
            ctx.exit()
        return super().parse_args(ctx, args)


@example("litebot user add --generate ada ci")
@click.group(cls=UserCommands)
def user() -> None:
    """Add, remove and list those who may log in on the page; changes count at once.

    With options only (--op, --master, ...) this is Buildbot's command of the same name.
    """


def password_options(command: Any) -> Any:
    """How a password is given: typed twice, read from stdin, or made up and printed."""
    for option in (
        click.option("--generate", is_flag=True, help="Make a password up and print it."),
        click.option("--password-stdin", is_flag=True, help="Read the password from stdin."),
    ):
        command = option(command)
    return command


def _password(generate: bool, password_stdin: bool) -> str:
    if generate:
        return generate_password()
    if password_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return password


def _file(basedir: Basedir) -> UserFile:
    basedir.require()
    return UserFile(basedir.users_file)


@example("litebot user add --generate ada ci")
@user.command()
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="admin",
    show_default=True,
    help="An admin may force, stop, cancel and pause; a viewer may look.",
)
@password_options
@click.argument("name")
@basedir_argument
def add(name: str, basedir: Basedir, role: str, generate: bool, password_stdin: bool) -> None:
    """Let NAME log in."""
    users = _file(basedir)
    password = _password(generate, password_stdin)
    users.add(name, password, role)
    print(f"added {role} {name}" + (f", password {password}" if generate else ""))


@example("litebot user passwd --generate admin ci")
@user.command()
@password_options
@click.argument("name")
@basedir_argument
def passwd(name: str, basedir: Basedir, generate: bool, password_stdin: bool) -> None:
    """Give NAME another password."""
    users = _file(basedir)
    password = _password(generate, password_stdin)
    users.set_password(name, password)
    print(f"changed the password of {name}" + (f" to {password}" if generate else ""))


@example("litebot user remove ada ci")
@user.command()
@click.option("--force", is_flag=True, help="Also the last admin.")
@click.argument("name")
@basedir_argument
def remove(name: str, basedir: Basedir, force: bool) -> None:
    """Let NAME log in no more."""
    _file(basedir).remove(name, force=force)
    print(f"removed {name}")


@example("litebot user list ci")
@user.command(name="list")
@json_option
@basedir_argument
def list_users(basedir: Basedir, as_json: bool) -> None:
    """Print who may log in, and as what."""
    users = _file(basedir).names()
    if as_json:
        print(json.dumps([{"name": u.name, "role": u.role} for u in users], indent=1))
        return
    for entry in users:
        print(f"{entry.role:7} {entry.name}")
