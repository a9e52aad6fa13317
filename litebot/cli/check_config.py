"""litebot check-config"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import click

from litebot.basedir import Basedir
from litebot.cli.common import Exit
from litebot.cli.common import basedir_argument
from litebot.cli.common import discard_log
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import print_json
from litebot.cli.common import quiet_option
from litebot.cli.common import say
from litebot.cli.common import tell
from litebot.cli.progress import working
from litebot.errors import BasedirError
from litebot.errors import LitebotError
from litebot.errors import StoreError
from litebot.projects.definition import Project
from litebot.settings import Settings


class ConfigFaulty(LitebotError):
    """The configuration has errors."""

    exit_code = Exit.FOUND


# The form of an error with its place; some errors have no line, and some no file.
PLACED = re.compile(r"(?:(?P<file>/.*?)(?::(?P<line>\d+))?: )?(?P<message>.*)", re.DOTALL)


@example("litebot check-config ci")
@click.command()
@json_option
@quiet_option
@basedir_argument
def check_config(basedir: Basedir, as_json: bool) -> None:
    """Load the configuration of BASEDIR and say what is wrong in it, and in which line.

    BASEDIR may also name a configuration file.  Exits with 3 where something is wrong.  Buildbot's
    name of this command, checkconfig, works too.
    """
    config = _config_file(basedir)
    folder = config.parent if basedir.path.is_file() else basedir.path
    with working(f"loading {config}"):
        from buildbot.config.errors import ConfigErrors

        from litebot.master.configuration.loader import ConfigLoader
        from litebot.master.projects.kept.store import projects_in

        discard_log()
        # As a start does: the configuration may read files beside it, and import modules.
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        unread: list[str] = []

        def projects(settings: Settings) -> list[Project]:
            try:
                return projects_in(Basedir(folder), settings)
            except StoreError as error:
                unread.append(f"the projects of the page are not checked: {error.what}")
                return []

        is_basedir = not basedir.path.is_file()
        loader = ConfigLoader(str(folder), str(config), projects=projects if is_basedir else None)
        found: list[str] = []
        try:
            loader.loadConfig()
        except ConfigErrors as errors:
            found = errors.errors
    if as_json:
        print_json(
            {
                "config": str(config),
                "good": not found,
                "errors": [_placed(error) for error in found],
                "notes": [*loader.notes, *unread],
            }
        )
        sys.exit(Exit.FOUND if found else Exit.DONE)
    if found:
        raise ConfigFaulty("the configuration has errors:\n" + "\n".join(found))
    for note in (*loader.notes, *unread):
        say(f"note: {note}")
    tell(f"{config} is good")


def _placed(error: str) -> dict[str, Any]:
    parts = PLACED.fullmatch(error)
    assert parts is not None
    line = parts["line"]
    return {**parts.groupdict(), "line": int(line) if line else None}


def _config_file(basedir: Basedir) -> Path:
    if basedir.path.is_file():
        return basedir.path
    basedir.require()
    if not basedir.config_file.exists():
        raise BasedirError(
            f"{basedir.config_file} does not exist",
            f"litebot create-master --force {basedir.quoted}",
        )
    return basedir.config_file
