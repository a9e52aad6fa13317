"""Reads TOML that somebody else has written, and says on which line each of its keys is.

tomllib decides what a text means, but does not tell where a key was, and takes minutes for some
texts of a few KB, such as a key with thousands of dots.  `find_lines` passes over the text once,
in linear time, and refuses such texts before tomllib sees them.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

# What leads to a value: the names of keys, and the numbers of an array's items from 0.
Place = tuple[str | int, ...]

# A key such as a.b.c has 3 names, and [[1]] is 2 deep; nothing that litebot reads needs that
# many.
MOST_NAMES = 8
MOST_DEEP = 8
# A value without quotes is a number, a date or a boolean.
LONGEST_NUMBER = 100
# More keys and items than this take longer than a reactor may wait.
MOST_VALUES = 4000

_SPACE = re.compile(r"[ \t]*+")
_LINES = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_NAME = re.compile(r'([A-Za-z0-9_-]++)|"((?:[^"\\\n]++|\\.)*+)"|\'([^\'\n]*+)\'')
_VALUE = re.compile(
    r'"""(?:[^"\\]++|\\[\s\S]|"(?!""))*+"{3,5}'
    r"|'''(?:[^']++|'(?!''))*+'{3,5}"
    r'|"(?!"")(?:[^"\\\n]++|\\.)*+"'
    r"|'(?!'')[^'\n]*+'"
    r"|[^\[\]{}\"'#,\n]++"
)
_ESCAPE = re.compile(r"\\(?:u(.{4})|U(.{8})|(.))")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


class TomlError(ValueError):
    """The text is not TOML, or more of it than litebot reads; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def load(text: str) -> dict[str, Any]:
    """Return what a TOML text holds.  Raises TomlError."""
    try:
        return tomllib.loads(text)
    except ValueError as error:
        # Before Python 3.14 the position is only in the message.  An error without a position is at
        # the end of the text.
        message, _, place = str(error).partition(" (at ")
        found = re.match(r"line (\d+)", place)
        line = int(found[1]) if found else text.rstrip().count("\n") + 1
        raise TomlError(f"not TOML: {message}", line) from error


def find_lines(text: str) -> dict[Place, int]:
    """Return the line of each key and of each item of an array, counted from 1.

    A table begins where it is named first.  Of a text that is not TOML, it returns what comes
    before the error.  Raises TomlError for what is too deep or too much for `load`.
    """
    finder = _Finder(text)
    finder.run()
    return finder.lines


class _Stop(Exception):
    """The text is not TOML from here on."""


class _Finder:
    """One pass over a text.  It stops at most where tomllib would."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.lines: dict[Place, int] = {}
        self._line = 1
        self._counted = 0  # up to here the lines are counted in _line
        self._tables: dict[Place, int] = {}  # how many items each [[array]] has so far
        self._values = 0

    def run(self) -> None:
        table: Place = ()
        try:
            while self._next_char():
                if self.text[self.pos] == "[":
                    table = self._header()
                else:
                    self._value(self._key(table))
        except _Stop:
            pass

    def _next_char(self) -> str:
        """Pass over white space, ends of lines and comments; return what follows, "" at the end."""
        found = _LINES.match(self.text, self.pos)
        self.pos = found.end() if found else self.pos
        return self.text[self.pos : self.pos + 1]

    def _line_here(self) -> int:
        self._line += self.text.count("\n", self._counted, self.pos)
        self._counted = self.pos
        return self._line

    def _add(self, place: Place) -> None:
        self._values += 1
        if self._values > MOST_VALUES:
            raise TomlError(f"more than {MOST_VALUES} keys and items", self._line_here())
        if place not in self.lines:
            self.lines[place] = self._line_here()

    def _expect(self, char: str) -> None:
        if not self.text.startswith(char, self.pos):
            raise _Stop
        self.pos += len(char)

    def _names(self) -> list[str]:
        """Pass over a key and the spaces after it; return the names between its dots."""
        names: list[str] = []
        while True:
            found = _NAME.match(self.text, self.pos)
            if found is None:
                raise _Stop
            bare, quoted, literal = found.groups()
            names.append(_unescape(quoted) if quoted is not None else bare or literal)
            if len(names) > MOST_NAMES:
                raise TomlError(f"a key with more than {MOST_NAMES} names", self._line_here())
            self.pos = found.end()
            self._spaces()
            if not self.text.startswith(".", self.pos):
                return names
            self.pos += 1
            self._spaces()

    def _spaces(self) -> None:
        found = _SPACE.match(self.text, self.pos)
        self.pos = found.end() if found else self.pos

    def _header(self) -> Place:
        """Pass over a [table] or [[array of tables]]; return the place that its keys are in."""
        brackets = 2 if self.text.startswith("[[", self.pos) else 1
        self.pos += brackets
        self._spaces()
        names = self._names()
        self._expect("]" * brackets)
        place: Place = ()
        for number, name in enumerate(names, 1):
            place = (*place, name)
            self._add(place)
            if number == len(names) and brackets == 2:
                self._tables[place] = self._tables.get(place, 0) + 1
            if place in self._tables:
                place = (*place, self._tables[place] - 1)
                self._add(place)
        return place

    def _key(self, table: Place) -> Place:
        """Pass over a key and its "="; return the place of its value."""
        place = table
        for name in self._names():
            place = (*place, name)
            self._add(place)
        self._expect("=")
        return place

    def _value(self, place: Place) -> None:
        """Pass over a value; `opened` are the arrays and inline tables that it is inside of.

        For an array that is its place and the number of its next item, for a table its place alone.
        """
        opened: list[tuple[Place, int | None]] = []
        self._spaces()
        while True:
            char = self.text[self.pos : self.pos + 1]
            if char in ("[", "{") and char:
                self.pos += 1
                opened.append((place, 0 if char == "[" else None))
                if len(opened) > MOST_DEEP:
                    raise TomlError(
                        f"arrays and tables more than {MOST_DEEP} deep", self._line_here()
                    )
            else:
                found = _VALUE.match(self.text, self.pos)
                if found is None:
                    raise _Stop
                if char not in "\"'" and len(found[0].strip()) > LONGEST_NUMBER:
                    raise TomlError(
                        f"a value without quotes of {len(found[0]):,} characters", self._line_here()
                    )
                self.pos = found.end()
            next_place = self._next_place(opened, begun=char in ("[", "{"))
            if next_place is None:
                return
            place = next_place

    def _next_place(self, opened: list[tuple[Place, int | None]], *, begun: bool) -> Place | None:
        """Pass over what separates values; return the place of the next one inside `opened`.

        Returns None if all that was opened is closed.  `begun` means right after an opening.
        """
        while opened:
            place, number = opened[-1]
            char = self._next_char()
            if not begun and char == ",":
                self.pos += 1
                char = self._next_char()
            elif not begun and char not in ("]", "}"):
                raise _Stop
            begun = False
            if char == ("}" if number is None else "]"):
                self.pos += 1
                opened.pop()
            elif number is None:
                inner = self._key(place)
                self._next_char()
                return inner
            else:
                opened[-1] = (place, number + 1)
                self._add((*place, number))
                return (*place, number)
        return None


def _unescape(text: str) -> str:
    def char(found: re.Match[str]) -> str:
        code = found[1] or found[2]
        try:
            return chr(int(code, 16)) if code else _ESCAPED.get(found[3], found[3])
        except (ValueError, OverflowError):  # tomllib refuses it
            return found[0]

    return _ESCAPE.sub(char, text) if "\\" in text else text
