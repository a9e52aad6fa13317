"""litebot's own tables, beside Buildbot's in one database; schema.py makes them.

All are named litebot_*, and stock Buildbot ignores them.
"""

from __future__ import annotations

import sqlalchemy as sa

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

# The last change that a scheduler has dealt with; see delivery.changes.
scheduler_positions = sa.Table(
    "litebot_handovers",
    metadata,
    sa.Column("schedulerid", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("changeid", sa.Integer, nullable=False),
)

# What the state of a Dependent scheduler is going to gain (wanted=1) or lose (0); see
# delivery.subscriptions.
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

# What a reporter has still to tell; see delivery.outbox.
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

# How many rows of a table of schema.COUNTED have been deleted; see store.sql.
deletions = sa.Table(
    "litebot_deletions",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("deleted", sa.Integer, nullable=False),
)

# What was delivered to a hook or by mail, and stored; see
# delivery.change_sources.
deliveries = sa.Table(
    "litebot_deliveries",
    metadata,
    # A hash: what is delivered says how long its name is.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("taken_at", sa.Float, nullable=False, index=True),
)

# One row: a name that no other database has, and how many commits it has seen; see
# db.sqlite.commit_watermark.
commits = sa.Table(
    "litebot_commits",
    metadata,
    sa.Column("database", sa.Text, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
)

# What users have told the master to stop or cancel, until that is done; see
# delivery.controls.
pending_controls = sa.Table(
    "litebot_told",
    metadata,
    # "buildrequests" or "workers", and the id of one.
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("about", sa.Integer, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

# What masters on one Postgres tell each other; see cluster.events.
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

# What each master on one database has configured; see cluster.registry.
configured = sa.Table(
    "litebot_configured",
    metadata,
    sa.Column("masterid", sa.Integer, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
)

# The last transaction of each connection that writes to a Postgres; see
# db.postgres.commit_marker.
writers = sa.Table(
    "litebot_writers",
    metadata,
    # A name that no other one has; one that connects again keeps it.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("begun_at", sa.Float, nullable=False),
)
