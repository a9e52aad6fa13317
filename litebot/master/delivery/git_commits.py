"""What git prints of a commit, whatever bytes are in it."""

from __future__ import annotations

import codecs
import datetime
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# The arguments after `git log` that print what parse() reads.  Git makes UTF-8 of the texts of a
# commit that names their encoding, and leaves them as they are where it does not know it, or where
# they are no such texts.  It prints a text up to its first NUL, and names of files as they are.
FIELDS = "%P%x00%e%x00%aN <%aE>%x00%cN <%cE>%x00%ct%x00%s%n%b%x00"
FORMAT = [
    *("--no-walk", "-z", "--name-only", "-m", "--first-parent", "--encoding=UTF-8"),
    f"--format={FIELDS}",
]
# The terminator of the format, and an empty line, come before the first file.
BEFORE_FILES = b"\0\n"
ENCODING_NAME = re.compile(r"[A-Za-z0-9][\w.:+-]{0,39}", re.ASCII)
# Codecs of Python's that git does not know; some take a time that grows with the square of a text.
NO_ENCODINGS = {"charmap", "idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
# The committer's date in a commit object; git itself prints no date that is negative.
DATE = re.compile(rb"^committer [^\n]*> (-?\d+)(?: [+-]\d+)?$", re.MULTILINE)
MOST_DIGITS = 20
LAST_S = int(datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC).timestamp()) + 86_399
FIRST_S = int(datetime.datetime(1, 1, 1, tzinfo=datetime.UTC).timestamp())


@dataclass(frozen=True)
class Commit:
    """A commit; `when` is the committer's date in epoch seconds, None if git can't tell it."""

    parents: list[str]
    author: str
    committer: str
    when: int | None
    comments: str
    files: list[str]


def parse(printed: bytes, encodings: Iterable[str]) -> Commit:
    """Return the commit that `git log` has printed by FORMAT.

    The texts are decoded by the commit's own header; of one without by the first of `encodings`
    that suits; else as UTF-8, with U+FFFD for what is none.  Raises ValueError.
    """
    parents, header, author, committer, when, comments, rest = printed.split(b"\0", 6)
    decode = _decoder(header.decode("ascii", "replace"), list(encodings))
    names = rest.removeprefix(BEFORE_FILES).split(b"\0")
    return Commit(
        parents.decode("ascii").split(),
        decode(author.strip()),
        decode(committer.strip()),
        _date(when) if when else None,
        decode(comments).strip(),
        [name.decode("utf-8", "replace") for name in names if name],
    )


def date_in(commit_object: bytes) -> int | None:
    """Return the committer's date in what `git cat-file commit` prints, or None."""
    headers = commit_object.partition(b"\n\n")[0]
    found = DATE.search(headers)
    return _date(found[1]) if found else None


def _date(digits: bytes) -> int:
    """Return the nearest date, in epoch seconds, that Python's datetime can have."""
    return max(FIRST_S, min(int(digits[:MOST_DIGITS]), LAST_S))


def _decoder(header: str, encodings: list[str]) -> Callable[[bytes], str]:
    def decode(text: bytes) -> str:
        return next(_readings(text, header, encodings)).replace("\0", "\ufffd")

    return decode


def _readings(text: bytes, header: str, encodings: list[str]) -> Iterator[str]:
    """Yield how a text can be read, the best first."""
    names = ("utf-8", header, *encodings) if header else (*encodings, "utf-8")
    attempts = [(name, "strict") for name in names]
    for name, errors in (*attempts, (header, "replace")):
        if ENCODING_NAME.fullmatch(name):
            try:
                if codecs.lookup(name).name in NO_ENCODINGS:
                    continue
                read = text.decode(name, errors)
                read.encode()  # some codecs, such as UTF-7, make half a surrogate pair
            except (LookupError, ValueError):  # an unknown codec, or one that is not for texts
                continue
            yield read
    yield text.decode("utf-8", "replace")


def is_storable(name: Any) -> bool:
    """Return whether the name of a ref was UTF-8: git's output has U+FFFD for what was not."""
    return "\ufffd" not in name
