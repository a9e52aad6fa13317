"""Whose errors are collected from the log."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import defer
from twisted.logger import globalLogPublisher
from twisted.python import log

from litebot.master.runtime.error_log import LoggedError
from litebot.master.runtime.error_log import logged_errors
from support.stand_in import Log

Wait = defer.Deferred[None]


async def fail(*waits: Wait, name: str) -> list[BaseException]:
    """Log an error after each of these; what was collected."""
    with logged_errors() as errors:
        for number, wait in enumerate(waits):
            await wait
            log.err(ValueError(f"{name} {number}"))
    return errors


def texts(errors: list[BaseException]) -> list[str]:
    return [str(error) for error in errors]


def test_works_side_by_side_have_their_own(logged: Log) -> None:
    waits = [Wait() for _ in range(4)]
    with logged_errors(of_all=True) as everything:
        a: Any = defer.ensureDeferred(fail(waits[0], waits[2], name="a"))
        b: Any = defer.ensureDeferred(fail(waits[1], waits[3], name="b"))
        for wait in waits:
            wait.callback(None)
    assert texts(a.result) == ["a 0", "a 1"]
    assert texts(b.result) == ["b 0", "b 1"]
    assert texts(everything) == ["a 0", "b 0", "a 1", "b 1"]
    assert logged.take() == [ValueError] * 4


def test_what_is_logged_by_what_was_begun_there_but_later_is_not_collected(logged: Log) -> None:
    wait = Wait()

    async def late() -> None:
        await wait
        log.err(ValueError("late"))

    with logged_errors() as errors:
        defer.ensureDeferred(late())
        log.msg("no error")
        log.err("a text")
        assert logged.pop()["message"] == ("'a text'",)
    wait.callback(None)
    (error,) = errors
    assert isinstance(error, LoggedError)
    assert str(error) == "'a text'"
    assert logged.take() == [ValueError]


def test_the_innermost_collects(logged: Log) -> None:
    with logged_errors() as outer:
        log.err(ValueError("outer"))
        with logged_errors() as inner:
            log.err(ValueError("inner"))
        log.err(ValueError("outer again"))
    assert texts(outer) == ["outer", "outer again"]
    assert texts(inner) == ["inner"]
    assert logged.take() == [ValueError] * 3


def test_nothing_observes_the_log_when_nobody_collects() -> None:
    before = list(globalLogPublisher._observers)
    with logged_errors(), pytest.raises(ValueError, match="it"):
        with logged_errors(of_all=True):
            raise ValueError("it")
    assert list(globalLogPublisher._observers) == before
