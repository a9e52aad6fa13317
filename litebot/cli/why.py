"""litebot why"""

from __future__ import annotations

from collections import Counter

import click

from litebot.basedir import Basedir
from litebot.cli.client import post
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import print_json
from litebot.cli.common import quiet_option
from litebot.cli.status import source_problem

# What is said of each scheduler but one where a change is of a project.
OTHERS = "ignored: it is of project "


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
    alike = Counter(each["what"] for each in reply["schedulers"] if each["what"].startswith(OTHERS))
    folded = {what: count for what, count in alike.items() if count > 1}
    shown = [each for each in reply["schedulers"] if each["what"] not in folded]
    width = max([len(each["scheduler"]) for each in shown], default=0)
    for each in shown:
        print(f"{each['scheduler']:<{width}}  {each['what']}")
    for what, count in folded.items():
        print(f"{count} others  {what}")
    for problem in reply["sources"]:
        print(f"{problem['source']}  {source_problem(problem)}")
