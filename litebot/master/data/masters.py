"""Masters in the data API: litebot's masters are not declared dead for missing heartbeats.

Source: buildbot/data/masters.py, whose endpoints these keep.
"""

from __future__ import annotations

from typing import Any
from typing import ClassVar

from buildbot.data import base
from buildbot.data import masters as data_masters
from buildbot.util import epoch2datetime
from twisted.internet import defer


class Master(data_masters.Master):
    """Buildbot's, but never deactivates a master that proves by a lock that it is alive."""

    endpoints: ClassVar[list[Any]] = [data_masters.MasterEndpoint, data_masters.MastersEndpoint]

    @base.updateMethod
    @defer.inlineCallbacks
    def expireMasters(self, forceHouseKeeping: bool = False) -> Any:
        """Deactivate stock masters that have sent no heartbeat for ten minutes.

        Masters of litebot on one database hold a lock as long as they live; see cluster.peers.
        """
        db = self.master.db
        now = self.master.reactor.seconds()
        too_old = epoch2datetime(now - 60 * data_masters.EXPIRE_MINUTES)
        with_locks = yield defer.ensureDeferred(db.cluster.masters_with_locks())
        for master in (yield db.masters.getMasters()):
            is_active = master.last_active is not None and master.last_active >= too_old
            if is_active or master.name in with_locks:
                continue
            if (yield db.masters.setMasterState(masterid=master.id, active=False)):
                yield self._masterDeactivated(master.id, master.name)
            elif forceHouseKeeping:
                yield self._masterDeactivatedHousekeeping(master.id, master.name)
