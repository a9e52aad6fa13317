"""The `litebot` command: loads only the subcommand it needs, and prints all errors in one form."""

from __future__ import annotations

import importlib
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple

import click

from litebot import __version__
from litebot.cli.common import Exit
from litebot.errors import LitebotError


class Lazy(NamedTuple):
    """The module and name of a command, and its help text in the list of commands."""

    module: str
    name: str
    help: str


# The commands, grouped by purpose.  Each is loaded on use, so that `litebot --help` imports neither
# Buildbot nor SQLAlchemy.
GROUPS: dict[str, dict[str, Lazy]] = {
    "Make a master": {
        "create-master": Lazy("create_master", "create_master", "Make a basedir with a master."),
        "upgrade-master": Lazy(
            "upgrade_master", "upgrade_master", "Bring a basedir and its database up to date."
        ),
    },
    "Run it": {
        "start": Lazy("lifecycle", "start", "Start a master and wait until it answers."),
        "stop": Lazy("lifecycle", "stop", "Stop a master and wait until it is gone."),
        "restart": Lazy("lifecycle", "restart", "Stop a master if it runs, then start it."),
        "check-config": Lazy("check_config", "check_config", "Say what is wrong in master.cfg."),
        "reconfig": Lazy(
            "reconfig", "reconfig", "Make a running master load its configuration anew."
        ),
    },
    "Say what is built": {
        "project": Lazy("project", "project", "Add, change and remove projects, without Python."),
    },
    "Build": {
        "build": Lazy("build", "build", "Force a build and follow its log to the end."),
        "try": Lazy("buildbot", "try_", "Buildbot's: build your uncommitted changes."),
        "sendchange": Lazy("buildbot", "sendchange", "Buildbot's: send a change to a master."),
    },
    "See what goes on": {
        "status": Lazy("status", "status", "Say what a master does and what its start found."),
        "why": Lazy("why", "why", "Say what became of a change."),
        "report": Lazy("report", "report", "List and drop reports that are still to be sent."),
    },
    "Say who may log in": {
        "user": Lazy("user", "user", "Add, remove and list those who may log in."),
    },
    "Look after the database": {
        "check": Lazy("check", "check", "Say what is half done or damaged in it."),
        "cleanupdb": Lazy("cleanupdb", "cleanupdb", "Compress logs and give free space back."),
        "copy-db": Lazy("copy_db", "copy_db", "Copy it to an empty one elsewhere."),
        "move-database": Lazy(
            "move_database", "move_database", "Move a master to another one, compared."
        ),
    },
    "Rarely": {
        "version": Lazy("version", "version", "Say which versions are installed."),
        "tryserver": Lazy("buildbot", "tryserver", "Buildbot's: the master's side of try by SSH."),
        "dataspec": Lazy("buildbot", "dataspec", "Buildbot's: write the data API's specification."),
        "dev-proxy": Lazy("buildbot", "dev_proxy", "Buildbot's: the page before a distant master."),
    },
}
COMMANDS = {name: lazy for group in GROUPS.values() for name, lazy in group.items()}
# Buildbot's names for commands that have another name here.
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            from difflib import get_close_matches

            near = get_close_matches(name, [*COMMANDS, *ALIASES], n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {name!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, COMMANDS))
        for title, group in GROUPS.items():
            with formatter.section(title):
                rows = [(f"{name:<{widest}}", lazy.help) for name, lazy in group.items()]
                formatter.write_dl(rows)


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The basedir comes last and defaults to the current folder.  litebot COMMAND --help says"
    " more of each.\n\nExample:  litebot create-master ci && litebot start ci",
)
@click.version_option(__version__, prog_name="litebot")
@click.option("--debug", is_flag=True, help="Show where in the code an error arose.")
def litebot(debug: bool) -> None:  # main() reads --debug, to know it even if parsing fails
    """Buildbot, ready to run, on one crash-safe SQLite file."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 usage, 3 a check found something."""
    debug = "--debug" in (arguments if arguments is not None else sys.argv[1:])
    try:
        # litebot.main() returns the code of a click.Context.exit(); the commands return None.
        sys.exit(litebot.main(arguments, prog_name="litebot", standalone_mode=False) or Exit.DONE)
    except click.UsageError as error:
        _show_usage(error)
        sys.exit(Exit.USAGE)
    except click.Abort as abort:
        ended = isinstance(abort.__context__, EOFError)
        show_error(LitebotError("stdin ended before it answered" if ended else "interrupted"))
        sys.exit(Exit.FAILED)
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
        sys.exit(Exit.FAILED)
    except Exception as error:
        if debug:
            raise
        show_error(
            LitebotError(
                f"{type(error).__name__}: {error}",
                shlex.join(["litebot", "--debug", *(arguments or sys.argv[1:])]),
            )
        )
        sys.exit(Exit.FAILED)


def _show_usage(error: click.UsageError) -> None:
    what = error.format_message()
    if error.ctx is None:
        show_error(LitebotError(what, "litebot --help"))
    elif what == error.ctx.get_help():  # a group was named without a command of it
        print(what, file=sys.stderr)
    else:
        show_error(LitebotError(what, f"{error.ctx.command_path} --help"))


def show_error(error: LitebotError) -> None:
    """Print an error in the one form: what is wrong, then a remedy that can be typed."""
    print(f"litebot: {error.what}", file=sys.stderr)
    if error.hint:
        first, *more = error.hint.splitlines()
        print(f"  Try: {first}", *(f"       {line}" for line in more), sep="\n", file=sys.stderr)
