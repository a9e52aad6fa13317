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
from litebot.master.runtime.visitor_log import BriefObserver
from litebot.master.secrets.log import MaskingObserver

# The lists that collect errors: by the object that the context of the work has in _whose, and those
# that collect all errors.  One observer serves all lists: there may be many, and each observer of
# the log gets every event.
_whose: ContextVar[object] = ContextVar("whose", default=None)
_of_context: dict[object, list[BaseException]] = {}
_of_all: dict[object, list[BaseException]] = {}


ERROR_LEVELS = (logger.LogLevel.error, logger.LogLevel.critical)


class LoggedError(Exception):
    """An error that was logged as a text, without an exception."""


@contextmanager
def logged_errors(*, of_all: bool = False) -> Iterator[list[BaseException]]:
    """Collect the errors that are logged while a `with` block runs, in order.

    Collects only errors of what the block calls, directly or not.  With `of_all`, also collects
    errors of other work.
    """
    mine, errors = object(), list[BaseException]()
    collecting = _of_all if of_all else _of_context
    collecting[mine] = errors
    token = None if of_all else _whose.set(mine)
    logger.globalLogPublisher.addObserver(_observer)  # does nothing if it is there already
    try:
        yield errors
    finally:
        if token is not None:
            _whose.reset(token)
        del collecting[mine]
        if not _of_context and not _of_all:
            logger.globalLogPublisher.removeObserver(_observer)


def _remember(event: dict[str, Any]) -> None:
    """Observe the log: add an error to the lists that collect it."""
    failure = event.get("log_failure") or event.get("failure")
    is_error = event.get("isError") or event.get("log_level") in ERROR_LEVELS
    if failure is None and not is_error:
        return
    error = LoggedError(_text_of(event)) if failure is None else failure.value
    for errors in _of_all.values():
        errors.append(error)
    if (errors_here := _of_context.get(_whose.get())) is not None:
        errors_here.append(error)


def _text_of(event: dict[str, Any]) -> str:
    words = event.get("message", ())
    return " ".join(map(str, words)) if words else logger.formatEvent(event)


_observer: Any = _remember  # its type is not the one that Twisted declares


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
        inner = getattr(error, "subFailure", None)  # of a FirstError, from gatherResults
        error = inner.value if inner is not None else error.__cause__ or error.__context__
    return error


def without_follow_up_errors(observer: Any) -> Any:
    """Wrap a log observer so that it gets every event but follow-up errors, without secrets.

    What visitors cause is cut: see visitor_log.
    """
    predicates: list[Any] = [DropFollowUpErrors()]
    # A secret that was cut would not be recognized.
    masking: Any = MaskingObserver(BriefObserver(observer))
    return logger.FilteringLogObserver(masking, predicates)


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
