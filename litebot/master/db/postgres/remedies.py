"""Remedies for errors of a Postgres server or its driver."""

from __future__ import annotations

import shlex
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

# Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
INSUFFICIENT_PRIVILEGE = "42501"

IS_DATABASE_MISSING = """
SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = :name),
    EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolcreatedb))
"""
PROBE_S = 3


def remedy(error: Any, url: URL) -> str | None:
    """Return what to type after an error of psycopg's, or None.  `url` is in SQLAlchemy's form.

    psycopg has no error code for a connection that the server refuses, so the server is asked
    whether the database exists.
    """
    if error.sqlstate == INSUFFICIENT_PRIVILEGE:
        return _become_owner(url)
    tried = error.pgconn
    if tried is None or error.sqlstate is not None:
        return None
    if tried.needs_password:
        line = f"{_text(tried.host) or 'localhost'}:{_text(tried.port)}:*:{_text(tried.user)}"
        return (
            f"(umask 077; echo {shlex.quote(line + ':PASSWORD')} >> ~/.pgpass), or set PGPASSWORD"
        )
    return _create(tried, url)


def _become_owner(url: URL) -> str:
    statement = f'ALTER DATABASE "{url.database}" OWNER TO "{url.username}"'
    return f"as a superuser of the server: psql -c {shlex.quote(statement)}"


def _create(tried: Any, url: URL) -> str | None:
    """Return the command that creates the database, or None if it exists or can't be asked for."""
    name, host, user = _text(tried.db), _text(tried.host), _text(tried.user)
    options = {"connect_timeout": PROBE_S, "password": _text(tried.password)}
    engine = sa.create_engine(
        url.set(database="postgres"), connect_args=options, poolclass=NullPool
    )
    try:
        with engine.connect() as conn:
            missing, may_create = conn.execute(sa.text(IS_DATABASE_MISSING), {"name": name}).one()
    except DBAPIError:
        return None
    if not missing:
        return None
    command = ["createdb", f"--port={_text(tried.port)}", "--encoding=UTF8", "--template=template0"]
    command += [f"--host={host}"] if host else []
    command += [f"--username={user}"] if may_create else [f"--owner={user}"]
    line = shlex.join([*command, name])
    return line if may_create else f"as a superuser of the server: {line}"


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
