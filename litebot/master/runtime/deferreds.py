"""A Deferred that many wait for, or not for ever."""

from __future__ import annotations

from typing import Any

from twisted.internet import defer


def after(d: defer.Deferred[Any]) -> defer.Deferred[None]:
    """Another Deferred that fires with this one, whose result ends here and which must not fail."""
    fires: defer.Deferred[None] = defer.Deferred()
    d.addBoth(lambda _: fires.callback(None))
    return fires


async def in_time(d: defer.Deferred[Any], timeout_s: float, clock: Any) -> bool:
    """Wait for a Deferred, so long at most; whether it has fired.  It goes on else.

    Raises what it fails with in time.
    """
    fired: defer.Deferred[bool] = defer.Deferred()
    over = clock.callLater(timeout_s, fired.callback, False)

    def fires(result: Any) -> Any:
        if over.active():
            over.cancel()
            fired.callback(True)
        return result

    d.addBoth(fires)
    is_in_time = await fired
    if is_in_time:
        await d
    return is_in_time
