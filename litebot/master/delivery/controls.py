"""Pending controls: what users have asked to stop or to cancel, kept until it is done.

Buildbot passes these on in memory.  Here they are in a table before the user gets an answer, and a
start after a crash does what was not done: see recovery.requests.  Stopping a build is kept as
cancelling its request.  That a worker is paused is kept in the worker's own row.

Source: the endpoints of buildbot/data/builds.py, buildrequests.py and workers.py
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
    """Add a pending control, and delete those that are done; commits nothing."""
    forget_done(conn)
    row = {"kind": kind, "about": about, "action": action, "reason": str(reason)}
    conn.execute(pending.insert().values(row))


def forget_done(conn: sa.engine.Connection) -> None:
    """Delete the pending controls of requests that are complete; commits nothing."""
    complete = sa.select(Model.buildrequests.c.id).where(Model.buildrequests.c.complete != 0)
    conn.execute(
        pending.delete().where(pending.c.kind == BUILDREQUESTS, pending.c.about.in_(complete))
    )


def reason_for(conn: sa.engine.Connection, brid: int) -> str | None:
    """Return the reason why this request is to be cancelled, or None if nobody asked for it."""
    query = sa.select(pending.c.reason).where(
        pending.c.kind == BUILDREQUESTS, pending.c.about == brid
    )
    reason: str | None = conn.execute(query).scalar()
    return reason


def unfinished(conn: sa.engine.Connection, claimed_by: int | None) -> list[tuple[int, str]]:
    """Return (brid, reason) of each incomplete request that is to be cancelled, in order.

    With `claimed_by`, a masterid, returns only requests that this master has claimed.
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
    """`master.worker_controls`: sends pending controls to workers when they connect.

    A control may be pending because it was given to a master that is dead now, or because its event
    was lost.  Pending controls are only in the table: the data API adds them, and they are deleted
    when they are done.
    """

    name: str | None = "worker_controls"

    def __init__(self) -> None:
        super().__init__()
        self._attaching: set[int] = set()  # workers that are being attached
        self._consumers: list[Any] = []

    @defer.inlineCallbacks
    def startService(self) -> Any:
        yield super().startService()
        # Attaching a worker ends with an update of its state; there are other updates, too.
        for callback, event in (
            (self._on_connected, "connected"),
            (self._on_state_updated, "state_updated"),
            (self._on_disconnected, "disconnected"),
        ):
            key = ("workers", None, event)
            self._consumers.append((yield self.master.mq.startConsuming(callback, key)))

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        for consumer in self._consumers:
            yield consumer.stopConsuming()
        yield super().stopService()

    async def send_again(self) -> None:
        """Send the pending controls of the workers that are connected to this master."""
        workers = self.master.workers.workers.values()
        here = {worker.workerid for worker in workers if worker.conn is not None}
        for workerid, action, reason in await self.master.db.pool.do(_worker_controls):
            if workerid in here:
                key = ("control", "worker", str(workerid), action)
                self.master.mq.produce(key, {"reason": reason})

    def _on_connected(self, _key: tuple[str, ...], worker: dict[str, Any]) -> None:
        if producing_master(self.master.mq.impl) is None:
            self._attaching.add(worker["workerid"])

    def _on_state_updated(self, _key: tuple[str, ...], worker: dict[str, Any]) -> Any:
        if (
            worker["workerid"] not in self._attaching
            or producing_master(self.master.mq.impl) is not None
        ):
            return None
        self._attaching.discard(worker["workerid"])
        return defer.ensureDeferred(self.send_again())

    def _on_disconnected(self, _key: tuple[str, ...], worker: dict[str, Any]) -> Any:
        if producing_master(self.master.mq.impl) is not None:
            return None
        self._attaching.discard(worker["workerid"])
        # If it is a master that stops, this one or another, the worker will connect to the next.
        if not self.master.running:
            return None
        return self.master.db.pool.do_with_transaction(_delete_of_worker, worker["workerid"])


def _worker_controls(conn: sa.engine.Connection) -> list[tuple[int, str, str]]:
    query = sa.select(pending.c.about, pending.c.action, pending.c.reason).where(
        pending.c.kind == WORKERS
    )
    return [(row[0], row[1], row[2]) for row in conn.execute(query)]


def _delete_of_worker(conn: sa.engine.Connection, workerid: int) -> None:
    conn.execute(pending.delete().where(pending.c.kind == WORKERS, pending.c.about == workerid))
