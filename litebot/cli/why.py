"""litebot why"""

from __future__ import annotations

import json

import click

from litebot.basedir import Basedir
from litebot.cli.client import post
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import json_option


@example("litebot why 1 ci")
@click.command()
@json_option
@click.argument("change")
@basedir_argument
def why(change: str, basedir: Basedir, as_json: bool) -> None:
    """Say what became of CHANGE, an id or the beginning of a revision, in the master of BASEDIR.

    For each scheduler: which buildset it is in, what it waits for, or why it is ignored.
    """
    basedir.require()
    reply = post(basedir, "/why", {"change": change})
    if as_json:
        print(json.dumps(reply, indent=1))
        return
    width = max([len(outcome["scheduler"]) for outcome in reply["schedulers"]], default=0)
    for outcome in reply["schedulers"]:
        print(f"{outcome['scheduler']:<{width}}  {outcome['what']}")
