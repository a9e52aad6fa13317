"""Showing on stderr that something goes on, where somebody looks at it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager

from litebot.cli.common import is_quiet

# Told how much of what is done: a description, how many so far, and how many in all, if known.
Progress = Callable[[str, int, int | None], None]


def _is_watched() -> bool:
    return sys.stderr.isatty() and not is_quiet()


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show what is worked on, while it is."""
    if not _is_watched():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextmanager
def bars(*, stay: bool = False) -> Iterator[Progress]:
    """Gives what is to be told how it goes: a bar for each thing that is worked on.

    They are gone at the end, unless they `stay`.
    """
    if not _is_watched():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn
    from rich.progress import MofNCompleteColumn
    from rich.progress import Progress
    from rich.progress import TextColumn
    from rich.progress import TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=not stay,
    ) as shown:
        tasks = {}
        begun = {}

        def progress(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=total, completed=done, rate="")
                begun[what] = done
            elapsed = shown.tasks[tasks[what]].elapsed
            rate = f"{(done - begun[what]) / elapsed:,.0f}/s" if elapsed else ""
            shown.update(tasks[what], completed=done, total=total, rate=rate)

        yield progress
