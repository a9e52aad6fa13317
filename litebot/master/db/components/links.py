"""URLs that come from outside, and that the page shows as links.

A click on `javascript:...` runs a script as the user who clicks, so such a URL is never a link.
"""

from __future__ import annotations

import functools
import re
from html import escape
from html.parser import HTMLParser
from typing import Any

LINKS = frozenset({"http", "https", "mailto"})
# How people get to a worker: Buildbot's manual has ssh: in `access_uri`.
ACCESS = LINKS | {"ssh", "sftp", "telnet", "rdp", "vnc"}
REMEDY = "it must begin with http:, https: or mailto:"

# What a browser leaves out of a URL before it reads the scheme.
# Source: https://url.spec.whatwg.org/#concept-basic-url-parser
_AROUND = "".join(map(chr, range(0x21)))
_INSIDE = str.maketrans("", "", "\t\n\r")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def may_link(url: Any, schemes: frozenset[str] = LINKS) -> bool:
    """Return whether a URL may be a link: it has one of these schemes, or none.

    One without a scheme is relative to the page, such as that of a file that a step uploads.
    """
    if not isinstance(url, str):
        return False
    found = _SCHEME.match(url.strip(_AROUND).translate(_INSIDE))
    return found is None or found[1].lower() in schemes


def link_or_empty(url: Any, schemes: frozenset[str] = LINKS) -> Any:
    """Return a URL that may be a link, or else the empty string; None stays None."""
    return url if url is None or may_link(url, schemes) else ""


# What runs a script, or changes where the links of the page lead.
_DROPPED = frozenset({"script", "base", "meta", "link", "object", "embed"})
_URLS = frozenset({"href", "src", "action", "formaction", "xlink:href", "poster", "background"})
_PICTURES = LINKS | {"data"}


class _Harmless(HTMLParser):
    """Writes HTML again, without the scripts in it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self._is_in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _DROPPED:
            self._is_in_script = tag == "script"
            return
        kept = "".join(
            f" {name}" if value is None else f' {name}="{escape(value)}"'
            for name, value in attrs
            if _is_harmless(tag, name, value)
        )
        self.parts.append(f"<{tag}{kept}>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._is_in_script = False

    def handle_endtag(self, tag: str) -> None:
        self._is_in_script = False
        if tag not in _DROPPED:
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self._is_in_script:
            self.parts.append(data.replace("<", "&lt;"))

    def handle_entityref(self, name: str) -> None:
        self.parts.append(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.parts.append(f"&#{name};")


def _is_harmless(tag: str, name: str, value: str | None) -> bool:
    if name.startswith("on") or name == "srcdoc" or not re.fullmatch(r"[a-z][a-z0-9:_.-]*", name):
        return False
    schemes = _PICTURES if tag == "img" else LINKS
    return name not in _URLS or value is None or may_link(value, schemes)


@functools.lru_cache
def without_scripts(html: str) -> str:
    """Return HTML without what runs a script when it is shown or clicked."""
    parser = _Harmless()
    parser.feed(html)
    parser.close()
    return "".join(parser.parts)
