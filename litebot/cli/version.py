"""litebot version"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import click

from litebot import __version__
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import print_json
from litebot.cli.common import quiet_option

PACKAGES = ("buildbot", "twisted", "sqlalchemy", "psycopg")


@example("litebot version")
@click.command()
@json_option
@quiet_option
def version(as_json: bool) -> None:
    """Say which versions are installed of litebot and of what it stands on.

    That of SQLite is the one that litebot uses, which need not be the system's.
    """
    from litebot.store import dbapi

    found: dict[str, str | None] = {"litebot": __version__}
    found |= {name: _installed(name) for name in PACKAGES}
    found["sqlite"] = ".".join(map(str, dbapi.sqlite_version_info))
    found["python"] = platform.python_version()
    if as_json:
        print_json(found)
        return
    for name, number in found.items():
        print(f"{name:<10}  {number or 'not installed'}")


def _installed(package: str) -> str | None:
    try:
        return installed(package)
    except PackageNotFoundError:
        return None
