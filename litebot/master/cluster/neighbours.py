"""The other masters on the same database: what becomes of the work of one that has died or stopped.

Each says what it has configured.  When one is dead, another one takes over what it left, and all
of them look for what is free now.  A state file has one master, which has no neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from buildbot.schedulers.triggerable import Triggerable
from buildbot.util import service
from twisted.internet import defer
from twisted.python import log

from litebot.errors import StoreFailed
from litebot.master.cluster import claims
from litebot.master.cluster import registry
from litebot.master.cluster import takeover
from litebot.master.db.pool import NotOurs
from litebot.master.delivery import controls
from litebot.master.delivery.queue import from_master
from litebot.master.recovery.requests import complete_buildsets

AGAIN_S = 1.0


class Neighbours(service.AsyncService):
    """`master.neighbours`."""

    name: str | None = "neighbours"

    def __init__(self) -> None:
        super().__init__()
        self._consumer: Any = None

    @defer.inlineCallbacks
    def startService(self) -> Any:
        yield super().startService()
        if not self.master.db.is_sole_writer:
            # One that starts has given back what its former self had.
            key = ("masters", None, None)
            self._consumer = yield self.master.mq.startConsuming(self._one_has_changed, key)

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        if self._consumer is not None:
            yield self._consumer.stopConsuming()
            self._consumer = None
        yield super().stopService()

    # what they are told

    async def introduce(self) -> None:
        """Say what this master has configured; what it has no more is free for the others."""
        master = self.master
        if not master.db.is_sole_writer:
            write, what = registry.write, list(self._configured())
            await master.db.pool.do_with_transaction(write, master.masterid, what)
            event = {"masterid": master.masterid, "name": master.name, "active": True}
            master.data.rtypes.master.produceEvent(event, "updated")

    def _configured(self) -> Iterator[tuple[str, str]]:
        for scheduler in self.master.allSchedulers():
            yield registry.SCHEDULER, scheduler.name
        yield from self.master.outbox.configured()

    async def leave(self) -> None:
        """Let the others have, at once, what one master at a time does."""
        if not self.master.db.is_sole_writer:
            await claims.give_away(self.master)

    # when one is dead

    async def take_over(self, masterid: int, holder: int, startid: int) -> None:
        """Repair what the dead master with this id left, and go on with it.

        `holder` is the server's process that has its lock, `startid` is this start's.  May be
        called again at any time, and where nothing is left.
        """
        master = self.master
        dead = None
        with suppress(NotOurs):  # it may live again
            dead = await master.db.pool.do_with_transaction(
                takeover.take_over,
                masterid,
                holder,
                (master.masterid, master.name, startid),
                master.settings.recovery.max_attempts,
            )
        if dead is None:
            return
        log.msg(f"litebot: the master {dead.name} is dead; its work is taken over")
        for finding in dead.findings:
            log.msg(f"found: {finding.message}")
        await self._announce(dead)
        await complete_buildsets(master)
        await master.outbox.take_over(masterid)
        event = {"masterid": masterid, "name": dead.name, "active": False}
        master.data.rtypes.master.produceEvent(event, "stopped")

    async def _announce(self, dead: takeover.Takeover) -> None:
        """Produce the events that its master can't."""
        master, types = self.master, self.master.data.rtypes
        # Reporters hear of the ends from the outbox.
        for buildid in dead.ended:
            build = await master.data.get(("builds", str(buildid)))
            with from_master(master.mq.impl, dead.masterid):
                types.build.produceEvent(build, "finished")
        for brids, event in ((dead.completed, "complete"), (dead.freed, "unclaimed")):
            models = await master.db.buildrequests.get_some(brids)
            types.buildrequest.announce(models, event)

    def _one_has_changed(self, _key: tuple[str, ...], event: dict[str, Any]) -> None:
        if event["masterid"] != self.master.masterid:
            self.catch_up()

    def catch_up(self) -> None:
        """See what there is to do of which no event has told."""
        if not self.master.running:
            return
        d = defer.ensureDeferred(self._catch_up())
        d.addErrback(lambda failure: failure.trap(StoreFailed))
        d.addErrback(lambda f: log.err(f, "while looking for what has become free"))

    async def _catch_up(self) -> None:
        master = self.master
        if not claims.poll_unclaimed(master):
            master.reactor.callLater(AGAIN_S, claims.poll_unclaimed, master)
        master.change_delivery.wake_all()
        master.change_delivery.tell_dependents(of_all=True)
        master.botmaster.maybeStartBuildsForAllBuilders()
        await master.worker_controls.send_again()
        await self.cancel_again(master.masterid)
        await self._tell_triggers()

    async def cancel_again(self, claimed_by: int | None = None) -> None:
        """Have the requests cancelled that users told a master to, and that are not."""
        unfinished = await self.master.db.pool.do(controls.unfinished, claimed_by)
        for brid, reason in unfinished:
            key = ("control", "buildrequests", str(brid), "cancel")
            self.master.mq.produce(key, {"reason": reason})

    async def _tell_triggers(self) -> None:
        """Tell Trigger steps what has ended for which they wait."""
        for scheduler in self.master.allSchedulers():
            if not isinstance(scheduler, Triggerable):
                continue
            for bsid in list(scheduler._waiters):
                buildset = await self.master.data.get(("buildsets", str(bsid)))
                if buildset is not None and buildset["complete"]:
                    scheduler._buildset_complete_cb((), buildset)
