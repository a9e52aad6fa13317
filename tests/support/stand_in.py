"""A reactor that takes its turns when a test wants it to and has a clock of its own."""

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

PATIENCE_S = 20  # for a thread
EPOCH_S = 1_700_000_000


class Timer:
    """What callLater gives out."""

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
    """As much of a reactor as databases ask for; `now` is its clock, in seconds."""

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
        """Its "thread" runs in its own turns, so that a test knows when."""

        def run() -> None:
            try:
                result = f(*args, **kwargs)
            except Exception:
                on_result(False, Failure())
            else:
                on_result(True, result)

        self._calls.put(run)

    def stop(self) -> None:
        """As a thread pool."""

    def monotonic(self) -> float:
        return self.now

    def seconds(self) -> float:
        return EPOCH_S + self.now

    @property
    def idle(self) -> bool:
        return self._calls.empty() and not self.timers

    def turn(self) -> None:
        """What was asked so far, and not what is asked meanwhile."""
        due = [timer for timer in self.timers if timer.at <= self.now]
        self.timers = [timer for timer in self.timers if timer.at > self.now]
        for timer in sorted(due, key=lambda timer: timer.at):
            timer.call()
        for _ in range(self._calls.qsize()):
            self._calls.get()()

    def advance(self, seconds: float) -> None:
        """Let time pass, and do what is due by then."""
        self.now += seconds
        self.turn()

    def run_until(self, done: Callable[[], bool]) -> None:
        """Take turns; the clock goes on only where there is nothing else to do."""
        while not done():
            if self._calls.empty() and self.timers:
                self.now = max(self.now, min(timer.at for timer in self.timers))
            elif self._calls.empty():
                self._calls.get(timeout=PATIENCE_S)()  # a thread's answer
            self.turn()

    def run_now(self, done: Callable[[], bool]) -> None:
        """Take turns while the clock stands still, but for commits that wait; waits for threads."""
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
    """What became of one Deferred."""

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
    """Asks a pool, in a reactor that stands in."""

    pool: Pool
    reactor: Reactor

    def do(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Asked:
        return Asked(self.pool.do(work, *args, **kwargs))

    def browse(self, work: Callable[..., Any], *args: Any) -> Asked:
        """As do, for a visitor."""

        def ask() -> Asked:
            read_snapshot.set(ReadSnapshot())
            return self.do(work, *args)

        return contextvars.copy_context().run(ask)

    def read_inline(self, work: Callable[..., Any], *args: Any) -> Asked:
        """As browse, for what is expected to be short; with a Sql instead of a connection."""

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
    """What was logged as an error; a test takes what it expects, nothing else may be left."""

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
