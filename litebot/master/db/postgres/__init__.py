"""Postgres through psycopg 3: urls, passwords, engines and errors.

A url in litebot.toml names no driver and holds no password.  The password is in the file
secrets/database-password of the basedir, or where libpq looks for it: PGPASSWORD, the file that
PGPASSFILE names, ~/.pgpass.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from litebot.errors import StoreError
from litebot.master.db.postgres.remedies import remedy

DRIVER = "postgresql+psycopg"
# Of an engine that is given its connections: SQLAlchemy needs no more to know the dialect.
DIALECT_URL = f"{DRIVER}://"
EXTRA = "pip install 'litebot[postgres]'"
CREATE_EMPTY = "createdb --encoding=UTF8 --template=template0 NAME"
COMMAND_CONNECT_TIMEOUT_S = 10
PASSWORD_FILE = "secrets/database-password"  # noqa: S105 (the path of one)


def driver_url(url: str | URL) -> URL:
    """Return a postgresql:// url as SQLAlchemy needs it for psycopg 3.  Do not apply it twice."""
    made = make_url(url)
    # SQLAlchemy decodes every part of a url but the name of the database; libpq decodes every part.
    return made.set(drivername=DRIVER, database=made.database and unquote(made.database))


def application_name(masterid: int) -> str:
    """Return the application name of a master's connections, except that of its session."""
    return f"litebot master {masterid}"


def shown(url: str | URL) -> str:
    """Return a url for messages, as litebot.toml has it: without driver and password."""
    return make_url(url)._replace(drivername="postgresql", password=None).render_as_string()


def password(basedir: Path) -> str | None:
    """Return the password in the basedir's file, or None, which leaves it to libpq to find one.

    Raises OSError if the file can't be read.
    """
    try:
        return (basedir / PASSWORD_FILE).read_text(encoding="utf-8").rstrip("\r\n")
    except FileNotFoundError:
        return None


def require_driver(url: str | URL) -> None:
    """Raise StoreError if psycopg is not installed."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise StoreError(f"{shown(url)} needs psycopg 3: {error}", EXTRA) from error


def engine_for(url: str | URL, basedir: Path) -> sa.Engine:
    """Return an engine for commands, whose connections are each a new one to the server.

    If the url names several hosts, it connects to the one that accepts writes.  Raises StoreError
    if psycopg is not installed.
    """
    require_driver(url)
    # SQLAlchemy must not log an interrupt that comes while a connection is closed: the command
    # reports it.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    secret = password(basedir)
    options: dict[str, Any] = {
        "client_encoding": "utf8",
        "connect_timeout": COMMAND_CONNECT_TIMEOUT_S,
    }
    options |= {} if secret is None else {"password": secret}
    made = driver_url(url)
    hosts = [made.host or "", *made.normalized_query.get("host", ())]
    if "," in ",".join(filter(None, hosts)):
        options["target_session_attrs"] = "read-write"
    options = {name: value for name, value in options.items() if name not in made.query}
    return sa.create_engine(
        made, connect_args=options, poolclass=NullPool, pool_reset_on_return=None
    )


def refuse_encoding(encoding: str, name: str) -> None:
    """Raise StoreError if the database, which messages call `name`, can't store every text."""
    if encoding != "UTF8":
        raise StoreError(
            f"{name} has the encoding {encoding}; logs and changes need UTF8", CREATE_EMPTY
        )


@contextmanager
def translated_errors(url: str | URL) -> Iterator[None]:
    """Turn errors of the server or the driver into StoreErrors with the same message."""
    import psycopg

    try:
        yield
    except (psycopg.Error, sa.exc.DBAPIError) as error:
        raise refusal(url, error) from error


def refusal(url: str | URL, error: Exception) -> StoreError:
    """Return a StoreError with the message of a psycopg or SQLAlchemy error, and a remedy."""
    import psycopg

    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    hint = remedy(cause, driver_url(url)) if isinstance(cause, psycopg.Error) else None
    if hint is None and isinstance(cause, psycopg.OperationalError):
        hint = f"psql '{shown(url)}'"
    return StoreError(f"{shown(url)}: {' '.join(lines)}", hint)
