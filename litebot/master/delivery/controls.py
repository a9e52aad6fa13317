"""What users have told the master to stop, cancel or pause: kept until it is done.

Buildbot passes these on in memory.  Here they are in a table before they are answered, and a start
after a crash does what was not done: see recovery.requests.  To stop a build is to cancel its
request.  A worker that is paused says so in its own row.

Source: buildbot/data/builds.py, buildrequests.py and workers.py, whose endpoints these keep.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model
from buildbot.util import service
from twisted.internet import defer

from litebot.master.db import tables
from litebot.master.delivery.queue import producing_master

pending = tables.pending_controls

BUILDREQUESTS, WORKERS = "buildrequests", "workers"


def add(conn: sa.engine.Connection, kind: str, about: int, action: str, reason: Any) -> None:
    """Keep what a user has told, and forget what is done; commits nothing."""
    forget_done(conn)
    row = {"kind": kind, "about": about, "action": action, "reason": str(reason)}
    conn.execute(pending.insert().values(row))


def forget_done(conn: sa.engine.Connection) -> None:
    """Forget what was told about requests that are complete; commits nothing."""
    complete = sa.select(Model.buildrequests.c.id).where(Model.buildrequests.c.complete != 0)
    conn.execute(
        pending.delete().where(pending.c.kind == BUILDREQUESTS, pending.c.about.in_(complete))
    )


def reason_for(conn: sa.engine.Connection, brid: int) -> str | None:
    """Why a user wants this request to end, or None where nobody does."""
    query = sa.select(pending.c.reason).where(
        pending.c.kind == BUILDREQUESTS, pending.c.about == brid
    )
    reason: str | None = conn.execute(query).scalar()
    return reason


def unfinished(conn: sa.engine.Connection, claimed_by: int | None) -> list[tuple[int, str]]:
    """Requests that are to be cancelled and are not complete, with the reason.

    Only those that a master has claimed, where one is given.
    """
    requests, claims = Model.buildrequests, Model.buildrequest_claims
    query = (
        sa.select(requests.c.id, pending.c.reason)
        .join_from(requests, pending, pending.c.about == requests.c.id)
        .where(pending.c.kind == BUILDREQUESTS, requests.c.complete == 0)
        .order_by(requests.c.id)
    )
    if claimed_by is not None:
        query = query.join(claims, claims.c.brid == requests.c.id)
        query = query.where(claims.c.masterid == claimed_by)
    return [(row[0], row[1]) for row in conn.execute(query)]


class WorkerControls(service.AsyncService):
    """Tells workers what they were told at a master that is dead now, or where that was lost.

    What there is to tell is only in the table: others add to it, and what is done is forgotten.
    """

    name: str | None = "reminder"

    def __init__(self) -> None:
        super().__init__()
        self._coming: set[int] = set()  # workers that are being attached
        self._consumers: list[Any] = []

    @defer.inlineCallbacks
    def startService(self) -> Any:
        yield super().startService()
        # A worker's state is updated as the last thing when it is attached, and at other times.
        for callback, event in (
            (self._comes, "connected"),
            (self._is_there, "state_updated"),
            (self._has_gone, "disconnected"),
        ):
            key = ("workers", None, event)
            self._consumers.append((yield self.master.mq.startConsuming(callback, key)))

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        for consumer in self._consumers:
            yield consumer.stopConsuming()
        yield super().stopService()

    async def send_again(self) -> None:
        """Tell the workers of this master what they were told and are not done with."""
        workers = self.master.workers.workers.values()
        here = {worker.workerid for worker in workers if worker.conn is not None}
        for workerid, action, reason in await self.master.db.pool.do(_of_workers):
            if workerid in here:
                key = ("control", "worker", str(workerid), action)
                self.master.mq.produce(key, {"reason": reason})

    def _comes(self, _key: tuple[str, ...], worker: dict[str, Any]) -> None:
        if producing_master(self.master.mq.impl) is None:
            self._coming.add(worker["workerid"])

    def _is_there(self, _key: tuple[str, ...], worker: dict[str, Any]) -> Any:
        if (
            worker["workerid"] not in self._coming
            or producing_master(self.master.mq.impl) is not None
        ):
            return None
        self._coming.discard(worker["workerid"])
        return defer.ensureDeferred(self.send_again())

    def _has_gone(self, _key: tuple[str, ...], worker: dict[str, Any]) -> Any:
        if producing_master(self.master.mq.impl) is not None:
            return None
        self._coming.discard(worker["workerid"])
        # Where it is the master that goes, this one or another, the worker comes to the next one.
        if not self.master.running:
            return None
        return self.master.db.pool.do_with_transaction(_forget_worker, worker["workerid"])


def _of_workers(conn: sa.engine.Connection) -> list[tuple[int, str, str]]:
    query = sa.select(pending.c.about, pending.c.action, pending.c.reason).where(
        pending.c.kind == WORKERS
    )
    return [(row[0], row[1], row[2]) for row in conn.execute(query)]


def _forget_worker(conn: sa.engine.Connection, workerid: int) -> None:
    conn.execute(pending.delete().where(pending.c.kind == WORKERS, pending.c.about == workerid))
