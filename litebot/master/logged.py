"""Buildbot logs some errors and goes on; whoever answers a user must know of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.python import log


@contextmanager
def logged_errors() -> Iterator[list[BaseException]]:
    """The errors that are logged meanwhile, whoever logs them, in order."""
    errors: list[BaseException] = []

    def remember(event: dict[str, Any]) -> None:
        if event.get("isError") and "failure" in event:
            errors.append(event["failure"].value)

    log.addObserver(remember)
    try:
        yield errors
    finally:
        log.removeObserver(remember)
