"""What the handler of a page answers: a page, a redirect, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from urllib.parse import quote
from urllib.parse import urlencode


@dataclass(frozen=True)
class Page:
    """A template, and the values that it shows beside those of the frame."""

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


class Redirect:
    """Leads to the page at the path of these parts, such as Redirect("projects", name).

    A browser loads that page with GET; loading it again sends no form again.
    """

    def __init__(self, *parts: str, **query: str) -> None:
        self.path = path_of(*parts, **query)


class PageError(Exception):
    """Shown as a page with this status.  `remedy` says what to do, or is ""."""

    def __init__(self, status: int, what: str, remedy: str = "", allow: str = "") -> None:
        super().__init__(what)
        self.status = status
        self.what = what
        self.remedy = remedy
        self.allow = allow  # the methods that the page has, for a 405


def sentence(text: str) -> str:
    """Return what an error says with a capital, unless it begins with an address or a key."""
    first = text.partition(" ")[0].rstrip(":")
    return f"{text[:1].upper()}{text[1:]}" if first.isalpha() else text


def path_of(*parts: str, **query: str) -> str:
    """Return the path of a page under /litebot/ as a URL has it, with a query."""
    path = "/".join(quote(part, safe="") for part in parts)
    return f"{path}?{urlencode(query)}" if query else path
