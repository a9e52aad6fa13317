"""litebot's own tables, beside Buildbot's in the same database; schema.py creates them.

All are named litebot_*, and a stock Buildbot ignores them.  A table keeps the name with which it
was created: masters and commands of another release read it, too.
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
    # NULL while it runs, and forever after a crash unless another master has taken over.
    sa.Column("stopped_at", sa.Float),
    # When and by which other master it was taken over; from then on it may write nothing.
    sa.Column("taken_over_at", sa.Float),
    sa.Column("taken_over_by", sa.Text),
)

# The findings that a start or a takeover has repaired, one row each.
repairs = sa.Table(
    "litebot_repairs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("startid", sa.Integer, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("buildid", sa.Integer),
    sa.Column("message", sa.Text, nullable=False),
)

# The last change that each scheduler has dealt with; see delivery.changes.
scheduler_positions = sa.Table(
    "litebot_handovers",
    metadata,
    sa.Column("schedulerid", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("changeid", sa.Integer, nullable=False),
)

# The buildsets that the state of a Dependent scheduler is about to gain (wanted=1) or to lose (0);
# see delivery.subscriptions.
subscriptions = sa.Table(
    "litebot_subscriptions",
    metadata,
    sa.Column("objectid", sa.Integer, nullable=False),
    sa.Column("bsid", sa.Integer, nullable=False),
    sa.Column("wanted", sa.Integer, nullable=False),
)

# The changes of which a scheduler has made a buildset.
built = sa.Table(
    "litebot_built",
    metadata,
    sa.Column("changeid", sa.Integer, nullable=False, index=True),
    sa.Column("schedulerid", sa.Integer, nullable=False),
    sa.Column("bsid", sa.Integer, nullable=False, index=True),
)

# The reports that are still to be made; see delivery.outbox.
outbox = sa.Table(
    "litebot_outbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    # The master that is to make the report; 0 in rows of an older litebot.
    sa.Column("masterid", sa.Integer, nullable=False, server_default="0"),
    # "" stands for all reporters.
    sa.Column("reporter", sa.Text, nullable=False),
    # "builds" or "buildsets", and the id of a build or a buildset.
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("about", sa.Integer, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    # NULL during the first attempt, and when it is given up; and the error of the last attempt.
    sa.Column("retry_at", sa.Float),
    sa.Column("error", sa.Text),
)

# How many rows of each table of schema.COUNTED have been deleted; see store.sql.
deletions = sa.Table(
    "litebot_deletions",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("deleted", sa.Integer, nullable=False),
)

# The deliveries of a hook, by mail or by a poller that were stored; see delivery.change_origins.
deliveries = sa.Table(
    "litebot_deliveries",
    metadata,
    # A hash, as the names that it is made of may have any length.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("taken_at", sa.Float, nullable=False, index=True),
)

# One row: the unique name of the database, and the number of its commits; see
# db.sqlite.commit_watermark.
commits = sa.Table(
    "litebot_commits",
    metadata,
    sa.Column("database", sa.Text, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
)

# Pending controls: what users have asked to stop or to cancel, until it is done; see
# delivery.controls.
pending_controls = sa.Table(
    "litebot_told",
    metadata,
    # "buildrequests" or "workers", and the id of a build request or a worker.
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("about", sa.Integer, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

# The events that masters on one Postgres send to each other; see cluster.events.
events = sa.Table(
    "litebot_events",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("masterid", sa.Integer, nullable=False),
    # Numbers the events of one master.
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

# The build requests that were collapsed into another, which was to be built in their place; see
# data.collapsing.
collapsed = sa.Table(
    "litebot_collapsed",
    metadata,
    sa.Column("brid", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("survivor", sa.Integer, nullable=False, index=True),
)

# The commit markers: the last transaction of each connection that writes to a Postgres; see
# db.postgres.commit_marker.
writers = sa.Table(
    "litebot_writers",
    metadata,
    # A unique name, which a connection keeps when it connects again.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("begun_at", sa.Float, nullable=False),
)

# The versions of the projects that admins have defined, one row each; the newest counts.  See
# projects.versions.
projects = sa.Table(
    "litebot_projects",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    # Counts the versions of a project, from 1.
    sa.Column("version", sa.Integer, nullable=False),
    # As TOML; NULL in the version that removes the project.
    sa.Column("definition", sa.Text),
    sa.Column("saved_at", sa.Float, nullable=False),
    # Who saved it, where ("page" or "command"), and what for.
    sa.Column("saved_by", sa.Text, nullable=False),
    sa.Column("saved_on", sa.Text, nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.UniqueConstraint("name", "version", name="litebot_projects_versions"),
)
