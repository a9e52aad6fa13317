"""Runs the reactor for a single piece of work, in the commands that need one."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Coroutine
from typing import Any
from typing import TypeVar
from typing import cast

from twisted.internet import defer
from twisted.internet import reactor as installed_reactor
from twisted.python.failure import Failure

T = TypeVar("T")


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run the reactor until `work` is done and return its result; works once in a process.

    Raises what `work` raises, and KeyboardInterrupt if a signal stopped the reactor first.
    """
    results: list[Any] = []
    reactor: Any = installed_reactor

    def start() -> None:
        d = defer.ensureDeferred(work())
        d.addBoth(results.append)
        d.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(start)
    reactor.run()
    if not results:
        raise KeyboardInterrupt
    result = results[0]
    if isinstance(result, Failure):
        result.raiseException()
    return cast(T, result)
