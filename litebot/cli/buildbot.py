"""Commands that are Buildbot's own, handed on with their arguments as they are."""

from __future__ import annotations

import sys
from typing import Any
from typing import NoReturn

import click


def run_buildbot(name: str, arguments: list[str]) -> NoReturn:
    """Run a command of Buildbot in this process and exit with its exit code."""
    from buildbot.scripts import runner

    sys.argv = ["litebot", name, *arguments]
    if name == "dataspec":
        # It loads Buildbot's tests, which turn every warning into an error; this one warns.
        import buildbot.data.forceschedulers  # noqa: F401
    try:
        runner.run()
    except SystemExit as end:
        # A command of Buildbot that failed with an exception ends with None, which counts as 0.
        sys.exit(1 if end.code is None else end.code)
    sys.exit(0)


class HandedOn(click.Command):
    """A command whose arguments, --help among them, are for Buildbot to read."""

    def __init__(self, name: str) -> None:
        super().__init__(name, add_help_option=False)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        assert self.name is not None
        run_buildbot(self.name, args)

    def invoke(self, ctx: click.Context) -> Any:
        raise AssertionError("parse_args does not return")


sendchange = HandedOn("sendchange")
try_ = HandedOn("try")
tryserver = HandedOn("tryserver")
dataspec = HandedOn("dataspec")
dev_proxy = HandedOn("dev-proxy")
