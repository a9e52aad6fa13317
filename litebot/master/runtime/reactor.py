"""Running the reactor for one piece of work, in commands that need it."""

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
    """Run the reactor, which a process can do once, until `work` is done; returns its result.

    Raises what it raises, and KeyboardInterrupt where a signal stopped the reactor before.
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
