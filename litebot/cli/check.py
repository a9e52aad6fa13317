"""litebot check"""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from litebot.basedir import Basedir
from litebot.cli.common import Exit
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import print_json
from litebot.cli.common import quiet_option
from litebot.cli.common import tell
from litebot.cli.progress import working


@example("litebot check ci")
@click.command()
@json_option
@quiet_option
@basedir_argument
def check(basedir: Basedir, as_json: bool) -> None:
    """Look over the database of BASEDIR, and change nothing; its master may run.

    Asks what a start asks, without repairing, and whether the file is sound.  Exits with 3 where
    it finds something.
    """
    basedir.require()
    from litebot.master.admin.check import check as look

    with working(f"checking the database of {basedir.path}"):
        found = look(basedir)
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        for finding in found:
            print(f"{finding.kind}: {finding.message}")
        if not found:
            tell("nothing is wrong")
    if found:
        sys.exit(Exit.FOUND)
