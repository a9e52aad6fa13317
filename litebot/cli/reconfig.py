"""litebot reconfig"""

from __future__ import annotations

import click

from litebot.basedir import Basedir
from litebot.cli.client import post
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import quiet_option
from litebot.cli.common import working


@example("litebot reconfig ci")
@click.command()
@quiet_option
@basedir_argument
def reconfig(basedir: Basedir) -> None:
    """Make the master of BASEDIR load its configuration anew; a faulty one changes nothing."""
    basedir.require()
    with working("loading the configuration"):
        reply = post(basedir, "/reconfig", {})
    print(f"the master with pid {reply['pid']} runs on the new configuration")
