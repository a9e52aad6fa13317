"""Creates and migrates tables: Buildbot's as Buildbot makes them, and litebot's own beside them."""

from __future__ import annotations

import functools
import re
import secrets
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from buildbot.db import model
from sqlalchemy.schema import CreateColumn

from litebot.errors import StoreError
from litebot.master.db import tables

Migration = Callable[[sa.engine.Connection], None]

# Buildbot's tables whose long lists show a total.
COUNTED = ("builds", "buildrequests", "changes")


def _creation_of(*new: sa.Table | sa.Column[Any]) -> Migration:
    """Return a migration that creates tables, and adds columns to tables of older migrations."""

    def migrate(conn: sa.engine.Connection) -> None:
        for each in new:
            if isinstance(each, sa.Table):
                each.create(conn)
            else:
                _add_column(conn, each)

    return migrate


def _add_column(conn: sa.engine.Connection, column: sa.Column[Any]) -> None:
    """Add a column to the table of an older migration, unless that has created it already."""
    table = column.table.name
    if column.name not in {each["name"] for each in sa.inspect(conn).get_columns(table)}:
        described = CreateColumn(column).compile(conn)
        conn.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {described}")


def _create_deletion_counts(conn: sa.engine.Connection) -> None:
    rows = [{"name": name, "deleted": 0} for name in COUNTED]
    tables.deletions.create(conn)
    conn.execute(tables.deletions.insert(), rows)


def _create_commit_count(conn: sa.engine.Connection) -> None:
    tables.commits.create(conn)
    conn.execute(tables.commits.insert().values(database=secrets.token_hex(8), count=0))


def _create_collapsed(conn: sa.engine.Connection) -> None:
    tables.collapsed.create(conn)
    for index in tables.built.indexes:
        index.create(conn, checkfirst=True)


# They run in this order; the table litebot_schema holds how many of them have run.
MIGRATIONS: tuple[Migration, ...] = (
    _creation_of(tables.starts, tables.repairs),
    _creation_of(tables.scheduler_positions, tables.subscriptions, tables.built),
    _creation_of(tables.outbox),
    _create_deletion_counts,
    _creation_of(tables.deliveries),
    _create_commit_count,
    _creation_of(tables.pending_controls),
    _creation_of(tables.events, tables.starts.c.taken_over_at, tables.starts.c.taken_over_by),
    _creation_of(tables.configured, tables.outbox.c.masterid),
    _creation_of(tables.writers),
    _create_collapsed,
    _creation_of(tables.projects),
)

# Small indexes on Buildbot's tables, of the few rows that are unfinished: {name: (table, columns
# and condition)}.
PARTIAL_INDEXES = {
    "litebot_unfinished_buildrequests": (
        "buildrequests",
        # The condition is not "= 0": for that SQLite may use Buildbot's index on complete, which
        # also holds all finished requests.
        "(builderid, priority DESC, id) WHERE complete <> 1",
    ),
    "litebot_unfinished_by_age": (
        "buildrequests",
        "(builderid, submitted_at) WHERE complete <> 1",
    ),
    "litebot_unfinished_builds": ("builds", "(id) WHERE complete_at IS NULL"),
}


class Model(model.Model):
    """Buildbot's, but finds out without alembic whether a migration is missing."""

    def is_current(self) -> Any:
        return self.db.pool.do(is_buildbots)


# What the table migrate_version holds in Buildbot 0.9, and after the last migration that is not
# alembic's.  Source: buildbot/db/model.py
FIRST_OF_0P9, LAST_BEFORE_ALEMBIC = 40, 58

# The lines in which a migration of Buildbot's names itself, and the one that it follows.
REVISION = re.compile(r"""^(down_)?revision = (?:["'](\w+)["']|None)$""", re.MULTILINE)


@functools.cache
def buildbots_revisions() -> tuple[str, ...]:
    """Return the names of Buildbot's migrations, the oldest first.

    They are read as text, as importing alembic is expensive: see runtime.lazy_alembic.
    """
    after = {}
    for path in Path(Model.config_path).parent.glob("versions/[0-9]*.py"):
        found = dict(REVISION.findall(path.read_text(encoding="utf-8")))
        after[found["down_"]] = found[""]
    ordered = [after.pop("")]
    while ordered[-1] in after:
        ordered.append(after.pop(ordered[-1]))
    return tuple(ordered)


def buildbots_revision(conn: sa.engine.Connection) -> str | None:
    """Return the last of Buildbot's migrations that a database has had, or None."""
    if not sa.inspect(conn).has_table("alembic_version"):
        return None
    return conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def is_buildbots(conn: sa.engine.Connection) -> bool:
    """Return whether Buildbot's tables are those of this version of Buildbot."""
    return buildbots_revision(conn) == buildbots_revisions()[-1]


def make_buildbots(conn: sa.engine.Connection) -> None:
    """Create Buildbot's tables in an empty database, as its newest migration leaves them."""
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    Model.metadata.create_all(conn)
    scripts = ScriptDirectory.from_config(Config(Model.config_path))
    MigrationContext.configure(conn).stamp(scripts, buildbots_revisions()[-1])


def make(conn: sa.engine.Connection) -> None:
    """Create all tables in an empty database.  On Postgres the caller has to commit."""
    make_buildbots(conn)
    _upgrade(conn)


def lock(conn: sa.engine.Connection) -> None:
    """Keep others from creating tables until the transaction ends; on SQLite does nothing."""
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('litebot_schema'))")


