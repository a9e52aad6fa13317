"""Shows progress on stderr, if that is a terminal and there is no --quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager

from litebot.cli.common import is_quiet

# Called with a description of the work, how much is done, and how much there is in all, if known.
Progress = Callable[[str, int, int | None], None]


def _is_watched() -> bool:
    return sys.stderr.isatty() and not is_quiet()


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show `text` while the `with` body runs."""
    if not _is_watched():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextmanager
def bars(*, stay: bool = False) -> Iterator[Progress]:
    """Yield a function to call with the progress; it shows a bar for each description of work.

    The bars are removed at the end, unless they are to `stay`.
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
