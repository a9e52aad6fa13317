"""litebot upgrade-master"""

from __future__ import annotations

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import discard_log
from litebot.cli.common import dry_run_option
from litebot.cli.common import example
from litebot.cli.common import print_plan
from litebot.cli.common import quiet_option
from litebot.cli.common import tell
from litebot.cli.progress import working


@example("litebot upgrade-master ci")
@click.command()
# Options of Buildbot without effect: no files are replaced or linked here.
@click.option("--replace", "-r", is_flag=True, hidden=True, expose_value=False)
@click.option("--develop", "-d", is_flag=True, hidden=True, expose_value=False)
@dry_run_option
@quiet_option
@basedir_argument
def upgrade_master(basedir: Basedir, dry_run: bool) -> None:
    """Bring BASEDIR and its database up to date; its master must be stopped.

    A basedir of stock Buildbot becomes one of litebot; its master.cfg is not touched.
    """
    if dry_run:
        with working(f"looking at {basedir.path}"):
            from litebot.master.admin.plan.upgrade import plan

            discard_log()
            planned = plan(basedir)
        print_plan(planned, f"{basedir.path} is up to date; nothing would be done")
        return
    with working(f"upgrading {basedir.path}"):
        from litebot.master.admin.upgrade import upgrade

        discard_log()
        created = upgrade(basedir)
    tell(f"{basedir.path} is up to date" + _added(created.added))
    if created.password:
        tell("  login     admin")
        tell(f"  password  {created.password}   (shown once)")
    tell(f"\nNext: litebot start {basedir.quoted}")


def _added(names: list[str]) -> str:
    return f"; added {', '.join(names)}" if names else ""
