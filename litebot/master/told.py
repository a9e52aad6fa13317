"""What users have told the master to stop, cancel or pause: kept until it is done.

Buildbot passes these on in memory.  Here they are in a table before they are answered, and a start
after a crash does what was not done: see recovery.requests.  To stop a build is to cancel its
request.  A worker that is paused says so in its own row.

Source: buildbot/data/builds.py, buildrequests.py and workers.py, whose endpoints these keep.
"""

from __future__ import annotations

from typing import Any
from typing import ClassVar

import sqlalchemy as sa
from buildbot.data import buildrequests as data_buildrequests
from buildbot.data import builds as data_builds
from buildbot.data import workers as data_workers
from buildbot.data.resultspec import ResultSpec
from buildbot.db.model import Model
from buildbot.util import service
from buildbot.worker.base import Worker as RemoteWorker
from buildbot.worker.local import LocalWorker
from twisted.internet import defer

from litebot.master import schema
from litebot.master.handover.mq import origin

told = schema.told

BUILDREQUESTS, WORKERS = "buildrequests", "workers"
NO_REASON = "no reason"  # Buildbot's words


def add(conn: sa.engine.Connection, kind: str, about: int, action: str, reason: Any) -> None:
    """Keep what a user has told, and forget what is done; commits nothing."""
    forget_done(conn)
    row = {"kind": kind, "about": about, "action": action, "reason": str(reason)}
    conn.execute(told.insert().values(row))


def forget_done(conn: sa.engine.Connection) -> None:
    """Forget what was told about requests that are complete; commits nothing."""
    complete = sa.select(Model.buildrequests.c.id).where(Model.buildrequests.c.complete != 0)
    conn.execute(told.delete().where(told.c.kind == BUILDREQUESTS, told.c.about.in_(complete)))


def reason_for(conn: sa.engine.Connection, brid: int) -> str | None:
    """Why a user wants this request to end, or None where nobody does."""
    query = sa.select(told.c.reason).where(told.c.kind == BUILDREQUESTS, told.c.about == brid)
    reason: str | None = conn.execute(query).scalar()
    return reason


def unfinished(conn: sa.engine.Connection, claimed_by: int | None) -> list[tuple[int, str]]:
    """Requests that are to be cancelled and are not complete, with the reason.

    Only those that a master has claimed, where one is given.
    """
    requests, claims = Model.buildrequests, Model.buildrequest_claims
    query = (
        sa.select(requests.c.id, told.c.reason)
        .join_from(requests, told, told.c.about == requests.c.id)
        .where(told.c.kind == BUILDREQUESTS, requests.c.complete == 0)
        .order_by(requests.c.id)
    )
    if claimed_by is not None:
        query = query.join(claims, claims.c.brid == requests.c.id)
        query = query.where(claims.c.masterid == claimed_by)
    return [(row[0], row[1]) for row in conn.execute(query)]


class BuildEndpoint(data_builds.BuildEndpoint):
    """Buildbot's; a build that is told to stop stays so."""

    pathPatterns: ClassVar[list[str]] = data_builds.BuildEndpoint.pathPatterns

    @defer.inlineCallbacks
    def actionStop(self, args: Any, kwargs: Any) -> Any:
        """Stop the build."""
        build = yield self.get(ResultSpec(), kwargs)
        if build is None:
            return
        reason = kwargs.get("reason", args.get("reason", NO_REASON))
        if not build["complete"]:
            row = (BUILDREQUESTS, build["buildrequestid"], "cancel", reason)
            yield self.master.db.pool.do_with_transaction(add, *row)
        yield super().actionStop(args, {**kwargs, "buildid": build["buildid"]})


