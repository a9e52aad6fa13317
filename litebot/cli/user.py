"""litebot user"""

from __future__ import annotations

import sys
from typing import Any

import click

from litebot.basedir import Basedir
from litebot.cli.buildbot_user import buildbot_user
from litebot.cli.common import basedir_argument
from litebot.cli.common import counted
from litebot.cli.common import dry_run_option
from litebot.cli.common import example
from litebot.cli.common import is_quiet
from litebot.cli.common import json_option
from litebot.cli.common import print_json
from litebot.cli.common import print_plan
from litebot.cli.common import quiet_option
from litebot.cli.common import tell
from litebot.users import ROLES
from litebot.users import UserFile
from litebot.users import generate_password


class UserCommands(click.Group):
    """Runs litebot's subcommands, or Buildbot's command of this name if options come first."""

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
    """Add --generate and --password-stdin; without either, the user types the password twice."""
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


def _tell_password(done: str, joint: str, made_up: str | None) -> None:
    """Print what was done.  A generated password is a result: it is printed even with --quiet."""
    if made_up is None:
        tell(done)
    elif is_quiet():
        print(made_up)
    else:
        print(f"{done}{joint} {made_up}")


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
@quiet_option
@click.argument("name")
@basedir_argument
def add(name: str, basedir: Basedir, role: str, generate: bool, password_stdin: bool) -> None:
    """Let NAME log in."""
    users = _file(basedir)
    password = _password(generate, password_stdin)
    users.add(name, password, role)
    _tell_password(f"added {role} {name}", ", password", password if generate else None)


@example("litebot user passwd --generate admin ci")
@user.command()
@password_options
@quiet_option
@click.argument("name")
@basedir_argument
def passwd(name: str, basedir: Basedir, generate: bool, password_stdin: bool) -> None:
    """Give NAME another password."""
    users = _file(basedir)
    password = _password(generate, password_stdin)
    users.set_password(name, password)
    _tell_password(f"changed the password of {name}", " to", password if generate else None)


@example("litebot user remove ada ci")
@user.command()
@click.option("--force", is_flag=True, help="Also the last admin.")
@dry_run_option
@quiet_option
@click.argument("name")
@basedir_argument
def remove(name: str, basedir: Basedir, force: bool, dry_run: bool) -> None:
    """Let NAME log in no more."""
    users = _file(basedir)
    left = users.remove(name, force=force, dry_run=dry_run)
    if not dry_run:
        tell(f"removed {name}")
        return
    admins = sum(other.role == "admin" for other in left)
    stay = f"{counted(len(left), 'user')} would stay, {counted(admins, 'admin')} among them"
    print_plan([f"would remove {name} from {users.path}; {stay}"])


@example("litebot user list ci")
@user.command(name="list")
@json_option
@quiet_option
@basedir_argument
def list_users(basedir: Basedir, as_json: bool) -> None:
    """Print who may log in, and as what."""
    users = _file(basedir).names()
    if as_json:
        print_json([{"name": u.name, "role": u.role} for u in users])
        return
    for entry in users:
        print(f"{entry.role:7} {entry.name}")
