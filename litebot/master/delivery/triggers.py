"""Makes sure that the end of a triggered buildset reaches the Trigger step that waits for it.

Buildbot's Triggerable learns of it from an event, for which it begins to listen after the buildset
has been added.  A child that ends sooner, or an event that is lost together with another master,
would leave the step, and with it the build, waiting for ever.  So the end is also read from the
database.  Source: buildbot/schedulers/triggerable.py
"""

from __future__ import annotations

from typing import Any

from buildbot.schedulers.triggerable import Triggerable
from twisted.internet import defer
from twisted.internet import task
from twisted.python import log
from twisted.python.failure import Failure

from litebot.errors import StoreFailed

# How long a Triggerable usually takes to begin to listen.
LISTENS_WITHIN_S = 0.01


class SureTriggerable(Triggerable):
    """A Triggerable that reads whether a buildset has ended, once it listens for the end."""

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

    async def _check_when_listening(self, bsid: int) -> None:
        while bsid in self._waiters and self._buildset_complete_consumer is None:
            if not self.running:
                return  # a stop of the master ends the Trigger steps that wait
            await task.deferLater(self.master.reactor, LISTENS_WITHIN_S)
        await check_waiter(self, bsid)


async def check_waiter(scheduler: Any, bsid: int) -> None:
    """If this buildset of a Triggerable is complete, notify the Trigger step that waits for it."""
    buildset = await scheduler.master.data.get(("buildsets", str(bsid)))
    if buildset is not None and buildset["complete"]:
        scheduler._buildset_complete_cb((), buildset)
