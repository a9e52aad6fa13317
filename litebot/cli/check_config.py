"""litebot check-config"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import discard_log
from litebot.cli.common import example
from litebot.cli.common import quiet_option
from litebot.cli.common import say
from litebot.cli.common import working
from litebot.errors import BasedirError
from litebot.errors import LitebotError


class ConfigFaulty(LitebotError):
    """The check has found something."""

    exit_code = 3


@example("litebot check-config ci")
@click.command()
@quiet_option
@basedir_argument
def check_config(basedir: Basedir) -> None:
    """Load the configuration of BASEDIR and say what is wrong in it, and in which line.

    BASEDIR may also name a configuration file.  Exits with 3 where something is wrong.
    """
    config = _config_file(basedir)
    folder = config.parent if basedir.path.is_file() else basedir.path
    with working(f"loading {config}"):
        from buildbot.config.errors import ConfigErrors

        from litebot.master.configuration.loader import ConfigLoader

        discard_log()
        # As a start does: the configuration may read files beside it, and import them.
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        try:
            loader = ConfigLoader(str(folder), str(config))
            loader.loadConfig()
        except ConfigErrors as errors:
            raise ConfigFaulty("the configuration has errors:\n" + str(errors)) from errors
    for note in loader.notes:
        say(f"note: {note}")
    print(f"{config} is good")


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
