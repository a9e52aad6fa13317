"""Buildbot's own commands, which Buildbot runs with their arguments unchanged."""

from __future__ import annotations

import sys
from typing import Any
from typing import NoReturn

import click

from litebot.cli.common import Exit
from litebot.errors import LitebotError


class HandedOn(click.Command):
    """A command whose arguments, including --help, Buildbot parses."""

    def __init__(self, name: str, example: str) -> None:
        super().__init__(name, add_help_option=False, epilog=f"Example:  litebot {name} {example}")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Run the command in this process and exit with its exit code.

        Raises click.UsageError for wrong arguments.
        """
        from buildbot import config
        from buildbot.scripts import runner
        from twisted.python.usage import UsageError

        assert self.name is not None
        sys.argv = ["litebot", self.name, *args]
        if self.name == "dataspec":
            # dataspec loads Buildbot's tests, which turn every warning into an error.  This module
            # warns when it is imported, so it must be imported first.
            import buildbot.data.forceschedulers  # noqa: F401
        # As runner.run() does, except for the exit code on wrong usage and for the example.
        runner.check_functional_environment(config)
        options = runner.Options()
        try:
            options.parseOptions(sys.argv[1:])
        except UsageError as error:
            raise click.UsageError(str(error), ctx) from error
        except SystemExit as end:
            if not end.code:
                print(f"\n{self.epilog}")
            raise
        _run(options.subOptions)

    def invoke(self, ctx: click.Context) -> Any:
        raise AssertionError("parse_args does not return")


def _run(options: Any) -> NoReturn:
    from twisted.python.reflect import namedObject

    try:
        code = namedObject(options.subcommandFunction)(options)
    except SystemExit as end:
        code = end.code
    except ImportError as error:
        raise LitebotError(
            f"this command of Buildbot's needs {error.name}, which is not installed",
            f"pip install {error.name}",
        ) from error
    # A Buildbot command that fails with an exception returns None, which would exit with 0.
    sys.exit(Exit.FAILED if code is None else code)


sendchange = HandedOn(
    "sendchange",
    "--master 127.0.0.1:9990 --auth hook:PASSWORD --who ada --branch main README.md",
)
try_ = HandedOn(
    "try",
    "--connect pb --master 127.0.0.1:9991 --username ada --passwd PASSWORD --vc git -b hello",
)
tryserver = HandedOn("tryserver", "--jobdir ci/jobdir <job")
dataspec = HandedOn("dataspec", "--out spec.json")
dev_proxy = HandedOn("dev-proxy", "--port 8011 --buildbot_url http://127.0.0.1:8010 ci")
