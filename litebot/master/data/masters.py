"""The data type of masters: who is dead is not judged by heartbeats.

Source: buildbot/data/masters.py, whose endpoints these keep.
"""

from __future__ import annotations

from typing import Any
from typing import ClassVar

import sqlalchemy as sa
from buildbot.data import base
from buildbot.data import masters as data_masters
from buildbot.util import epoch2datetime
from twisted.internet import defer

from litebot.master.db import tables


class Master(data_masters.Master):
    """Buildbot's; a litebot master that lives is never taken for dead, however slow it is."""

    endpoints: ClassVar[list[Any]] = [data_masters.MasterEndpoint, data_masters.MastersEndpoint]

    @base.updateMethod
    @defer.inlineCallbacks
    def expireMasters(self, forceHouseKeeping: bool = False) -> Any:
        """Clean up after masters that have not been heard of for ten minutes: stock ones.

        Other masters of litebot's hold a lock as long as they live; see recovery.takeover.
        """
        db = self.master.db
        if db.is_sole_writer:
            yield super().expireMasters(forceHouseKeeping)
            return
        now = self.master.reactor.seconds()
        too_old = epoch2datetime(now - 60 * data_masters.EXPIRE_MINUTES)
        ours = yield db.pool.do(_litebots)
        for master in (yield db.masters.getMasters()):
            if master.name in ours or (master.last_active and master.last_active >= too_old):
                continue
            if (yield db.masters.setMasterState(masterid=master.id, active=False)):
                yield self._masterDeactivated(master.id, master.name)
            elif forceHouseKeeping:
                yield self._masterDeactivatedHousekeeping(master.id, master.name)


def _litebots(conn: sa.engine.Connection) -> set[str]:
    """The names of all masters of litebot's that there ever were."""
    return set(conn.execute(sa.select(tables.starts.c.master).distinct()).scalars())
