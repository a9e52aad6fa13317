"""litebot reconfig"""

from __future__ import annotations

import shlex

import click

from litebot.basedir import Basedir
from litebot.cli.client import post
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import quiet_option
from litebot.cli.common import tell
from litebot.cli.progress import working
from litebot.errors import LitebotError


@example("litebot reconfig ci")
@click.command()
@click.option(
    "--timeout",
    "--progress_timeout",  # Buildbot's name
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to wait for its end.  [default: as long as it takes]",
)
@quiet_option
@basedir_argument
def reconfig(basedir: Basedir, timeout_s: float | None) -> None:
    """Make the master of BASEDIR load its configuration anew; a faulty one changes nothing."""
    basedir.require()
    try:
        with working("loading the configuration"):
            reply = post(basedir, "/reconfig", {}, timeout_s)
    except TimeoutError as error:
        raise LitebotError(
            f"the reconfig of {basedir.path} has not ended after {timeout_s:g} s; it goes on",
            f"tail -f {shlex.quote(str(basedir.log_file))}",
        ) from error
    tell(f"the master with pid {reply['pid']} runs on the new configuration")
