"""A Deferred that many wait for."""

from __future__ import annotations

from typing import Any

from twisted.internet import defer


def after(d: defer.Deferred[Any]) -> defer.Deferred[None]:
    """Another Deferred that fires with this one, whose result ends here and which must not fail."""
    fires: defer.Deferred[None] = defer.Deferred()
    d.addBoth(lambda _: fires.callback(None))
    return fires
