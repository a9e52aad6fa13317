"""What change sources can't do at present, for `litebot status`, `litebot why` and the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from buildbot.util.poll import Poller
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer
from twisted.python import log
from twisted.python import reflect

from litebot.master.runtime.error_log import LoggedError
from litebot.master.runtime.error_log import logged_errors
from litebot.master.runtime.error_log import store_failed
from litebot.master.secrets.masker import mask_urls
from litebot.master.secrets.masker import masker

POLL = "poll"
LONGEST_ERROR = 500


@dataclass(frozen=True)
class Problem:
    """What the change source named `source` can't do, `since` when (epoch seconds), and why."""

    source: str
    what: str
    since: float
    error: str

    @property
    def since_when(self) -> str:
        """Since when, in local time."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))

    def __str__(self) -> str:
        return f"{self.source} can't {self.what}, since {self.since_when}: {self.error}"


class SourceProblems:
    """`master.source_problems`: of each change source, what it could not do at its last attempt."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._of: dict[str, dict[str, Problem]] = {}

    def replace(self, source: str, errors: Mapping[str, BaseException | str]) -> list[str]:
        """Set what a change source can't do, by a few words, and the errors.

        What it could not do before keeps its `since`.  Returns what is new or has a new error.
        """
        before, now = self._of.pop(source, {}), self._reactor.seconds()
        found = {}
        for what, error in errors.items():
            text = _text(error)
            since = before[what].since if what in before else now
            found[what] = Problem(source, what, since, text)
        if found:
            self._of[source] = found
        return [
            what
            for what in found
            if what not in before or not _is_same(before[what].error, found[what].error)
        ]

    def is_new(self, source: str, what: str, error: BaseException | str) -> bool:
        """Return whether this was not the error of the same thing at the last attempt."""
        text = _text(error)
        return all(p.what != what or not _is_same(p.error, text) for p in self.of(source))

    def note(self, source: str, what: str, error: BaseException | str | None) -> bool:
        """Set the error of one thing, or None if it can be done; return whether it is new."""
        errors: dict[str, BaseException | str] = {p.what: p.error for p in self.of(source)}
        errors.pop(what, None)
        if error is not None:
            errors[what] = error
        return what in self.replace(source, errors)

    def forget(self, source: str) -> None:
        """Forget what a change source could not do: it is gone, or another master has it."""
        self._of.pop(source, None)

    def of(self, source: str) -> list[Problem]:
        """Return what a change source can't do."""
        return list(self._of.get(source, {}).values())

    def all(self) -> list[Problem]:
        """Return what all change sources can't do, the oldest first."""
        found = (problem for problems in self._of.values() for problem in problems.values())
        return sorted(found, key=lambda problem: problem.since)


def _is_same(one: str, other: str) -> bool:
    """Return whether two texts have the same words: two processes may say theirs in any order."""
    return sorted(one.split()) == sorted(other.split())


def _text(error: BaseException | str) -> str:
    """Return the text of an error for one line, without secrets."""
    if isinstance(error, str):
        text = error
    else:
        text = reflect.safe_str(error).strip() or type(error).__name__
        if not isinstance(error, (OSError, LoggedError)) and type(error).__module__ == "builtins":
            text = f"{type(error).__name__}: {text}"
    text = " ".join(mask_urls(masker.mask(text)).split())
    return text if len(text) <= LONGEST_ERROR else f"{text[:LONGEST_ERROR]}..."


class WatchedSource:
    """A change source that polls, and whose errors are kept until a poll has succeeded.

    When a configuration is loaded, this class is put before that of each poller.
    """

    name: str | None
    master: Any
    # What the present poll could not do while it did the rest, and the errors.
    _poller: Any = None
    _undone: Mapping[str, BaseException] = MappingProxyType({})

    @property
    def doPoll(self) -> Poller:
        """What polls at each interval, which does not change when the machine's clock is set."""
        if self._poller is None:
            poll = lambda _: defer.maybeDeferred(self.poll)  # noqa: E731
            self._poller = Poller(poll, self, self.master.steady_clock)
        return self._poller

    def poll(self) -> Any:
        """Poll as the source does; an error is noted, and logged unless the last poll had it."""
        return self.watch(super().poll)  # type: ignore[misc]

    @async_to_deferred
    async def watch(self, poll: Callable[[], Any]) -> Any:
        """Run a poll and note its errors, also those that it only logs; return its result."""
        self._undone = {}
        result, raised = None, None
        with logged_errors() as logged:
            try:
                result = await defer.maybeDeferred(poll)
            except Exception as error:
                if store_failed(error) is not None:
                    raise
                raised = error
        others = [error for error in logged if error not in self._undone.values()]
        errors = dict(self._undone)
        if raised is not None or others:
            errors = {POLL: raised or others[-1], **errors}
        new = self.master.source_problems.replace(self.name or "", errors)
        if raised is not None and POLL in new:
            log.err(raised, f"{self}: while polling for changes")
        return result

    def leave_undone(self, what: str, error: BaseException) -> None:
        """Note what the present poll can't do; log it unless the last poll had the same error."""
        self._undone = {**self._undone, what: error}
        if self.master.source_problems.is_new(self.name or "", what, error):
            log.err(error, f"{self}: trying to {what}")

    @async_to_deferred
    async def deactivate(self) -> None:
        """Do as Buildbot does; another master may have the source next."""
        parents: Any = super()
        await defer.maybeDeferred(parents.deactivate)
        self.master.source_problems.forget(self.name or "")
