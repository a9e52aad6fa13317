"""Collects what is wrong in a TOML file that somebody else has written, with lines and remedies."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from litebot import toml_lines
from litebot.errors import BuildFileError
from litebot.toml_lines import Place

# So many errors are shown; of more than MOST_KEPT only the number is known.
MOST_SHOWN = 20
MOST_KEPT = 200
NOT_TOML = 'a string needs quotes, steps = ["make"]; a [table] ends where the next one begins'


class Faults:
    """What is wrong in a file.  Its methods check a value at a place, and note what is wrong."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: dict[Place, int] = {}
        self._kept: list[tuple[Place, str, str | None]] = []
        self._more = 0

    def load(self, data: bytes | str, most_bytes: int) -> dict[str, Any]:
        """Return what a file holds.  Raises BuildFileError if it can't be read as TOML."""
        text = self._text(data, most_bytes)
        try:
            self._lines = toml_lines.find_lines(text)
            return toml_lines.load(text)
        except toml_lines.TomlError as error:
            raise self._error(error.line, error.message, NOT_TOML) from None

    def _text(self, data: bytes | str, most_bytes: int) -> str:
        if isinstance(data, str):
            # Half a surrogate pair becomes bytes that are refused as those of a file are.
            data = data[: most_bytes + 1].encode("utf-8", "surrogatepass")
        if len(data) > most_bytes:
            raise self._error(
                data.count(b"\n", 0, most_bytes) + 1,
                f"the file has more than {most_bytes:,} bytes",
                "put long commands into a script in the repository",
            )
        try:
            return data.removeprefix(b"\xef\xbb\xbf").decode()
        except UnicodeDecodeError as error:
            raise self._error(
                data.count(b"\n", 0, error.start) + 1,
                f"byte 0x{data[error.start]:02x} is not UTF-8",
                "save the file as UTF-8 in your editor",
            ) from None

    def _error(self, line: int, what: str, hint: str) -> BuildFileError:
        return BuildFileError(f"{self._name}:{line}: {what}", hint)

    def add(self, place: Place, what: str, hint: str | None) -> None:
        if len(self._kept) < MOST_KEPT:
            self._kept.append((place, what, hint))
        else:
            self._more += 1

    def raise_if_any(self) -> None:
        """Raise BuildFileError with all that is wrong, in the order of the lines."""
        if not self._kept:
            return
        found = sorted(
            ((self._line(place), what, hint) for place, what, hint in self._kept),
            key=lambda fault: fault[0],
        )
        shown_ones = found[:MOST_SHOWN]
        whats = [f"{self._name}:{line}: {what}" for line, what, _ in shown_ones]
        more = len(found) - len(shown_ones) + self._more
        if more:
            whats[-1] += f" (and {more:,} more errors)"
        hints = dict.fromkeys(
            hint if len(found) == 1 else f"line {line}: {hint}"
            for line, _, hint in shown_ones
            if hint
        )
        raise BuildFileError("\n".join(whats), "\n".join(hints) or None)

    def _line(self, place: Place) -> int:
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)

    def check_keys(self, place: Place, table: dict[str, Any], known: Collection[str]) -> None:
        """Note the keys of a table that are not known."""
        unknown = (key for key in table if key not in known)
        for key in unknown:
            if len(self._kept) == MOST_KEPT:
                self._more += 1
                continue
            where = f" in {named(place)}" if place else ""
            self.add((*place, key), f"unknown key {shown(key)}{where}", _suggestion(key, known))

    def table(
        self, place: Place, value: object, hint: str, most: int | None = None
    ) -> dict[str, Any]:
        """Return a table, its first `most` keys if it has more; {} for None and what is none."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.add(place, f"{named(place)} is {shown(value)}; it must be a table", hint)
            return {}
        if most is not None and len(value) > most:
            self.add(place, f"{named(place)} has more than {most} keys", "take some out")
            return dict(list(value.items())[:most])
        return value

    def items(self, place: Place, value: object, most: int, hint: str) -> list[Any]:
        """Return a list that is not empty, its first `most` items if it has more; [] for None."""
        if value is None:
            return []
        if not isinstance(value, list):
            self.add(place, f"{named(place)} is {shown(value)}; it must be a list", hint)
            return []
        if not value:
            self.add(place, f"{named(place)} is empty", hint)
        if len(value) > most:
            self.add(place, f"{named(place)} has more than {most} items", "take some out")
        return value[:most]

    def text(
        self, place: Place, value: object, longest: int, hint: str, *, lines: bool = False
    ) -> str | None:
        """Return a string, or None for None and what may not be one.

        It must be printable; with `lines` it may hold anything but the character NUL.
        """
        name = named(place)
        if value is None:
            return None
        if not isinstance(value, str):
            self.add(place, f"{name} is {shown(value)}; it must be a string in quotes", hint)
        elif len(value) > longest:
            self.add(place, f"{name} has more than {longest:,} characters", "make it shorter")
        elif "\0" in value:
            self.add(place, f"{name} holds the character NUL", "take it out")
        elif not lines and not value.isprintable():
            self.add(place, f"{name} must be one line of printable characters", hint)
        else:
            return value
        return None

    def texts(
        self,
        place: Place,
        value: object,
        most: int,
        longest: int,
        hint: str,
        *,
        repeated: bool = False,
    ) -> tuple[str, ...]:
        """Return a list of printable strings that are not empty; one string is a list of it."""
        if isinstance(value, str):
            text = self.text(place, value, longest, hint)
            if text == "":
                self.add(place, f"{named(place)} is empty", hint)
            return (text,) if text else ()
        found: list[str] = []
        for number, item in enumerate(self.items(place, value, most, hint)):
            here = (*place, number)
            text = self.text(here, item, longest, hint)
            if text == "":
                self.add(here, f"{named(place)} has an empty item", hint)
            elif text is not None and text in found and not repeated:
                self.add(here, f"{named(place)} has {text!r} twice", "take one out")
            elif text is not None:
                found.append(text)
        return tuple(found)


def named(place: Place) -> str:
    """Return how an error calls a place, such as "when.branch"."""
    return ".".join(_cut(part) for part in place if isinstance(part, str)) or "the file"


def shown(value: object) -> str:
    """Return a value as an error shows it: what is long is cut."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return repr(_cut(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cut(text: str) -> str:
    cut = text if len(text) <= 60 else f"{text[:60]}..."
    return cut if cut.isprintable() else repr(cut)[1:-1]


def _suggestion(key: str, known: Collection[str]) -> str:
    import difflib

    near = difflib.get_close_matches(key[:60], known, n=1)
    return f"{f'did you mean {near[0]!r}? ' if near else ''}known keys: {', '.join(known)}"
