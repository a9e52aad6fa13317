"""Lengths of time as people write them: "90s", "20m", "1h30m", "2d"."""

from __future__ import annotations

import re

from litebot.errors import LitebotError

EXAMPLES = '"90s", "20m" or "1h30m"'
_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_FORM = re.compile("".join(rf"(?:(\d{{1,9}}){unit})?" for unit in _UNITS_S))


def parse_duration(text: str) -> int:
    """Return a length of time in seconds.  Raises LitebotError if it is not one, or zero."""
    found = _FORM.fullmatch(text) if text.isascii() else None
    length_s = 0
    if found is not None:
        length_s = sum(
            int(count or 0) * unit_s
            for count, unit_s in zip(found.groups(), _UNITS_S.values(), strict=True)
        )
    if length_s == 0:
        shown = repr(text if len(text) <= 40 else f"{text[:40]}...")
        raise LitebotError(f"{shown} is not a length of time", f"write it like {EXAMPLES}")
    return length_s


def format_duration(length_s: int) -> str:
    """Return a length of time such as "1h30m", which `parse_duration` reads; 0 is "0s"."""
    parts = []
    rest_s = length_s
    for unit, unit_s in _UNITS_S.items():
        count, rest_s = divmod(rest_s, unit_s)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
