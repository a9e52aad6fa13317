"""Database urls as Buildbot's configuration has them, in the form that litebot.toml has.

Source of what Buildbot makes of them: buildbot/db/enginestrategy.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from buildbot.interfaces import IRenderable
from sqlalchemy.engine import URL
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from litebot.errors import ConfigError
from litebot.settings import DATABASE_FORMS
from litebot.settings import SQLITE_PREFIX

AS_IN_SETTINGS = "write the url, without its password, under [database] in litebot.toml"


def configured_url(config: dict[str, Any]) -> Any:
    """The url of c['db'] or c['db_url'], or None without one.  Raises ConfigError."""
    db = config.get("db") or {}
    if not isinstance(db, dict):
        raise ConfigError(f"it is a {type(db).__name__}; it must be a dict")
    return db.get("db_url", config.get("db_url"))


def parsed(url: Any) -> URL:
    """What `url` says.  Raises ConfigError, which shows no password, where it is no url."""
    if IRenderable.providedBy(url):
        raise ConfigError("its url is only known at run time", AS_IN_SETTINGS)
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        shown = repr(url) if isinstance(url, str) and "@" not in url else "what it holds"
        raise ConfigError(f"{shown} is not the url of a database", DATABASE_FORMS) from None


def settings_url(url: Any, basedir: Path) -> str:
    """The same database as litebot.toml names it: without driver, options and password.

    Raises ConfigError where litebot.toml can't name it.
    """
    found = parsed(url)
    backend = found.get_backend_name()
    if backend == "sqlite":
        path = sqlite_path(found, basedir)
        if path is None:
            raise ConfigError("a database in memory holds nothing after a stop")
        path, home = path.parent.resolve() / path.name, basedir.resolve()
        return SQLITE_PREFIX + str(path.relative_to(home) if path.is_relative_to(home) else path)
    if backend != "postgresql":
        raise ConfigError(f"litebot keeps its state in SQLite or Postgres, not in {backend}")
    return found._replace(drivername="postgresql", password=None).render_as_string()


def url_without_password(url: Any, basedir: Path) -> str:
    """As `settings_url`; raises ConfigError where the url holds a password, too."""
    found = settings_url(url, basedir)
    if parsed(url).password is not None:
        raise ConfigError(
            "the url holds a password, which litebot.toml must not",
            "put it into ~/.pgpass and remove it from the url; Postgres looks there",
        )
    as_typed = isinstance(url, str) and url.startswith("postgresql://")
    return url if as_typed else found


def sqlite_path(url: URL, basedir: Path) -> Path | None:
    """The file that a sqlite url names, relative to the basedir; None for one in memory."""
    if not url.database or url.database == ":memory:":
        return None
    return basedir.absolute() / url.database.replace("%(basedir)s", str(basedir))
