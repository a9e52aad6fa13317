"""Finds the line of the configuration that a message is about.

Buildbot checks the whole configuration after its file has run, when nothing knows any more which
line has made an object.  But its messages have names: of a builder, a scheduler, a worker, a key.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

QUOTED = re.compile(r"""(['"])([^'"]+)\1""")
WORD = re.compile(r"[^\s,;:()'\"]+")


class Place(NamedTuple):
    """A line of a file."""

    path: Path
    number: int


class Named(NamedTuple):
    """A call that makes an object, with the name that it gives, or a pattern of such names."""

    place: Place
    name: str
    is_pattern: bool


class Lines:
    """The lines of a configuration file, and of the modules beside it that it imports."""

    def __init__(self, filename: Path) -> None:
        self._filename = filename
        self._texts: dict[Path, str] = {}
        self._keys: list[tuple[str | None, Place]] = []
        self._calls: list[Named] = []
        for path in (filename, *_modules_beside(filename)):
            with suppress(OSError, SyntaxError, ValueError, RecursionError):
                self._read(path)

    def _read(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8", errors="replace")
        self._texts[path] = text
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                self._calls += _named(node, path)
            elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                self._keys.append((_text(node.slice), Place(path, node.lineno)))

    def add_to(self, message: str) -> str:
        """Return a message with the file in front of it, and with the line if one is likely."""
        place = self._find(message)
        where = f"{place.path}:{place.number}" if place else self._filename
        return f"{where}: {message}"

    def _find(self, message: str) -> Place | None:
        quoted = [match[2] for match in QUOTED.finditer(message)]
        for name in quoted:
            if place := self._only_line_with(name):
                return place
        words = [word.strip(".") for word in WORD.findall(QUOTED.sub(" ", message))]
        ways = (self._exact_name, self._pattern_of_names, self._only_literal, self._key)
        # What a message is about comes last in it: "unknown www configuration parameter(s) prot".
        names = (*quoted, *reversed(words))
        found = (find(name) for find in ways for name in names)
        return next(filter(None, found), None)

    def _only_line_with(self, text: str) -> Place | None:
        return self._only(lambda line: text in line)

    def _only_literal(self, word: str) -> Place | None:
        return self._only(lambda line: f'"{word}"' in line or f"'{word}'" in line)

    def _only(self, is_meant: Callable[[str], bool]) -> Place | None:
        found = [
            Place(path, number)
            for path, text in self._texts.items()
            for number, line in enumerate(text.splitlines(), 1)
            if is_meant(line)
        ]
        return found[0] if len(found) == 1 else None

    def _exact_name(self, name: str) -> Place | None:
        """Return where an object gets this name; the last place if there are several."""
        found = [call.place for call in self._calls if not call.is_pattern and call.name == name]
        return found[-1] if found else None

    def _pattern_of_names(self, name: str) -> Place | None:
        matching = [c for c in self._calls if c.is_pattern and re.fullmatch(c.name, name)]
        # The longest pattern says most.
        return max(matching, key=lambda call: len(call.name)).place if matching else None

    def _key(self, name: str) -> Place | None:
        found = [place for key, place in self._keys if key == name]
        return found[-1] if found else None


def _modules_beside(filename: Path) -> Iterator[Path]:
    folder = filename.resolve().parent
    for module in list(sys.modules.values()):
        path = Path("/")
        with suppress(Exception):  # a module may be anything
            path = Path(module.__file__ or "/")
        if path.suffix == ".py" and folder in path.parents and "site-packages" not in path.parts:
            yield path


def _named(call: ast.Call, path: Path) -> Iterator[Named]:
    """Yield the names that a call may give: its `name`, or else its first argument."""
    named = [each.value for each in call.keywords if each.arg == "name"] or call.args[:1]
    for value in named:
        place = Place(path, value.lineno)
        if (name := _text(value)) is not None:
            yield Named(place, name, is_pattern=False)
        elif isinstance(value, ast.JoinedStr):
            texts = map(_text, value.values)
            pattern = "".join(".+" if text is None else re.escape(text) for text in texts)
            if pattern != ".+":
                yield Named(place, pattern, is_pattern=True)


def _text(node: ast.expr) -> str | None:
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_text else None  # type: ignore[attr-defined]
