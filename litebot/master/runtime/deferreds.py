"""Ways to wait for a Deferred: several waiters at once, or one with a time limit."""

from __future__ import annotations

from typing import Any

from twisted.internet import defer


def when_fired(d: defer.Deferred[Any]) -> defer.Deferred[None]:
    """Return a new Deferred that fires with None as soon as `d` fires.

    `d` has no result afterwards, and it must not fail: its failure would be dropped.
    """
    fired: defer.Deferred[None] = defer.Deferred()
    d.addBoth(lambda _: fired.callback(None))
    return fired


async def wait_at_most(d: defer.Deferred[Any], timeout_s: float, clock: Any) -> bool:
    """Wait at most `timeout_s` for `d` and return whether it fired; does not cancel it.

    Raises the error of `d` if it fails within that time.
    """
    fired: defer.Deferred[bool] = defer.Deferred()
    timeout = clock.callLater(timeout_s, fired.callback, False)

    def note_fired(result: Any) -> Any:
        if timeout.active():
            timeout.cancel()
            fired.callback(True)
        return result

    d.addBoth(note_fired)
    fired_in_time = await fired
    if fired_in_time:
        await d
    return fired_in_time