def version(conn: sa.engine.Connection) -> int:
    """Return how many of litebot's migrations have run."""
    if not sa.inspect(conn).has_table(tables.versions.name):
        return 0
    return conn.execute(sa.select(tables.versions.c.version)).scalar() or 0


def is_older(conn: sa.engine.Connection) -> bool:
    """Return whether `upgrade` has migrations to run."""
    return version(conn) < len(MIGRATIONS)


def require(conn: sa.engine.Connection, name: str, basedir: str) -> None:
    """Raise StoreError if the database does not have the tables of a Buildbot since 3.0.

    The message calls the database `name`; `basedir` is quoted for a shell.
    """
    if buildbots_revision(conn) is None:
        raise StoreError(
            f"{name} holds no tables of a Buildbot since 3.0",
            f"name another one under [database] in litebot.toml, or move this one away, then:"
            f" litebot create-master --force {basedir}",
        )


def require_current(conn: sa.engine.Connection, name: str, basedir: str) -> None:
    """Like `require`, but also refuses tables that are not those of this Buildbot and litebot."""
    require(conn, name, basedir)
    if not is_buildbots(conn) or version(conn) != len(MIGRATIONS):
        raise StoreError(
            f"{name} does not have the tables of this Buildbot and this litebot",
            f"litebot upgrade-master {basedir}",
        )


def refuse_upgrade(conn: sa.engine.Connection, name: str) -> None:
    """Raise StoreError if neither `upgrade` nor Buildbot's own can bring the tables up to date.

    They are newer than this version, or older than Buildbot 3.0.  The message calls the database
    `name`.
    """
    inspector = sa.inspect(conn)
    revision = buildbots_revision(conn)
    if revision is not None and revision not in buildbots_revisions():
        raise StoreError(
            f"{name} has the tables of a newer Buildbot (revision {revision} is not known here)",
            "pip install --upgrade litebot",
        )
    if inspector.has_table("version"):
        raise _too_old(name, model.UpgradeFromBefore0p9Error())
    if inspector.has_table("migrate_version"):
        found = conn.exec_driver_sql("SELECT version FROM migrate_version").scalar() or 0
        if found < FIRST_OF_0P9:
            raise _too_old(name, model.UpgradeFromBefore0p9Error())
        if found != LAST_BEFORE_ALEMBIC:
            raise _too_old(name, model.UpgradeFromBefore3p0Error())
    refuse_newer(conn)


def _too_old(name: str, error: Exception) -> StoreError:
    return StoreError(f"{name}: {' '.join(str(error).split())}")


def refuse_newer(conn: sa.engine.Connection) -> None:
    """Raise StoreError if a newer litebot has created the tables."""
    done = version(conn)
    if done > len(MIGRATIONS):
        raise StoreError(
            f"litebot's tables were made by a newer litebot (version {done}; this one knows"
            f" {len(MIGRATIONS)})",
            "pip install --upgrade litebot",
        )


def upgrade(conn: sa.engine.Connection) -> None:
    """Bring litebot's tables and indexes up to date, all or nothing.

    Raises StoreError if a newer litebot has created them.
    """
    lock(conn)
    _upgrade(conn)
    conn.commit()


def _upgrade(conn: sa.engine.Connection) -> None:
    tables.versions.create(conn, checkfirst=True)
    done = conn.execute(sa.select(tables.versions.c.version)).scalar()
    if done is None:
        conn.execute(tables.versions.insert().values(version=0))
        done = 0
    refuse_newer(conn)
    for migration in MIGRATIONS[done:]:
        migration(conn)
    conn.execute(tables.versions.update().values(version=len(MIGRATIONS)))
    _make_indexes_and_triggers(conn)


def missing_indexes_and_triggers(conn: sa.engine.Connection) -> Iterator[str]:
    """Name the indexes and triggers that `upgrade` would create."""
    inspector = sa.inspect(conn)
    for name, (table, _) in PARTIAL_INDEXES.items():
        indexes = inspector.get_indexes(table) if inspector.has_table(table) else []
        if name not in {index["name"] for index in indexes}:
            yield f"the index {name}"
    if conn.dialect.name != "sqlite":
        return
    query = "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
    triggers = set(conn.exec_driver_sql(query).scalars())
    for name in COUNTED:
        if f"litebot_deleted_{name}" not in triggers:
            yield f"the trigger litebot_deleted_{name}"


def _make_indexes_and_triggers(conn: sa.engine.Connection) -> None:
    """Create indexes and triggers.  Runs at each start, as Buildbot's migrations may drop them."""
    there = sa.inspect(conn).get_table_names()
    for name, (table, rest) in PARTIAL_INDEXES.items():
        if table in there:
            conn.exec_driver_sql(f"CREATE INDEX IF NOT EXISTS {name} ON {table} {rest}")
    if conn.dialect.name != "sqlite":
        return  # totals are counted this way only on SQLite
    for name in COUNTED:
        if name in there:
            counts = sa.update(tables.deletions).where(tables.deletions.c.name == name)
            counts = counts.values(deleted=tables.deletions.c.deleted + 1)
            counting = counts.compile(conn, compile_kwargs={"literal_binds": True})
            conn.exec_driver_sql(
                f"CREATE TRIGGER IF NOT EXISTS litebot_deleted_{name}"
                f" AFTER DELETE ON {name} BEGIN {counting}; END"
            )
