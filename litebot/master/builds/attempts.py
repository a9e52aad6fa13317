"""The property `attempt` of builds whose former attempts died with their master."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model
from buildbot.util import service
from twisted.internet import defer

from litebot.master.db import tables
from litebot.master.recovery.builds import INTERRUPTED

PROPERTY, SOURCE = "attempt", "litebot"


class Attempts(service.AsyncService):
    """Sets the property from the second attempt on, before the first step of a build."""

    name: str | None = "attempts"

    def __init__(self) -> None:
        super().__init__()
        self._died: dict[int, int] = {}
        self._began: dict[int, int] = {}  # buildid -> attempt, of builds that are not announced yet
        self._has_others = False
        self._consumer: Any = None

    @defer.inlineCallbacks
    def startService(self) -> Any:
        yield super().startService()
        self._has_others = not self.master.db.is_sole_writer
        if not self._has_others:
            self._died = yield self.master.db.pool.do(_died)
        if self._died or self._has_others:
            self._consumer = yield self.master.mq.startConsuming(
                self._build_is_new, ("builds", None, "new")
            )

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        if self._consumer is not None:
            yield self._consumer.stopConsuming()
            self._consumer = None
        yield super().stopService()

    async def of(self, brid: int, buildid: int) -> int:
        """Which attempt at this request a build is that starts now: 1, 2, ..."""
        died = self._died
        if self._has_others:  # one of which may have died since
            died = await self.master.db.pool.do(_died, brid)
        attempt = 1 + died.get(brid, 0)
        if attempt > 1:
            self._began[buildid] = attempt
        return attempt

    def _build_is_new(self, _key: tuple[str, ...], event: dict[str, Any]) -> None:
        attempt = self._began.pop(event["buildid"], None)
        if attempt is None:
            return
        for builder in self.master.botmaster.builders.values():
            for build in builder.building:
                if build.buildid == event["buildid"]:
                    build.setProperty(PROPERTY, attempt, SOURCE)


def _died(conn: sa.engine.Connection, brid: int | None = None) -> dict[int, int]:
    """How many builds of each incomplete request, or of one, died with their master."""
    builds, requests, repairs = Model.builds, Model.buildrequests, tables.repairs
    query = (
        sa.select(requests.c.id, sa.func.count())
        .join_from(requests, builds, builds.c.buildrequestid == requests.c.id)
        .join(repairs, repairs.c.buildid == builds.c.id)
        .where(requests.c.complete == 0, repairs.c.kind == INTERRUPTED)
        .group_by(requests.c.id)
    )
    if brid is not None:
        query = query.where(requests.c.id == brid)
    return {row[0]: row[1] for row in conn.execute(query)}
