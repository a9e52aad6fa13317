"""The `litebot` command: finds a subcommand, loads it alone, and prints errors in one form."""

from __future__ import annotations

import importlib
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple

import click

from litebot import __version__
from litebot.errors import LitebotError


class Lazy(NamedTuple):
    """Where a command lives and what the list of commands says of it."""

    module: str
    name: str
    help: str


# Loaded on use, so that `litebot --help` imports neither Buildbot nor SQLAlchemy.
COMMANDS: dict[str, Lazy] = {
    "create-master": Lazy("create_master", "create_master", "Make a basedir with a master in it."),
    "start": Lazy("lifecycle", "start", "Start a master and wait until it answers."),
    "stop": Lazy("lifecycle", "stop", "Stop a master and wait until it is gone."),
    "restart": Lazy("lifecycle", "restart", "Stop a master if it runs, then start it."),
    "reconfig": Lazy("reconfig", "reconfig", "Make a running master load its configuration anew."),
    "check-config": Lazy("check_config", "check_config", "Say what is wrong in master.cfg."),
    "build": Lazy("build", "build", "Force a build and follow its log to the end."),
    "status": Lazy("status", "status", "Say what a master does and what it found at its start."),
    "check": Lazy("check", "check", "Say what is half done or damaged in the database."),
    "why": Lazy("why", "why", "Say what became of a change."),
    "report": Lazy("report", "report", "See and drop what reporters have still to tell."),
    "user": Lazy("user", "user", "Add, remove and list those who may log in."),
    "upgrade-master": Lazy(
        "upgrade_master", "upgrade_master", "Bring a basedir and its database up to date."
    ),
    "cleanupdb": Lazy("cleanupdb", "cleanupdb", "Compress old logs and give space back."),
    "sendchange": Lazy("buildbot", "sendchange", "Buildbot's: send a change to a master."),
    "try": Lazy("buildbot", "try_", "Buildbot's: build your uncommitted changes."),
    "tryserver": Lazy("buildbot", "tryserver", "Buildbot's: the master's side of try over SSH."),
    "dataspec": Lazy("buildbot", "dataspec", "Buildbot's: write the data API's specification."),
    "dev-proxy": Lazy("buildbot", "dev_proxy", "Buildbot's: the page before a distant master."),
    "copy-db": Lazy("copy_db", "copy_db", "Copy the database to an empty one elsewhere."),
    "move-database": Lazy(
        "move_database", "move_database", "Move a master to another database, compared."
    ),
}
# Buildbot's names for what has another here.
ALIASES = {"checkconfig": "check-config", "sighup": "reconfig"}


class Commands(click.Group):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if lazy is None:
            return None
        module = importlib.import_module(f"litebot.cli.{lazy.module}")
        command: click.Command = getattr(module, lazy.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in COMMANDS.items()])


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The basedir comes last in every command and defaults to the current folder."
    "\n\nExample:  litebot create-master ci && litebot start ci",
)
@click.version_option(__version__, prog_name="litebot")
@click.option("--debug", is_flag=True, help="Show where in the code an error arose.")
def litebot(debug: bool) -> None:  # main() reads --debug, to have it when parsing fails too
    """Buildbot, ready to run, on one crash-safe SQLite file."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 usage, 3 a check found something."""
    debug = "--debug" in (arguments if arguments is not None else sys.argv[1:])
    try:
        litebot.main(arguments, prog_name="litebot")
    except LitebotError as error:
        if debug:
            traceback.print_exc()
        show_error(error)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        show_error(LitebotError(f"{where}{error.strerror or error}"))
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        show_error(
            LitebotError(
                f"{type(error).__name__}: {error}",
                shlex.join(["litebot", "--debug", *(arguments or sys.argv[1:])]),
            )
        )
        sys.exit(1)


def show_error(error: LitebotError) -> None:
    """The one form of an error: what, then a remedy that can be typed."""
    print(f"litebot: {error.what}", file=sys.stderr)
    if error.hint:
        first, *more = error.hint.splitlines()
        print(f"  Try: {first}", *(f"       {line}" for line in more), sep="\n", file=sys.stderr)
