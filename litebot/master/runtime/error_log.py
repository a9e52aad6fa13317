"""Errors in Buildbot's log: collecting those of one call, and leaving out follow-up errors.

Buildbot logs many errors that it does not raise.  `logged_errors` collects them, so that a command
can report them.  After a disk failure all work under way fails as well; the filters here keep these
follow-up errors out of the log.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from twisted import logger
from twisted.python import components
from twisted.python import log
from zope.interface import implementer

from litebot.errors import StoreFailed

_collecting: ContextVar[object] = ContextVar("collecting")


@contextmanager
def logged_errors() -> Iterator[list[BaseException]]:
    """Collect, in order, the errors that calls within the context log; skip those of other work."""
    errors: list[BaseException] = []

    def collect(event: dict[str, Any]) -> None:
        if event.get("isError") and "failure" in event and _collecting.get(None) is errors:
            errors.append(event["failure"].value)

    token = _collecting.set(errors)
    log.addObserver(collect)
    try:
        yield errors
    finally:
        log.removeObserver(collect)
        _collecting.reset(token)


@implementer(logger.ILogFilterPredicate)
class DropFollowUpErrors:
    """Drops the errors of work that was refused because the disk has failed.

    The failure itself is logged once, as a message; the tracebacks of all the work under way would
    bury it.
    """

    def __call__(self, event: dict[str, Any]) -> Any:
        failure = event.get("log_failure") or event.get("failure")
        if failure is not None and store_failed(failure.value) is not None:
            return logger.PredicateResult.no
        return logger.PredicateResult.maybe


def store_failed(error: BaseException | None) -> StoreFailed | None:
    """Return the StoreFailed that `error` is or was caused by, or None."""
    while error is not None and not isinstance(error, StoreFailed):
        inner = getattr(error, "subFailure", None)  # the FirstError of gatherResults has it
        error = inner.value if inner is not None else error.__cause__ or error.__context__
    return error


def without_follow_up_errors(observer: Any) -> Any:
    """Wrap a log observer so that it gets every event but follow-up errors."""
    predicates: list[Any] = [DropFollowUpErrors()]
    return logger.FilteringLogObserver(observer, predicates)


def to_stdout() -> Any:
    """Return the log observer of a master in the foreground, which writes to stdout."""
    return without_follow_up_errors(logger.textFileLogObserver(sys.stdout))


def drop_follow_up_errors(application: components.Componentized) -> None:
    """Keep follow-up errors out of the log that buildbot.tac has set on its application."""
    observer = application.getComponent(logger.ILogObserver)
    if observer is None and (legacy := application.getComponent(log.ILogObserver)) is not None:
        observer = logger.LegacyLogObserverWrapper(legacy)
    if observer is not None:
        application.setComponent(logger.ILogObserver, without_follow_up_errors(observer))
