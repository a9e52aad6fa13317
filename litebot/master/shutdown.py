"""The end of a master: after a stop, a failed start, or a failure of the disk or the server."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from buildbot.worker.local import LocalWorker
from twisted.internet import defer
from twisted.internet import error as internet_error
from twisted.python import log

from litebot.errors import LitebotError
from litebot.errors import StoreFailed
from litebot.master import recovery
from litebot.master.builds.shutdown import BuildInterrupter
from litebot.master.builds.shutdown import CommandEnder
from litebot.master.builds.shutdown import latent_workers
from litebot.master.builds.shutdown import let_end
from litebot.master.runtime import outcome
from litebot.master.runtime.deferreds import wait_at_most

# How long a master whose disk has failed keeps running, so that its error responses arrive, and how
# long it then waits for its workers to abandon their builds.
REFUSING_S = 0.1
ABANDON_S = 5.0

# How long a stop waits, after the grace, for all parts of the master; and how long of that for
# schedulers and change sources to be released to other masters.
STOP_PARTS_S = 9.0
LEAVE_S = 2.0

# How long a master that stops waits during an outage of the database.
MAX_OUTAGE_S = 10.0


class Shutdown:
    """Ends `master`, once and within a bounded time, and reports why if nobody has asked for it."""

    def __init__(self, master: Any) -> None:
        self._master = master
        self._reason: LitebotError | None = None
        self._store_failed: defer.Deferred[None] = defer.Deferred()

    # why

    def give_up(self, error: LitebotError) -> None:
        """Report why the master can't continue, and stop it."""
        self._explain(error)
        self._stop_reactor()

    def fail(self, error: StoreFailed) -> None:
        """End a master whose disk or server has failed, without using the database any more."""
        self._master.files.reserve.unlink(missing_ok=True)  # room for the message, on a full disk
        self._explain(error)
        self._store_failed.callback(None)  # a stop that has begun would wait for the store forever
        self._master.reactor.callLater(REFUSING_S, self._stop_reactor)

    def _explain(self, error: LitebotError) -> None:
        """Report why the master stops.  Only the first reason counts; others follow from it."""
        if self._reason is None:
            if error.hint:  # the store does not know the basedir
                error.hint = error.hint.replace("BASEDIR", self._master.files.quoted)
            self._reason = error
            log.msg(f"litebot: {error.what}" + (f"\n  Try: {error.hint}" if error.hint else ""))
            outcome.failed(error)

    def _stop_reactor(self) -> None:
        with suppress(internet_error.ReactorNotRunning):  # Buildbot may have stopped it already
            self._master.reactor.stop()

    # how

    async def run(self, stop_buildbot: Any) -> None:
        """Stop as Buildbot does; if the disk or server has failed, without using the database."""
        master = self._master
        if master.db.pool is not None:
            master.db.pool.give_up_after(MAX_OUTAGE_S)
        try:
            if not isinstance(self._reason, StoreFailed):
                stop = defer.ensureDeferred(self._stop(stop_buildbot))
                await defer.DeferredList([stop, self._store_failed], True, True, consumeErrors=True)
            if isinstance(self._reason, StoreFailed):
                await self._abandon()
        except Exception:
            # A part that could not start may fail to stop; the error must not keep the process
            # from ending, as it does with Buildbot.
            log.err(None, "while stopping the master")
        finally:
            master.ownership.release()

    async def _stop(self, stop_buildbot: Any) -> None:
        master = self._master
        if not master.running:  # the start failed
            await stop_buildbot()
            return
        await let_end(master, master.settings.stop.grace)
        ender = CommandEnder(master.reactor)
        ender.start()
        try:
            stopped = defer.ensureDeferred(self._stop_parts(stop_buildbot))
            if not await wait_at_most(stopped, STOP_PARTS_S, master.reactor):
                await self._leave_parts()
        finally:
            ender.stop()

    async def _stop_parts(self, stop_buildbot: Any) -> None:
        master = self._master
        await wait_at_most(defer.ensureDeferred(master.cluster.leave()), LEAVE_S, master.reactor)
        interrupter = BuildInterrupter(master)
        interrupter.start()
        try:
            await stop_buildbot()
        finally:
            interrupter.stop()

    async def _leave_parts(self) -> None:
        """Stop without waiting for the parts that do not stop; they end with the process."""
        master = self._master
        log.msg(
            f"litebot: some parts have not stopped after {STOP_PARTS_S:g} s; ending without them"
        )
        for name in latent_workers(master):
            log.msg(f"litebot: the latent worker {name} has not stopped; check its instance")
        await master.data.updates.masterStopped(name=master.name, masterid=master.masterid)
        if master.db.running:
            await master.db.stopService()

    async def _abandon(self) -> None:
        """Stop workers and close ports, as nothing that happens now can be stored any more."""
        master = self._master
        workers = list(master.workers.workers.values())
        # What local steps have started ends first; the workers ask the database, which fails.
        local = [worker.remote_worker for worker in workers if isinstance(worker, LocalWorker)]
        services = [*filter(None, local), *workers]
        stops = [defer.maybeDeferred(each.stopService) for each in services]
        waiting = defer.DeferredList(stops, consumeErrors=True)
        waiting.addTimeout(ABANDON_S, master.reactor)
        waiting.addErrback(lambda f: f.trap(defer.TimeoutError))
        await waiting
        await master.db.pool.stop()
        await master.cluster.close()
        master.steady_clock.close()

    async def end(self) -> None:
        """Record a clean stop, once all that used the database has stopped."""
        master = self._master
        if master.startup.startid is not None:
            await master.db.pool.do(recovery.end, master.startup.startid)
        await master.cluster.close()
