"""Changes: whoever brings one is answered when it is on disk.

Source: buildbot/data/changes.py, whose names these keep.
"""

from __future__ import annotations

from typing import Any

from buildbot.data import base
from buildbot.data import changes
from twisted.internet import defer


class Change(changes.Change):
    """Buildbot's, whose addChange waits for the disk after it has told the schedulers."""

    @base.updateMethod
    @defer.inlineCallbacks
    def addChange(self, *args: Any, **kwargs: Any) -> Any:
        """Store a change; its id, when a power loss won't take it any more."""
        changeid = yield super().addChange(*args, **kwargs)
        yield self.master.db.on_disk()
        return changeid
