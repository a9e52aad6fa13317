"""litebot create-master"""

from __future__ import annotations

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import quiet_option
from litebot.cli.common import working


@example("litebot create-master ci")
@click.command()
@click.option("--force", is_flag=True, help="Add what is missing to a folder that is not empty.")
@quiet_option
@basedir_argument
def create_master(basedir: Basedir, force: bool) -> None:
    """Make BASEDIR with a master, its state file and a sample project that it builds.

    Prints the page's address and a login; the password is shown this once.
    """
    with working(f"creating {basedir.path}"):
        from litebot.master.create import create

        created = create(basedir.path, force=force)
    if not created.added:
        print(f"{basedir.path} has all it needs; nothing was changed")
    elif created.kept:
        print(f"added to {basedir.path}: {', '.join(created.added)}")
        print(f"left as it was: {', '.join(created.kept)}")
    else:
        print(f"created a master in {basedir.path}")
    print()
    url = created.settings.web.public_url
    if url:
        print(f"  page      {url}")
    if created.password:
        print("  login     admin")
        anew = f"litebot user passwd admin {basedir.quoted}"
        print(f"  password  {created.password}   (shown once; {anew})")
    if "project" in created.added:
        print(f"  project   {basedir.path / 'project'}   (commit to it and watch the build go)")
    print(f"\nNext: litebot start {basedir.quoted}")
