"""How shells, JSON, URLs and others write a secret: each of these ways has to be masked."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from urllib.parse import quote
from urllib.parse import quote_plus

# A shorter value would be found in ordinary words.
SHORTEST = 4
# A line of a secret with several lines may be as ordinary as "{"; a shorter one is found only
# between its neighbours.
SHORTEST_LINE = 6
MOST_LINES = 1000
# The columns at which base64(1), and PEM, break lines.
BASE64_COLUMNS = (76, 64)
SHORTEST_BASE64 = 5

# What may stand between two words of a value: Python's pprint breaks long strings at white space,
# and a line of a build's log begins with a letter for its stream.
BREAK = r"(?:['\"]\s*\n\s*['\"])?"
NEWLINE = rf"(?:\r?\n[oeh]?|\\n{BREAK})"
# The rest of the last group of four characters, in which a value ends.
BASE64_END = r"[A-Za-z0-9+/_-]{0,3}=*"


def quoted(value: str) -> set[str]:
    """Return the ways to write a value, or a line of one, in which most characters stay."""
    ways = {value, html.escape(value), html.escape(value).replace("&#x27;", "&#39;")}
    return ways | _of_shells(value) | _of_programs(value) | _of_urls(value)


def in_hex(value: str) -> set[str]:
    """Return a value in hexadecimal digits."""
    encoded = value.encode("utf-8", "surrogatepass").hex()
    return {encoded, encoded.upper()}


def _of_shells(value: str) -> set[str]:
    in_double_quotes = re.sub(r'([$`"\\])', r"\\\1", value)
    return {
        value.replace("'", "'\"'\"'"),
        value.replace("'", "'\\''"),
        in_double_quotes,
        in_double_quotes.replace("!", "\\!"),
        re.sub(r"([^\w@%+=:,./-])", r"\\\1", value, flags=re.ASCII),
    }


def _of_programs(value: str) -> set[str]:
    ways = set[str]()
    data = value.encode("utf-8", "surrogatepass")
    for escaped in (repr(value)[1:-1], ascii(value)[1:-1], repr(data)[2:-1]):
        bare = escaped.replace("\\'", "'")
        ways |= {escaped, bare, bare.replace("'", "\\'"), bare.replace('"', '\\"')}
    for only_ascii in (True, False):
        once = json.dumps(value, ensure_ascii=only_ascii)[1:-1]
        twice = json.dumps(once, ensure_ascii=only_ascii)[1:-1]
        ways |= {once, once.replace("/", "\\/"), twice}
    return ways


def _of_urls(value: str) -> set[str]:
    data = value.encode("utf-8", "surrogatepass")
    ways = {quote(data, safe=""), quote(data), quote_plus(data)}
    return ways | {re.sub("%..", lambda m: m[0].lower(), way) for way in ways}


def in_base64(value: str) -> set[str]:
    """Return the characters of base64 that a value determines, wherever it stands in a text.

    So it is found in `user:value`, too.  It begins at one of three places in a group of four
    characters; what it shares with its neighbours is left out.
    """
    data = value.encode("utf-8", "surrogatepass")
    ways = set[str]()
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + data).decode()
        first, end = -(-8 * offset // 6), 8 * (offset + len(data)) // 6
        ways.add(encoded[first:end])
    whole = base64.b64encode(data).decode()
    for columns in BASE64_COLUMNS:
        if len(whole) > columns:
            ways |= {whole[at : at + columns] for at in range(0, len(whole), columns)}
    ways |= {way.replace("+", "-").replace("/", "_") for way in ways}
    return {way for way in ways if len(way) >= SHORTEST_BASE64}


def lines(value: str) -> Iterator[str]:
    """Yield the lines of a value that are masked alone, such as those of a key."""
    found = [line.strip() for line in value.splitlines()]
    if len(found) > 1:
        # `-----BEGIN ... KEY-----` is no secret.
        for line in found[:MOST_LINES]:
            if len(line) >= SHORTEST_LINE and not line.startswith("-----"):
                yield line


def broken(value: str) -> tuple[str, set[str]] | None:
    """Return a regular expression for a value that is broken at white space.

    And the ways to write its longest word, of which one is in each text that it is found in.
    Returns None for a value without white space.
    """
    words = re.split(r"(\s)", value)
    if len(words) == 1:
        return None
    pattern = ""
    for word in words:
        if word == "\n":
            pattern += NEWLINE
        elif word == "\r":
            pattern += "\r?"
        elif word.isspace():
            pattern += re.escape(word) + BREAK
        elif word:
            ways = sorted({word} | _of_programs(word), key=len, reverse=True)
            pattern += f"(?:{'|'.join(map(re.escape, ways))})"
    longest = max(words, key=len)
    return pattern, {longest} | _of_programs(longest)
