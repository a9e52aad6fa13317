"""Workers in the data API: pausing or stopping a worker outlives a crash of the master.

Source: buildbot/data/workers.py, whose endpoints these keep.
"""

from __future__ import annotations

from typing import Any
from typing import ClassVar

from buildbot.data import workers as data_workers
from buildbot.worker.base import Worker as RemoteWorker
from buildbot.worker.local import LocalWorker
from twisted.internet import defer

from litebot.master.data.builds import NO_REASON
from litebot.master.db.components.links import ACCESS
from litebot.master.db.components.links import link_or_empty
from litebot.master.delivery.controls import WORKERS
from litebot.master.delivery.controls import add


def _shown(worker: dict[str, Any]) -> dict[str, Any]:
    """Return a worker as the data API shows it: it says itself how people get to it."""
    info = worker["workerinfo"]
    if not isinstance(info, dict) or "access_uri" not in info:
        return worker
    return {
        **worker,
        "workerinfo": {**info, "access_uri": link_or_empty(info["access_uri"], ACCESS)},
    }


class WorkersEndpoint(data_workers.WorkersEndpoint):
    """Buildbot's, but shows only what may be a link as one."""

    pathPatterns: ClassVar[list[str]] = data_workers.WorkersEndpoint.pathPatterns
    rootLinkName = data_workers.WorkersEndpoint.rootLinkName

    @defer.inlineCallbacks
    def get(self, resultSpec: Any, kwargs: Any) -> Any:
        """Return the workers."""
        return [_shown(worker) for worker in (yield super().get(resultSpec, kwargs))]


class WorkerEndpoint(data_workers.WorkerEndpoint):
    """Buildbot's, but records a pause in the worker's row and a stop as a pending control.

    It shows only what may be a link as one.
    """

    pathPatterns: ClassVar[list[str]] = data_workers.WorkerEndpoint.pathPatterns

    @defer.inlineCallbacks
    def get(self, resultSpec: Any, kwargs: Any) -> Any:
        """Return the worker, or None."""
        worker = yield super().get(resultSpec, kwargs)
        return worker and _shown(worker)

    @defer.inlineCallbacks
    def control(self, action: str, args: Any, kwargs: Any) -> Any:
        """Pause, unpause, stop (when its builds have ended) or kill the worker."""
        worker = yield self.get(None, kwargs)
        if worker is not None:
            reason = kwargs.get("reason", args.get("reason", NO_REASON))
            yield self._record(action, worker, reason)
        yield super().control(action, args, kwargs)

    async def _record(self, action: str, worker: dict[str, Any], reason: str) -> None:
        workerid, db = worker["workerid"], self.master.db
        if action == "pause":
            await db.workers.set_worker_paused(workerid, True, reason)
        elif action == "unpause":
            await db.workers.set_worker_paused(workerid, False)
        elif action in {"stop", "kill"} and self._reconnects(worker):
            await db.pool.do_with_transaction(add, WORKERS, workerid, action, reason)

    def _reconnects(self, worker: dict[str, Any]) -> bool:
        """Return whether the worker is a process of its own, which connects to the next master."""
        found = self.master.workers.workers.get(worker["name"])
        is_process = isinstance(found, RemoteWorker) and not isinstance(found, LocalWorker)
        return is_process and bool(worker["connected_to"])


class Worker(data_workers.Worker):
    """Buildbot's, with these endpoints."""

    endpoints: ClassVar[list[Any]] = [WorkerEndpoint, WorkersEndpoint]
