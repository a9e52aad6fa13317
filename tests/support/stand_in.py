"""A stand-in for the reactor, whose turns and clock a test controls."""

from __future__ import annotations

import contextvars
import queue
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from litebot.master.database import GROUP_COMMIT_S
from litebot.master.db.pool import Pool
from litebot.master.db.read_pool import ReadSnapshot
from litebot.master.db.read_pool import may_read_inline
from litebot.master.db.read_pool import read_snapshot

PATIENCE_S = 20  # how long to wait for a thread
EPOCH_S = 1_700_000_000


class Timer:
    """A delayed call, as callLater returns it."""

    def __init__(self, reactor: Reactor, at: float, call: Callable[[], object]) -> None:
        self.at = at
        self.call = call
        self._reactor = reactor

    def active(self) -> bool:
        return self in self._reactor.timers

    def cancel(self) -> None:
        self._reactor.timers.remove(self)

    def reset(self, delay_s: float) -> None:
        self.at = self._reactor.now + delay_s


class Reactor:
    """The part of a reactor that databases use; `now` is its clock, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    def callFromThread(self, f: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        self._calls.put(lambda: f(*args, **kwargs))

    def callLater(
        self, delay_s: float, f: Callable[..., object], *args: Any, **kwargs: Any
    ) -> Timer:
        timer = Timer(self, self.now + delay_s, lambda: f(*args, **kwargs))
        self.timers.append(timer)
        return timer

    def getThreadPool(self) -> Reactor:
        return self

    def callInThreadWithCallback(
        self,
        on_result: Callable[[bool, Any], object],
        f: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Run the work in a turn of this reactor instead of a thread, so that a test knows when."""

        def run() -> None:
            try:
                result = f(*args, **kwargs)
            except Exception:
                on_result(False, Failure())
            else:
                on_result(True, result)

        self._calls.put(run)

    def stop(self) -> None:
        """Do nothing; a thread pool has this method."""

    def monotonic(self) -> float:
        return self.now

    def seconds(self) -> float:
        return EPOCH_S + self.now

    @property
    def idle(self) -> bool:
        return self._calls.empty() and not self.timers

    def turn(self) -> None:
        """Run the delayed calls that are due, then the calls that are queued by then."""
        due = [timer for timer in self.timers if timer.at <= self.now]
        self.timers = [timer for timer in self.timers if timer.at > self.now]
        for timer in sorted(due, key=lambda timer: timer.at):
            timer.call()
        for _ in range(self._calls.qsize()):
            self._calls.get()()

    def advance(self, seconds: float) -> None:
        """Advance the clock, and run the calls that are then due."""
        self.now += seconds
        self.turn()

    def run_until(self, done: Callable[[], bool]) -> None:
        """Take turns until `done()`; advances the clock only if there is nothing else to do."""
        while not done():
            if self._calls.empty() and self.timers:
                self.now = max(self.now, min(timer.at for timer in self.timers))
            elif self._calls.empty():
                self._calls.get(timeout=PATIENCE_S)()  # the result of a thread
            self.turn()

    def run_now(self, done: Callable[[], bool]) -> None:
        """Take turns until `done()`; advances the clock only as far as group commits need.

        That is at most GROUP_COMMIT_S at a time.  If nothing else is left to do, waits for threads.
        """
        while not done():
            if self._calls.empty():
                soon = [timer.at for timer in self.timers if timer.at <= self.now + GROUP_COMMIT_S]
                if soon:
                    self.now = max(self.now, min(soon))
                else:
                    self._calls.get(timeout=PATIENCE_S)()
            self.turn()

    def settle(self) -> None:
        self.run_until(lambda: self.idle)


class Asked:
    """The result or the error of one Deferred."""

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.called = False
        deferred.addCallbacks(self._succeeded, self._failed)

    def _succeeded(self, result: Any) -> None:
        self.called, self.result = True, result

    def _failed(self, failure: Failure) -> None:
        self.called, self.error = True, failure.value


class Asks:
    """Gives work to a pool, in a stand-in reactor."""

    pool: Pool
    reactor: Reactor

    def do(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Asked:
        return Asked(self.pool.do(work, *args, **kwargs))

    def browse(self, work: Callable[..., Any], *args: Any) -> Asked:
        """Do as do(), for a request that reads from a snapshot."""

        def ask() -> Asked:
            read_snapshot.set(ReadSnapshot())
            return self.do(work, *args)

        return contextvars.copy_context().run(ask)

    def read_inline(self, work: Callable[..., Any], *args: Any) -> Asked:
        """Do as browse(), for a short read; the work gets a Sql instead of a connection."""

        def ask() -> Asked:
            read_snapshot.set(ReadSnapshot())
            may_read_inline.set(True)
            return Asked(self.pool.do_sql(work, *args))

        return contextvars.copy_context().run(ask)

    def wait(self, asked: Asked) -> Any:
        self.reactor.run_until(lambda: asked.called)
        if asked.error is not None:
            raise asked.error
        return asked.result


class Log(list[dict[str, Any]]):
    """The logged errors, and the other messages as texts.

    A test takes the errors that it expects, and none may be left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, event: dict[str, Any]) -> None:
        if event.get("isError"):
            self.append(event)
        else:
            self.messages.append(" ".join(map(str, event["message"])))

    def take(self) -> list[type[BaseException]]:
        kinds = [type(event["failure"].value) for event in self]
        self.clear()
        return kinds