class BuildRequestEndpoint(data_buildrequests.BuildRequestEndpoint):
    """Buildbot's; a request that is told to be cancelled stays so."""

    pathPatterns: ClassVar[list[str]] = data_buildrequests.BuildRequestEndpoint.pathPatterns

    @defer.inlineCallbacks
    def control(self, action: str, args: Any, kwargs: Any) -> Any:
        """Cancel the request, or set its priority."""
        if action == "cancel":
            request = yield self.get(ResultSpec(), kwargs)
            if request is not None and not request["complete"]:
                reason = args.get("reason", NO_REASON)
                row = (BUILDREQUESTS, request["buildrequestid"], action, reason)
                yield self.master.db.pool.do_with_transaction(add, *row)
        yield super().control(action, args, kwargs)


class WorkerEndpoint(data_workers.WorkerEndpoint):
    """Buildbot's; a worker that is told to pause or to end stays so."""

    pathPatterns: ClassVar[list[str]] = data_workers.WorkerEndpoint.pathPatterns

    @defer.inlineCallbacks
    def control(self, action: str, args: Any, kwargs: Any) -> Any:
        """Pause, unpause, stop (when its builds have ended) or kill the worker."""
        worker = yield self.get(None, kwargs)
        if worker is not None:
            reason = kwargs.get("reason", args.get("reason", NO_REASON))
            yield self._keep(action, worker, reason)
        yield super().control(action, args, kwargs)

    async def _keep(self, action: str, worker: dict[str, Any], reason: str) -> None:
        workerid, db = worker["workerid"], self.master.db
        if action == "pause":
            await db.workers.set_worker_paused(workerid, True, reason)
        elif action == "unpause":
            await db.workers.set_worker_paused(workerid, False)
        elif action in {"stop", "kill"} and self._outlives_the_master(worker):
            await db.pool.do_with_transaction(add, WORKERS, workerid, action, reason)

    def _outlives_the_master(self, worker: dict[str, Any]) -> bool:
        """Whether it is a process of its own, which will come back to the next master."""
        found = self.master.workers.workers.get(worker["name"])
        is_process = isinstance(found, RemoteWorker) and not isinstance(found, LocalWorker)
        return is_process and bool(worker["connected_to"])


class Worker(data_workers.Worker):
    """Buildbot's, with these endpoints."""

    endpoints: ClassVar[list[Any]] = [WorkerEndpoint, data_workers.WorkersEndpoint]


class Reminder(service.AsyncService):
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

    async def remind(self) -> None:
        """Tell the workers of this master what they were told and are not done with."""
        workers = self.master.workers.workers.values()
        here = {worker.workerid for worker in workers if worker.conn is not None}
        for workerid, action, reason in await self.master.db.pool.do(_of_workers):
            if workerid in here:
                key = ("control", "worker", str(workerid), action)
                self.master.mq.produce(key, {"reason": reason})

    def _comes(self, _key: tuple[str, ...], worker: dict[str, Any]) -> None:
        if origin(self.master.mq.impl) is None:
            self._coming.add(worker["workerid"])

    def _is_there(self, _key: tuple[str, ...], worker: dict[str, Any]) -> Any:
        if worker["workerid"] not in self._coming or origin(self.master.mq.impl) is not None:
            return None
        self._coming.discard(worker["workerid"])
        return defer.ensureDeferred(self.remind())

    def _has_gone(self, _key: tuple[str, ...], worker: dict[str, Any]) -> Any:
        if origin(self.master.mq.impl) is not None:
            return None
        self._coming.discard(worker["workerid"])
        # Where it is the master that goes, this one or another, the worker comes to the next one.
        if not self.master.running:
            return None
        return self.master.db.pool.do_with_transaction(_forget_worker, worker["workerid"])


def _of_workers(conn: sa.engine.Connection) -> list[tuple[int, str, str]]:
    query = sa.select(told.c.about, told.c.action, told.c.reason).where(told.c.kind == WORKERS)
    return [(row[0], row[1], row[2]) for row in conn.execute(query)]


def _forget_worker(conn: sa.engine.Connection, workerid: int) -> None:
    conn.execute(told.delete().where(told.c.kind == WORKERS, told.c.about == workerid))
