"""litebot why"""

from __future__ import annotations

import click

from litebot.basedir import Basedir
from litebot.cli.client import post
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import print_json
from litebot.cli.common import quiet_option
from litebot.cli.status import source_problem


@example("litebot why 1 ci")
@click.command()
@json_option
@quiet_option
@click.argument("change")
@basedir_argument
def why(change: str, basedir: Basedir, as_json: bool) -> None:
    """Say what became of CHANGE, an id or the beginning of a revision, in the master of BASEDIR.

    For each scheduler: which buildset it is in, what it waits for, or why it is ignored.  Then what
    change sources can't do at present, as other changes may be missing.
    """
    basedir.require()
    reply = post(basedir, "/why", {"change": change})
    if as_json:
        print_json(reply)
        return
    width = max([len(outcome["scheduler"]) for outcome in reply["schedulers"]], default=0)
    for outcome in reply["schedulers"]:
        print(f"{outcome['scheduler']:<{width}}  {outcome['what']}")
    for problem in reply["sources"]:
        print(f"{problem['source']}  {source_problem(problem)}")
