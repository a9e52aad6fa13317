"""Making tables: Buildbot's as Buildbot makes them, and litebot's own beside them.

Ours are all named litebot_*, and stock Buildbot ignores them.  Each migration is a function of a
connection; the table litebot_schema holds how many have run.  They use SQLAlchemy only for what
differs between databases.
"""

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

from litebot.errors import StoreError

metadata = sa.MetaData()

versions = sa.Table("litebot_schema", metadata, sa.Column("version", sa.Integer, nullable=False))

# One row for each start of a master on this database.
starts = sa.Table(
    "litebot_starts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("master", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    # NULL while it runs, and for ever after a crash that no other master has cleaned up after.
    sa.Column("stopped_at", sa.Float),
    # When and by which other master it was found dead; from then on it may write nothing.
    sa.Column("taken_over_at", sa.Float),
    sa.Column("taken_over_by", sa.Text),
)

# What a start found half done and set right, one row each.
repairs = sa.Table(
    "litebot_repairs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("startid", sa.Integer, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("buildid", sa.Integer),
    sa.Column("message", sa.Text, nullable=False),
)

# The last change that a scheduler has dealt with; see handover.changes.
handovers = sa.Table(
    "litebot_handovers",
    metadata,
    sa.Column("schedulerid", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("changeid", sa.Integer, nullable=False),
)

# What the state of a Dependent scheduler is going to gain (wanted=1) or lose (0); see
# handover.subscriptions.
subscriptions = sa.Table(
    "litebot_subscriptions",
    metadata,
    sa.Column("objectid", sa.Integer, nullable=False),
    sa.Column("bsid", sa.Integer, nullable=False),
    sa.Column("wanted", sa.Integer, nullable=False),
)


# Which changes a scheduler made a buildset of.
built = sa.Table(
    "litebot_built",
    metadata,
    sa.Column("changeid", sa.Integer, nullable=False, index=True),
    sa.Column("schedulerid", sa.Integer, nullable=False),
    sa.Column("bsid", sa.Integer, nullable=False),
)


# What a reporter has still to tell; see master.outbox.
outbox = sa.Table(
    "litebot_outbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    # Which master is to tell it; of old rows 0.
    sa.Column("masterid", sa.Integer, nullable=False, server_default="0"),
    # "" stands for all of them.
    sa.Column("reporter", sa.Text, nullable=False),
    # "builds" or "buildsets", and the id of one.
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("about", sa.Integer, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    # NULL while it is told for the first time, and when it is given up; the last attempt's error.
    sa.Column("retry_at", sa.Float),
    sa.Column("error", sa.Text),
)

# How many rows of a table of COUNTED have been deleted; see store.sql.
deletions = sa.Table(
    "litebot_deletions",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("deleted", sa.Integer, nullable=False),
)

# What was delivered to a hook or by mail, and stored; see handover.sources.
deliveries = sa.Table(
    "litebot_deliveries",
    metadata,
    # A hash: what is delivered says how long its name is.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("taken_at", sa.Float, nullable=False, index=True),
)


# One row: a name that no other database has, and how many commits it has seen; see master.tally.
commits = sa.Table(
    "litebot_commits",
    metadata,
    sa.Column("database", sa.Text, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
)


# What users have told the master to stop or cancel, until that is done; see master.told.
told = sa.Table(
    "litebot_told",
    metadata,
    # "buildrequests" or "workers", and the id of one.
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("about", sa.Integer, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)


# What masters on one Postgres tell each other; see postgres.events.
events = sa.Table(
    "litebot_events",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("masterid", sa.Integer, nullable=False),
    # Counts those of one master.
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("sent_at", sa.Float, nullable=False),
    # The routing key and the message, as JSON.
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)


# What each master on one database has configured; see master.configured.
configured = sa.Table(
    "litebot_configured",
    metadata,
    sa.Column("masterid", sa.Integer, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
)


# The last transaction of each connection that writes to a Postgres; see postgres.numbers.
writers = sa.Table(
    "litebot_writers",
    metadata,
    # A name that no other one has; one that connects again keeps it.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("begun_at", sa.Float, nullable=False),
)


def _starts_and_repairs(conn: sa.engine.Connection) -> None:
    starts.create(conn)
    repairs.create(conn)


def _handovers_and_subscriptions(conn: sa.engine.Connection) -> None:
    handovers.create(conn)
    subscriptions.create(conn)
    built.create(conn)


def _outbox(conn: sa.engine.Connection) -> None:
    outbox.create(conn)


def _deletions(conn: sa.engine.Connection) -> None:
    deletions.create(conn)
    conn.execute(deletions.insert(), [{"name": name, "deleted": 0} for name in COUNTED])


def _deliveries(conn: sa.engine.Connection) -> None:
    deliveries.create(conn)


def _commits(conn: sa.engine.Connection) -> None:
    commits.create(conn)
    conn.execute(commits.insert().values(database=secrets.token_hex(8), count=0))


def _told(conn: sa.engine.Connection) -> None:
    told.create(conn)


def _events(conn: sa.engine.Connection) -> None:
    events.create(conn)
    _add(conn, starts.c.taken_over_at)
    _add(conn, starts.c.taken_over_by)


def _configured(conn: sa.engine.Connection) -> None:
    configured.create(conn)
    _add(conn, outbox.c.masterid, "NOT NULL DEFAULT 0")


def _writers(conn: sa.engine.Connection) -> None:
    writers.create(conn)


def _add(conn: sa.engine.Connection, column: sa.Column[Any], more: str = "") -> None:
    """Add a column to a table that an older migration made, unless it has made it with it."""
    table = column.table.name
    if column.name not in {each["name"] for each in sa.inspect(conn).get_columns(table)}:
        kind = column.type.compile(conn.dialect)
        conn.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column.name} {kind} {more}")


MIGRATIONS: tuple[Callable[[sa.engine.Connection], None], ...] = (
    _starts_and_repairs,
    _handovers_and_subscriptions,
    _outbox,
    _deletions,
    _deliveries,
    _commits,
    _told,
    _events,
    _configured,
    _writers,
)

# Buildbot's tables whose long lists have a total.
COUNTED = ("builds", "buildrequests", "changes")

# Small indexes on Buildbot's tables, of the few rows that wait or run: name -> table and the rest.
UNFINISHED = {
    "litebot_unfinished_buildrequests": (
        "buildrequests",
        # And not "= 0": the index on complete, which holds all that is finished, serves that too.
        "(builderid, priority DESC, id) WHERE complete <> 1",
    ),
    "litebot_unfinished_by_age": (
        "buildrequests",
        "(builderid, submitted_at) WHERE complete <> 1",
    ),
    "litebot_unfinished_builds": ("builds", "(id) WHERE complete_at IS NULL"),
}


class Model(model.Model):
    """Buildbot's, which tells without alembic whether a migration is missing."""

    def is_current(self) -> Any:
        return self.db.pool.do(is_buildbots)


# What the table migrate_version holds in Buildbot 0.9, and after the last migration that is not
# alembic's.  Source: buildbot/db/model.py
FIRST_OF_0P9, LAST_BEFORE_ALEMBIC = 40, 58

# How a migration of Buildbot's says which it is, and which one it follows.
REVISION = re.compile(r"""^(down_)?revision = (?:["'](\w+)["']|None)$""", re.MULTILINE)


@functools.cache
def buildbots_revisions() -> tuple[str, ...]:
    """Buildbot's migrations, the oldest first; read as text, for what alembic costs: see later."""
    after = {}
    for path in Path(Model.config_path).parent.glob("versions/[0-9]*.py"):
        found = dict(REVISION.findall(path.read_text(encoding="utf-8")))
        after[found["down_"]] = found[""]
    ordered = [after.pop("")]
    while ordered[-1] in after:
        ordered.append(after.pop(ordered[-1]))
    return tuple(ordered)


def buildbots_revision(conn: sa.engine.Connection) -> str | None:
    """Which migration of Buildbot's was the last in a database; None where none was."""
    if not sa.inspect(conn).has_table("alembic_version"):
        return None
    return conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def is_buildbots(conn: sa.engine.Connection) -> bool:
    """Whether Buildbot's tables are those of this Buildbot."""
    return buildbots_revision(conn) == buildbots_revisions()[-1]


def require(conn: sa.engine.Connection, name: str, basedir: str) -> None:
    """Raise StoreError where a database, shown as `name`, has no tables of a Buildbot since 3.0.

    `basedir` is quoted for a shell.
    """
    if buildbots_revision(conn) is None:
        raise StoreError(
            f"{name} holds no tables of a Buildbot since 3.0",
            f"name another one under [database] in litebot.toml, or move this one away, then:"
            f" litebot create-master --force {basedir}",
        )


def require_current(conn: sa.engine.Connection, name: str, basedir: str) -> None:
    """As `require`; also where the tables are not those of this Buildbot and this litebot."""
    require(conn, name, basedir)
    if not is_buildbots(conn) or version(conn) != len(MIGRATIONS):
        raise StoreError(
            f"{name} has not the tables of this Buildbot and this litebot",
            f"litebot upgrade-master {basedir}",
        )


def refuse_upgrade(conn: sa.engine.Connection, name: str) -> None:
    """Raise StoreError where `upgrade` and Buildbot's own can't bring the tables up to date.

    They are newer, or older than Buildbot 3.0.  The database is shown as `name`.
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


def version(conn: sa.engine.Connection) -> int:
    """How many of litebot's migrations have run in a database."""
    if not sa.inspect(conn).has_table(versions.name):
        return 0
    return conn.execute(sa.select(versions.c.version)).scalar() or 0


def refuse_newer(conn: sa.engine.Connection) -> None:
    """Raise StoreError where a newer litebot has made the tables."""
    done = version(conn)
    if done > len(MIGRATIONS):
        raise StoreError(
            f"litebot's tables are of a newer litebot (version {done}; this one knows"
            f" {len(MIGRATIONS)})",
            "pip install --upgrade litebot",
        )


def make_buildbots(conn: sa.engine.Connection) -> None:
    """Make Buildbot's tables, as its newest migration leaves them, in an empty database."""
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    Model.metadata.create_all(conn)
    scripts = ScriptDirectory.from_config(Config(Model.config_path))
    MigrationContext.configure(conn).stamp(scripts, buildbots_revisions()[-1])


def make(conn: sa.engine.Connection) -> None:
    """Make all tables in an empty database.  On Postgres they are there when the caller commits."""
    make_buildbots(conn)
    _upgrade(conn)


def lock(conn: sa.engine.Connection) -> None:
    """Keep others from making tables until the transaction ends, where others may be."""
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('litebot_schema'))")


def is_older(conn: sa.engine.Connection) -> bool:
    """Whether `upgrade` has migrations to run."""
    return version(conn) < len(MIGRATIONS)


def upgrade(conn: sa.engine.Connection) -> None:
    """Bring litebot's tables and indexes up to date, all or nothing.

    Raises StoreError where a newer litebot has made them.
    """
    lock(conn)
    _upgrade(conn)
    conn.commit()


def _upgrade(conn: sa.engine.Connection) -> None:
    versions.create(conn, checkfirst=True)
    done = conn.execute(sa.select(versions.c.version)).scalar()
    if done is None:
        conn.execute(versions.insert().values(version=0))
        done = 0
    refuse_newer(conn)
    for migration in MIGRATIONS[done:]:
        migration(conn)
    conn.execute(versions.update().values(version=len(MIGRATIONS)))
    _make_beside_buildbots(conn)


def missing_beside(conn: sa.engine.Connection) -> Iterator[str]:
    """What of it is not there."""
    inspector = sa.inspect(conn)
    for name, (table, _) in UNFINISHED.items():
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


def _make_beside_buildbots(conn: sa.engine.Connection) -> None:
    """Make indexes and triggers; at each start, as a migration of Buildbot's may drop them."""
    if conn.dialect.name not in ("sqlite", "postgresql"):
        return  # other databases have no index of a part
    there = sa.inspect(conn).get_table_names()
    for name, (table, rest) in UNFINISHED.items():
        if table in there:
            conn.exec_driver_sql(f"CREATE INDEX IF NOT EXISTS {name} ON {table} {rest}")
    if conn.dialect.name != "sqlite":
        return  # only on SQLite is a count remembered
    for name in COUNTED:
        if name in there:
            counts = sa.update(deletions).where(deletions.c.name == name)
            counts = counts.values(deleted=deletions.c.deleted + 1)
            counting = counts.compile(conn, compile_kwargs={"literal_binds": True})
            conn.exec_driver_sql(
                f"CREATE TRIGGER IF NOT EXISTS litebot_deleted_{name}"
                f" AFTER DELETE ON {name} BEGIN {counting}; END"
            )
