"""Patterns of branches and of paths, matched in time linear in the text.

`*` stands for any characters but "/", `?` for one of them, and `**` as a whole part between "/" for
any number of such parts, also none: `docs/**` is all below docs, `**/*.py` every file of Python.  A
pattern that begins with "!" takes away from what the others match.
"""

from __future__ import annotations

from collections.abc import Iterable

FORMS = '"main", "release/*", "docs/**" or "!docs/**"'


def pattern_fault(pattern: str) -> str | None:
    """Return what is wrong with a pattern, or None."""
    parts = pattern.removeprefix("!").split("/")
    if not pattern.removeprefix("!"):
        return "it must not be empty"
    if not pattern.isprintable():
        return "it must be one line of printable characters"
    if any("**" in part and part != "**" for part in parts):
        return '"**" must be a whole part between "/", as in "**/*.py"'
    if "" in parts or "." in parts or ".." in parts:
        return 'it must have no "/" at an end and no empty part, "." or ".."'
    return None


class Patterns:
    """A list of patterns: a text is `in` it if one matches and none with a "!" does.

    If all have a "!", everything else matches.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        given = tuple(patterns)
        self._wanted = _Automaton(p for p in given if not p.startswith("!"))
        self._unwanted = _Automaton(p[1:] for p in given if p.startswith("!"))
        self._any_wanted = any(not p.startswith("!") for p in given)

    def __contains__(self, text: str) -> bool:
        wanted = not self._any_wanted or self._wanted.matches(text)
        return wanted and not self._unwanted.matches(text)


class _Automaton:
    """All places in some patterns where a text may be, each as a bit of one integer.

    A character moves all of them at once, so patterns can't make a match slow by backtracking.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._chars: dict[str, int] = {}  # which places a character moves on from
        self._any_char = self._not_slash = 0  # the places that such a character moves on from
        self._stay_any = self._stay_not_slash = 0  # those that it leaves as they are
        self._skip_1 = self._skip_2 = 0  # those that may also be the next but none, or but one
        self._back = 0  # those from which "/" leads to the one before
        self._start = self._end = 0
        self._size = 0
        for pattern in patterns:
            self._add(pattern.split("/"))

    def _place(self) -> int:
        self._size += 1
        return 1 << (self._size - 1)

    def _add(self, parts: list[str]) -> None:
        self._start |= 1 << self._size
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            if part == "**" and last:  # at least one character
                self._any_char |= self._place()
                self._stay_any |= 1 << self._size
            elif part == "**":
                if number and parts[number - 1] == "**":
                    continue
                # Two places: between parts, and inside one that is passed over.
                between, inside = self._place(), self._place()
                self._not_slash |= between
                self._stay_not_slash |= inside
                self._back |= inside
                self._skip_2 |= between
            else:
                self._add_part(part if last else f"{part}/")
        self._end |= self._place()

    def _add_part(self, part: str) -> None:
        for char in part:
            place = self._place()
            if char == "*":
                self._stay_not_slash |= place
                self._skip_1 |= place
            elif char == "?":
                self._not_slash |= place
            else:
                self._chars[char] = self._chars.get(char, 0) | place

    def _skipped(self, places: int) -> int:
        places |= (places & self._skip_2) << 2
        return places | (places & self._skip_1) << 1

    def matches(self, text: str) -> bool:
        places = self._skipped(self._start)
        for char in text:
            moving = self._chars.get(char, 0) | self._any_char
            staying = self._stay_any
            if char != "/":
                moving |= self._not_slash
                staying |= self._stay_not_slash
            now = (places & moving) << 1 | places & staying
            if char == "/":
                now |= (places & self._back) >> 1
            places = self._skipped(now)
            if not places:
                return False
        return bool(places & self._end)
