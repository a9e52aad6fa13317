"""The top of a repository, read with care: whatever is in its files, no method raises."""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Collection
from typing import Any

from litebot import toml_lines

MOST_NAMES = 10_000
MOST_CHARS = 262_144


class Tree:
    """What lies at the top of a repository.

    `names` are its files and folders, and `read` returns the text of a file, or None.  It is also
    asked for files in folders, such as "tests/__init__.py", and may answer None to these.
    """

    def __init__(self, names: Collection[str], read: Callable[[str], str | None]) -> None:
        self.names = {name for name, _ in zip(names, range(MOST_NAMES), strict=False)}
        self._read = read
        self._texts: dict[str, str | None] = {}

    def first(self, *names: str) -> str | None:
        """Return the first of some names that is there, or None."""
        return next((name for name in names if name in self.names), None)

    def ending(self, *ends: str) -> str | None:
        """Return the first name, by the alphabet, that has one of some endings, or None."""
        return next((n for n in sorted(self.names) if n.endswith(ends) and n.isprintable()), None)

    def holds(self, path: str) -> bool:
        """Return whether there is a file of this path with a text."""
        return self._text(path) is not None

    def text(self, path: str) -> str:
        """Return the beginning of a file, "" if it is not there."""
        return self._text(path) or ""

    def _text(self, path: str) -> str | None:
        if path not in self._texts:
            text = self._read(path) if "/" in path or path in self.names else None
            self._texts[path] = text if text is None else text[:MOST_CHARS]
        return self._texts[path]

    def toml(self, name: str) -> dict[str, Any]:
        """Return what a TOML file holds, {} if it is none."""
        text = self.text(name)
        try:
            toml_lines.find_lines(text)
            return toml_lines.load(text)
        except toml_lines.TomlError:
            return {}

    def json(self, name: str) -> dict[str, Any]:
        """Return the object that a JSON file holds, {} if it holds none."""
        try:
            value = json.loads(self.text(name))
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


def table_at(value: object, *keys: str) -> dict[str, Any]:
    """Return a table in a table, {} if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
