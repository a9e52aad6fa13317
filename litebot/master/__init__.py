"""The glue: the only place that subclasses Buildbot's services."""

from litebot.master.runtime.lazy_alembic import import_alembic_lazily

import_alembic_lazily()
