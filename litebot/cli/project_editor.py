"""Opens a text in its user's editor until it has no faults, so that nothing typed is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from litebot.errors import LitebotError

# Begins the lines that say what is wrong; they are comments of TOML.
NOTE = "#! "

T = TypeVar("T")


def edit_until_right(text: str, parse: Callable[[str], T], remedy: str) -> T | None:
    """Return what `parse` makes of the text as its user left it; None if it was not changed.

    Where `parse` raises LitebotError, the editor opens again with the fault as comments at the top.
    Raises that error once the text is not changed any more, and LitebotError if it is empty or the
    editor fails, and then with `remedy`.
    """
    shown, fault = text, None
    while True:
        typed = _without_notes(_opened(shown, remedy))
        if not typed.strip():
            raise LitebotError("nothing was saved: the text is empty")
        if typed == _without_notes(shown):
            if fault is None:
                return None
            raise LitebotError(f"nothing was saved: {fault.what}", fault.hint) from fault
        try:
            return parse(typed)
        except LitebotError as error:
            fault = error
            lines = [*error.what.splitlines(), *(error.hint or "").splitlines()]
            notes = [f"{NOTE}{line}\n" for line in lines]
            shown = "".join([*notes, f"{NOTE}leave it as it is to give up\n", typed])


def _opened(text: str, remedy: str) -> str:
    try:
        found = click.edit(text, extension=".toml")
    except click.ClickException as error:
        raise LitebotError(f"the editor can't be used: {error.message}", remedy) from error
    return text if found is None else str(found)


def _without_notes(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if not line.startswith(NOTE))
