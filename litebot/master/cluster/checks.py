"""Checks whether a master can use a database together with the other masters there."""

from __future__ import annotations

import shlex

import sqlalchemy as sa

from litebot.errors import StoreError
from litebot.master.cluster.peers import running
from litebot.master.db import postgres

OTHER_SCHEMAS = """
SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relname = 'litebot_starts' AND relkind IN ('r', 'p')
    AND pg_class.oid IS DISTINCT FROM to_regclass('litebot_starts')
"""

# Source for who may end connections: https://www.postgresql.org/docs/current/functions-admin.html
OTHER_USERS = """
SELECT usename, session_user FROM pg_stat_activity
WHERE datname = current_database() AND application_name ~ '^litebot master [0-9]+$' AND NOT (
    (pg_has_role(usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))
    AND (pg_has_role(usesysid, session_user, 'USAGE')
        OR pg_has_role(usesysid, 'pg_signal_backend', 'USAGE'))
)
"""


def refuse_strangers(conn: sa.engine.Connection, name: str) -> None:
    """Raise StoreError if this user and a running master's can't end each other's connections.

    A master that takes over must be able to do that.
    """
    row = conn.exec_driver_sql(OTHER_USERS).first()
    if row is not None:
        raise StoreError(
            f"a master on {name} connects as the user {row[0]}, and this one would as {row[1]};"
            " each of them must be able to end the connections of the other",
            f"connect all masters as the same user: [database] url = 'postgresql://{row[0]}@...'",
        )


def refuse_two_sites(conn: sa.engine.Connection, name: str) -> None:
    """Raise StoreError if another schema of the database holds the tables of masters.

    Locks, events and connections are distinguished by database only, so those of masters in the
    other schema would be taken for those of masters in this one.
    """
    found = conn.exec_driver_sql(OTHER_SCHEMAS).scalars().first()
    if found is not None:
        raise StoreError(
            f"the schema {found} of {name} holds the tables of a master, too; masters that do not"
            " belong together need a database each",
            postgres.CREATE_EMPTY,
        )


def refuse_running(conn: sa.engine.Connection, name: str, own: str) -> None:
    """Raise StoreError while a master other than `own` runs on the tables."""
    others = [each for each in running(conn) if each != own]
    if others:
        host, _, basedir = others[0].partition(":")
        raise StoreError(
            f"{name} has a running master {others[0]}"
            f"{f' and {len(others) - 1} more' if len(others) > 1 else ''}; the upgrade needs all"
            " of them stopped",
            f"on {host}: litebot stop {shlex.quote(basedir)}",
        )
