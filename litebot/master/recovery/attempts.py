"""The property `attempt` of builds whose former attempts died with their master."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model
from buildbot.util import service
from twisted.internet import defer

from litebot.master import schema
from litebot.master.recovery.builds import INTERRUPTED

PROPERTY, SOURCE = "attempt", "litebot"


class Attempts(service.AsyncService):
    """Sets the property from the second attempt on, before the first step of a build."""

    name: str | None = "attempts"

    def __init__(self) -> None:
        super().__init__()
        self._died: dict[int, int] = {}
        self._consumer: Any = None

    @defer.inlineCallbacks
    def startService(self) -> Any:
        yield super().startService()
        self._died = yield self.master.db.pool.do(_died)
        if self._died:
            self._consumer = yield self.master.mq.startConsuming(
                self._build_is_new, ("builds", None, "new")
            )

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        if self._consumer is not None:
            yield self._consumer.stopConsuming()
            self._consumer = None
        yield super().stopService()

    def of(self, brid: int) -> int:
        """Which attempt at this request a build is that starts now: 1, 2, ..."""
        return 1 + self._died.get(brid, 0)

    def _build_is_new(self, _key: tuple[str, ...], event: dict[str, Any]) -> None:
        attempt = self.of(event["buildrequestid"])
        if attempt == 1:
            return
        for builder in self.master.botmaster.builders.values():
            for build in builder.building:
                if build.buildid == event["buildid"]:
                    build.setProperty(PROPERTY, attempt, SOURCE)


def _died(conn: sa.engine.Connection) -> dict[int, int]:
    """How many builds of each incomplete request died with their master."""
    builds, requests, repairs = Model.builds, Model.buildrequests, schema.repairs
    query = (
        sa.select(requests.c.id, sa.func.count())
        .join_from(requests, builds, builds.c.buildrequestid == requests.c.id)
        .join(repairs, repairs.c.buildid == builds.c.id)
        .where(requests.c.complete == 0, repairs.c.kind == INTERRUPTED)
        .group_by(requests.c.id)
    )
    return {row[0]: row[1] for row in conn.execute(query)}
