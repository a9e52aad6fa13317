"""What Buildbot logs: errors that whoever answers a user must know of, and echoes of a failure."""

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

_whose: ContextVar[object] = ContextVar("whose")


@contextmanager
def logged_errors() -> Iterator[list[BaseException]]:
    """The errors that what is called from here logs, in order; not those of other work."""
    errors: list[BaseException] = []

    def remember(event: dict[str, Any]) -> None:
        if event.get("isError") and "failure" in event and _whose.get(None) is errors:
            errors.append(event["failure"].value)

    token = _whose.set(errors)
    log.addObserver(remember)
    try:
        yield errors
    finally:
        log.removeObserver(remember)
        _whose.reset(token)


@implementer(logger.ILogFilterPredicate)
class NoEchoes:
    """Keeps the errors of work that was refused because the disk has failed out of a log.

    That it has failed is logged once, as a message; the tracebacks of all that was under way would
    bury it.
    """

    def __call__(self, event: dict[str, Any]) -> Any:
        failure = event.get("log_failure") or event.get("failure")
        if failure is not None and store_failed(failure.value) is not None:
            return logger.PredicateResult.no
        return logger.PredicateResult.maybe


def store_failed(error: BaseException | None) -> StoreFailed | None:
    """The StoreFailed that an error is, or comes from."""
    while error is not None and not isinstance(error, StoreFailed):
        inner = getattr(error, "subFailure", None)  # of a gathered Deferred
        error = inner.value if inner is not None else error.__cause__ or error.__context__
    return error


def without_echoes(observer: Any) -> Any:
    """The observer, told of all but echoes."""
    predicates: list[Any] = [NoEchoes()]
    return logger.FilteringLogObserver(observer, predicates)


def to_stdout() -> Any:
    """Writes the log to stdout, for a master in the foreground."""
    return without_echoes(logger.textFileLogObserver(sys.stdout))


def quieten(application: components.Componentized) -> None:
    """Keep echoes out of the log that a buildbot.tac has chosen for its application."""
    observer = application.getComponent(logger.ILogObserver)
    if observer is None and (legacy := application.getComponent(log.ILogObserver)) is not None:
        observer = logger.LegacyLogObserverWrapper(legacy)
    if observer is not None:
        application.setComponent(logger.ILogObserver, without_echoes(observer))
