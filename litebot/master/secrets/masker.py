"""Masks secrets that are known, and passwords in URLs."""

from __future__ import annotations

import functools
import re
import threading
from typing import Any

from litebot.master.secrets import spellings

# Values that a provider makes anew each time would else take ever more memory and time.
MOST_VALUES = 500
URL_USER = re.compile(r"(?<=://)([^\s/?#@:\"'<>]*)(:[^\s/?#@\"'<>]*)?@")
# A user without a password that is as long as this is most often a token.
SHORTEST_TOKEN = 16
MASK = "<password>"
# The properties that Buildbot sets.
OF_BUILDBOT = frozenset(
    {
        *(
            "basedir",
            "branch",
            "builddir",
            "buildername",
            "buildnumber",
            "codebase",
            "got_revision",
        ),
        *("machine_name", "owners", "project", "projectname", "revision", "scheduler"),
        *("virtual_builder_name", "virtual_builder_tags", "workername"),
    }
)
# GitHub takes a token as a user with this password.
TOKEN_IS_USER = ":x-oauth-basic"  # noqa: S105
# A shorter value that is no util.Secret may be a word that is not to disappear from all logs.
SHORTEST_PLAIN = 8


def mask_urls(text: str) -> str:
    """Replace passwords in the URLs of a text, as in https://user:password@host."""
    return URL_USER.sub(_without_password, text) if "@" in text and "://" in text else text


def _without_password(found: re.Match[str]) -> str:
    user, password = found[1], found[2]
    shown = MASK if len(user) >= SHORTEST_TOKEN else user
    if password is None or (password[1:].startswith("<") and password.endswith(">")):
        return f"{shown}{password or ''}@"
    if password == TOKEN_IS_USER:
        return f"{MASK}{password}@"
    return f"{shown}:{MASK}@"


class Masker:
    """Replaces each value that it has learned by its name, `<name>`, however it is written.

    One serves the whole process, whose log has what all parts write.  Threads may use it at once.
    """

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}
        self._lock = threading.Lock()
        self._spelled: _Spelled | None = None

    @property
    def knows_any(self) -> bool:
        """Whether it has learned a value."""
        return bool(self._labels)

    def learn(self, name: str, value: str, shown: str | None = None) -> None:
        """Mask a value from now on, as `<name>` or as `shown`.

        One with fewer than SHORTEST characters is not masked.
        """
        value = value.strip()
        if len(value) < spellings.SHORTEST or value in self._labels:
            return
        with self._lock:
            while len(self._labels) >= MOST_VALUES:
                del self._labels[next(iter(self._labels))]
            # It must not break the JSON, the HTML or the line that it is put into.
            label = f"<{name}>" if shown is None else shown
            self._labels[value] = re.sub(r"[^\w./ <>:@-]", "_", label)
            self._spelled = None

    def learn_obfuscated(self, word: Any) -> None:
        """Mask a word of a command that is obfuscated: ("obfuscated", real, shown)."""
        if isinstance(word, (list, tuple)) and len(word) == 3 and word[0] == "obfuscated":
            _, real, shown = word
            if isinstance(real, str) and len(real) >= SHORTEST_PLAIN:
                self.learn("", real, shown=str(shown))

    def mask(self, text: str) -> str:
        """Return a text without the values."""
        if not self._labels:
            return text
        return (self._spelled or self._spell()).mask(text)

    def mask_value(self, value: Any) -> Any:
        """Return what JSON can hold without the values: a text, or lists and dicts of such."""
        if not self._labels:
            return value
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, list):
            return [self.mask_value(each) for each in value]
        if isinstance(value, tuple):
            return tuple(self.mask_value(each) for each in value)
        if isinstance(value, dict):
            return {self.mask_value(k): self.mask_value(v) for k, v in value.items()}
        return value

    def mask_properties(self, properties: dict[str, Any]) -> dict[str, Any]:
        """Return properties without the values: {name: (value, source)}.

        Leaves out what Buildbot itself sets: a secret may be a word, such as the name of an
        account, that is in the name of a builder, and reporters tell builds by these.
        """
        return {
            name: entry if name in OF_BUILDBOT else self.mask_value(entry)
            for name, entry in properties.items()
        }

    def mask_bytes(self, data: bytes) -> bytes:
        """Return bytes without the values; what is not UTF-8 stays as it is."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return data
        masked = self.mask(text)
        return data if masked is text else masked.encode()

    def finds(self, text: str) -> bool:
        """Return whether a value, or the longest word of one, is in a text."""
        return bool(self._labels) and (self._spelled or self._spell()).finds(text)

    def has_label(self, text: str) -> bool:
        """Return whether a text has something that stands for a value."""
        return any(label in text for label in list(self._labels.values()))

    def find_across(self, text: str, at: int) -> tuple[int, int, str] | None:
        """Return where a value begins before `at` and ends after it, and its label; or None."""
        return (self._spelled or self._spell()).find_across(text, at) if self._labels else None

    def _spell(self) -> _Spelled:
        with self._lock:
            if self._spelled is None:
                self._spelled = _Spelled(self._labels)
            return self._spelled


class _Spelled:
    """All ways to write some values."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels: dict[str, str] = {}  # by each way to write a value
        self._in_base64 = set[str]()
        self._broken: list[tuple[str, set[str], str]] = []
        needles = set[str]()
        for value, label in labels.items():
            encoded = spellings.in_base64(value)
            for ways in (
                spellings.quoted(value) | spellings.in_hex(value),
                *map(spellings.quoted, spellings.lines(value)),
                encoded,
            ):
                new = ways - self._labels.keys()
                self._labels |= dict.fromkeys(new, label)
                needles |= _least(new)
            self._in_base64 |= encoded
            if (broken := spellings.broken(value)) is not None:
                self._broken.append((*broken, label))
                needles |= _least(broken[1])
        self._needles = list(needles)
        # A value may be a part of another one.
        self._longest_first = sorted(self._labels, key=len, reverse=True)
        self._broken.sort(key=lambda broken: -len(broken[0]))

    def finds(self, text: str) -> bool:
        # For texts of this size a search for each costs less than one regular expression for all,
        # and that would take seconds to compile where there are keys of many lines.  Between two
        # of them other threads can run, which any(map(...)) would not let.
        return any(needle in text for needle in self._needles)

    def mask(self, text: str) -> str:
        if not self.finds(text):
            return text
        for pattern, needles, label in self._broken:
            if any(needle in text for needle in needles):
                text = _compiled(pattern).sub(lambda _, label=label: label, text)  # type: ignore[misc]
        for way in [way for way in self._longest_first if way in text]:
            label = self._labels[way]
            if way in self._in_base64:
                text = re.sub(re.escape(way) + spellings.BASE64_END, label, text)
            else:
                text = text.replace(way, label)
        return text

    def find_across(self, text: str, at: int) -> tuple[int, int, str] | None:
        """Return where a value begins before `at` and ends after it, and its label; or None."""
        for way in self._longest_first:
            begin = text.find(way, max(at - len(way) + 1, 0), at + len(way) - 1)
            if begin >= 0:
                return begin, begin + len(way), self._labels[way]
        return None


_compiled = functools.cache(re.compile)


def _least(texts: set[str]) -> set[str]:
    """Return the texts that no other of them is a part of."""
    least = set[str]()
    for text in sorted(texts, key=len):
        if not any(map(text.__contains__, least)):
            least.add(text)
    return least


# The one of this process.
masker = Masker()
