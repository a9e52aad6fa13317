"""The glue: the only place that subclasses Buildbot's services."""

from litebot.master.runtime.lazy_alembic import import_later

import_later()
