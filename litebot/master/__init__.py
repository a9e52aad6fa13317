"""The glue: the only place that subclasses Buildbot's services."""

from litebot.master.later import import_later

import_later()
