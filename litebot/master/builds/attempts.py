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
    """Sets the property from the second attempt on, before the first step of a build.

    Builds die with their master, so all deaths came before this start and are read only once.
    """

    name: str | None = "attempts"

    def __init__(self) -> None:
        super().__init__()
        self._died: dict[int, int] = {}
        self._began: dict[int, int] = {}  # buildid -> attempt, of builds that are not announced yet
        self._consumer: Any = None

    @defer.inlineCallbacks
    def startService(self) -> Any:
        yield super().startService()
        self._died = yield self.master.db.pool.do(died)
        if self._died:
            yield self._listen()

    @defer.inlineCallbacks
    def _listen(self) -> Any:
        key = ("builds", None, "new")
        self._consumer = yield self.master.mq.startConsuming(self._build_is_new, key)

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        if self._consumer is not None:
            yield self._consumer.stopConsuming()
            self._consumer = None
        yield super().stopService()

    async def _deaths(self, brid: int) -> int:
        """Return how many builds of this request have died with their master."""
        return self._died.get(brid, 0)

    async def properties_of(self, brid: int, buildid: int) -> dict[str, tuple[int, str]]:
        """Return the property of a build of this request that starts now.

        Returns an empty dict for the first attempt.
        """
        attempt = 1 + await self._deaths(brid)
        if attempt == 1:
            return {}
        self._began[buildid] = attempt
        return {PROPERTY: (attempt, SOURCE)}

    def _build_is_new(self, _key: tuple[str, ...], event: dict[str, Any]) -> None:
        attempt = self._began.pop(event["buildid"], None)
        if attempt is None:
            return
        for builder in self.master.botmaster.builders.values():
            for build in builder.building:
                if build.buildid == event["buildid"]:
                    build.setProperty(PROPERTY, attempt, SOURCE)


class SharedAttempts(Attempts):
    """Attempts of a master in a cluster.

    Another master may die at any time and this one may get its requests, so the deaths are read
    for each build.
    """

    @defer.inlineCallbacks
    def startService(self) -> Any:
        yield service.AsyncService.startService(self)
        yield self._listen()

    async def _deaths(self, brid: int) -> int:
        found: dict[int, int] = await self.master.db.pool.do(died, brid)
        return found.get(brid, 0)


def died(conn: sa.engine.Connection, brid: int | None = None) -> dict[int, int]:
    """Return how many builds of each incomplete request died with their master, by brid.

    With `brid`, returns only those of this request.
    """
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
