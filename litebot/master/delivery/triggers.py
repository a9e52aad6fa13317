"""Makes sure that the end of a triggered buildset reaches the Trigger step that waits for it.

Buildbot's Triggerable learns of it from an event, for which it begins to listen after the buildset
has been added.  A child that ends sooner, or an event that is lost together with another master,
would leave the step, and with it the build, waiting for ever.  So the end is also read from the
database.  Source: buildbot/schedulers/triggerable.py

Where a reconfig removes a Triggerable, or replaces its class, Buildbot fails the steps that wait,
while what they triggered runs on.  Here they go on waiting.
"""

from __future__ import annotations

from typing import Any

from buildbot.process.results import CANCELLED
from buildbot.schedulers.triggerable import Triggerable
from twisted.internet import defer
from twisted.internet import task
from twisted.python import log
from twisted.python.failure import Failure

from litebot.errors import StoreFailed
from litebot.master.runtime.deferreds import wait_at_most
from litebot.master.runtime.deferreds import when_fired

# How long a Triggerable usually takes to begin to listen.
LISTENS_WITHIN_S = 0.01
# How often a step whose Triggerable is gone reads whether its buildset has ended: an event may be
# lost.
LOOK_EVERY_S = 10.0


class SureTriggerable(Triggerable):
    """A Triggerable that reads whether a buildset has ended, once it listens for the end."""

    _waiters: dict[int, tuple[defer.Deferred[Any], dict[int, int]]]

    def trigger(self, *args: Any, **kwargs: Any) -> Any:
        """Trigger as Buildbot does; the second Deferred fires whenever the buildset ends.

        It fails where the buildset can't be added.
        """
        ids, results = super().trigger(*args, **kwargs)

        def not_added(failure: Failure) -> Failure:
            results.errback(failure)
            return failure

        ids.addCallbacks(self._watch, not_added)
        return ids, results

    def _watch(self, ids: tuple[int, dict[int, int]]) -> tuple[int, dict[int, int]]:
        d = defer.ensureDeferred(self._check_when_listening(ids[0]))
        d.addErrback(lambda failure: failure.trap(StoreFailed))
        d.addErrback(lambda f: log.err(f, f"while waiting for buildset {ids[0]}"))
        return ids

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        """Stop as Buildbot does; unless the master stops, Trigger steps go on waiting."""
        if self.master.running:
            waiting, self._waiters = self._waiters, {}
            for bsid, (results, brids) in waiting.items():
                d = defer.ensureDeferred(_wait_for_end(self.master, bsid, results, brids))
                d.addErrback(lambda failure: failure.trap(StoreFailed))
                d.addErrback(results.errback)
        yield super().stopService()

    async def _check_when_listening(self, bsid: int) -> None:
        while bsid in self._waiters and self._buildset_complete_consumer is None:
            if not self.running:
                return  # a stop of the master ends the Trigger steps that wait
            await task.deferLater(self.master.reactor, LISTENS_WITHIN_S)
        await check_waiter(self, bsid)


async def _wait_for_end(
    master: Any, bsid: int, results: defer.Deferred[Any], brids: dict[int, int]
) -> None:
    """Fire `results` when a buildset is complete, or return once the step waits no more."""
    event: defer.Deferred[None] = defer.Deferred()

    def note(_key: Any, _message: Any) -> None:
        if not event.called:
            event.callback(None)

    consumer = await master.mq.startConsuming(note, ("buildsets", str(bsid), "complete"))
    try:
        while not results.called and master.running:
            buildset = await master.data.get(("buildsets", str(bsid)))
            if buildset is None or buildset["complete"]:
                if not results.called:
                    results.callback(
                        (CANCELLED if buildset is None else buildset["results"], brids)
                    )
                return
            await wait_at_most(when_fired(event), LOOK_EVERY_S, master.reactor)
    finally:
        await consumer.stopConsuming()


async def check_waiter(scheduler: Any, bsid: int) -> None:
    """If this buildset of a Triggerable is complete, notify the Trigger step that waits for it."""
    buildset = await scheduler.master.data.get(("buildsets", str(bsid)))
    if buildset is not None and buildset["complete"]:
        scheduler._buildset_complete_cb((), buildset)
