"""litebot create-master"""

from __future__ import annotations

from pathlib import Path

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import quiet_option
from litebot.cli.common import tell
from litebot.cli.progress import working
from litebot.errors import ConfigError
from litebot.errors import LitebotError


@example("litebot create-master ci")
@click.command()
@click.option(
    "--force", "-f", is_flag=True, help="Add what is missing to a folder that is not empty."
)
@click.option(
    "--database",
    "--db",
    metavar="URL",
    help="Where the state is kept, such as postgresql://USER@HOST/NAME.  [default: state.sqlite]",
)
@click.option(
    "--join", metavar="URL", help="Become a further master on the Postgres database of others."
)
@click.option(
    "--like",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The same, with the database and the configuration of the master in this basedir.",
)
@click.option("--config", "-c", metavar="NAME", help="The configuration.  [default: master.cfg]")
@click.option(
    "--log-size", "-s", metavar="BYTES", type=click.IntRange(1), help="Rotate twistd.log then."
)
@click.option("--log-count", "-l", metavar="N", help="Keep N old logs, or 'None' for all.")
@click.option("--no-logrotate", "-n", is_flag=True, help="Never rotate twistd.log.")
# Options of Buildbot without effect: every basedir is what they ask for.
@click.option("--relocatable", "-r", is_flag=True, hidden=True, expose_value=False)
@click.option("--develop", "-d", is_flag=True, hidden=True, expose_value=False)
@quiet_option
@basedir_argument
def create_master(
    basedir: Basedir,
    force: bool,
    database: str | None,
    join: str | None,
    like: Path | None,
    config: str | None,
    log_size: int | None,
    log_count: str | None,
    no_logrotate: bool,
) -> None:
    """Make BASEDIR with a master, its database and a sample project that it builds.

    Prints the page's address and a login; the password is shown this once.  With --database the
    tables are made in an empty database of a Postgres server, whose password is in ~/.pgpass or
    PGPASSWORD.  With --join a second master shares the work of those that are there.  With
    --quiet the password is not shown at all; litebot user passwd gives another.
    """
    kept = _count(log_count)
    if config is not None and Path(config).is_absolute():
        raise click.UsageError(f"--config is {config!r}; it must be relative to the basedir")
    with working(f"creating {basedir.path}"):
        from litebot.master.admin.create import Choices
        from litebot.master.admin.create import create

        if like is not None and join is None:
            join = _database_of(Basedir(like))
        joins = join is not None
        if joins and database is not None:
            raise click.UsageError("a master joins others or has a database of its own")
        option, url = ("--join", join) if joins else ("--database", database)
        url = _settings_url(option, url, basedir) if url is not None else None
        size = 0 if no_logrotate else log_size
        choices = Choices(url, config, size, kept, join=joins, like=like)
        created = create(basedir.path, force=force, choices=choices)
    if not created.added:
        tell(f"{basedir.path} has all it needs; nothing was changed")
    elif created.kept:
        tell(f"added to {basedir.path}: {', '.join(created.added)}")
        tell(f"left as it was: {', '.join(created.kept)}")
    else:
        tell(f"created a master in {basedir.path}")
    tell("")
    url = created.settings.web.public_url
    if url:
        tell(f"  page      {url}")
        tell(f"  projects  {url}litebot/")
    if created.password:
        tell("  login     admin")
        anew = f"litebot user passwd admin {basedir.quoted}"
        tell(f"  password  {created.password}   (shown once; {anew})")
    if "project" in created.added:
        tell(f"  project   {basedir.path / 'project'}   (commit to it and watch the build go)")
    if joins and "master.cfg" not in (*created.added, *created.kept) and config is None:
        tell("\nCopy from another master: master.cfg with its modules, users, secrets/")
    tell(f"\nNext: litebot start {basedir.quoted}")


def _count(text: str | None) -> int | None:
    if text is None or text == "None":
        return None if text is None else 0
    if not text.isdecimal() or int(text) == 0:
        raise click.UsageError(f"--log-count is {text!r}; it must be a number from 1 on, or None")
    return int(text)


def _settings_url(option: str, url: str, basedir: Basedir) -> str:
    from litebot.master.db.urls import url_without_password

    try:
        found = url_without_password(url, basedir.path)
        if option == "--join" and not found.startswith("postgresql:"):
            raise ConfigError(f"{found} is a file, which one master can have")
        return found
    except ConfigError as error:
        raise LitebotError(f"{option}: {error.what}", error.hint) from error


def _database_of(other: Basedir) -> str:
    """Return the url of another master's database.  Raises LitebotError if it can't be shared."""
    from litebot.settings import load

    other.require()
    database = load(other.settings_file).database
    if database.sqlite_path(other.path) is not None:
        raise LitebotError(
            f"{other.path} keeps its state in a file, which one master can have",
            f"litebot move-database postgresql://USER@HOST/NAME {other.quoted}",
        )
    return database.url
