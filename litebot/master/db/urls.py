"""Translates database urls from the form of Buildbot's configuration to that of litebot.toml.

Source for how Buildbot interprets them: buildbot/db/enginestrategy.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from buildbot.interfaces import IRenderable
from sqlalchemy.engine import URL
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from litebot.errors import ConfigError
from litebot.settings.checks import DATABASE_FORMS
from litebot.settings.checks import SQLITE_PREFIX

USE_SETTINGS_HINT = "write the url, without its password, under [database] in litebot.toml"


def configured_url(config: dict[str, Any]) -> Any:
    """Return the url of c['db'] or c['db_url'], or None if there is none.  Raises ConfigError."""
    db = config.get("db") or {}
    if not isinstance(db, dict):
        raise ConfigError(f"it is a {type(db).__name__}; it must be a dict")
    return db.get("db_url", config.get("db_url"))


def parsed(url: Any) -> URL:
    """Parse `url`.  Raises ConfigError, which shows no password, if it is not a url."""
    if IRenderable.providedBy(url):
        raise ConfigError("its url is only known at run time", USE_SETTINGS_HINT)
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        shown = repr(url) if isinstance(url, str) and "@" not in url else "what it holds"
        raise ConfigError(f"{shown} is not the url of a database", DATABASE_FORMS) from None


def settings_url(url: Any, basedir: Path) -> str:
    """Return the url as litebot.toml has it: without driver, options and password.

    Raises ConfigError if litebot.toml can't name that database.
    """
    found = parsed(url)
    backend = found.get_backend_name()
    if backend == "sqlite":
        path = sqlite_path(found, basedir)
        if path is None:
            raise ConfigError("a database in memory holds nothing after a stop")
        path, basedir_path = path.parent.resolve() / path.name, basedir.resolve()
        return SQLITE_PREFIX + str(
            path.relative_to(basedir_path) if path.is_relative_to(basedir_path) else path
        )
    if backend != "postgresql":
        raise ConfigError(f"litebot keeps its state in SQLite or Postgres, not in {backend}")
    return found._replace(drivername="postgresql", password=None).render_as_string()


def url_without_password(url: Any, basedir: Path) -> str:
    """Like `settings_url`, but also raises ConfigError if the url holds a password."""
    found = settings_url(url, basedir)
    if parsed(url).password is not None:
        raise ConfigError(
            "the url holds a password, which litebot.toml must not",
            "put it into ~/.pgpass and remove it from the url; Postgres looks there",
        )
    as_typed = isinstance(url, str) and url.startswith("postgresql://")
    return url if as_typed else found


def sqlite_path(url: URL, basedir: Path) -> Path | None:
    """Return the file that a sqlite url names, or None for a database in memory.

    A relative path is relative to the basedir.
    """
    if not url.database or url.database == ":memory:":
        return None
    return basedir.absolute() / url.database.replace("%(basedir)s", str(basedir))
