"""A request for a page, as its handler sees it."""

from __future__ import annotations

from functools import cached_property
from typing import Any
from urllib.parse import quote

from litebot.master.pages import form_token
from litebot.master.pages.answers import path_of

# What the script sends to get a page without its frame, to show it within Buildbot's page.
FRAGMENT = ("X-Requested-With", "litebot")
# Where Buildbot's page, which has its own addresses after a #, shows such fragments.
ROUTE = "#/pages/"


def name_of(user_info: dict[str, Any]) -> str | None:
    """Return the name of a user as pages show it and as histories keep it; None for anonymous."""
    if user_info.get("anonymous"):
        return None
    names = (user_info.get(key) for key in ("username", "email", "full_name"))
    return next((str(name) for name in names if name), None)


class PageRequest:
    """What a handler may know of the request that it answers.

    `parts` are the parts of its path under /litebot/, `names` what stands at the <names> of the
    pattern.  `is_admin` says whether its user may change something: see `access`.
    """

    def __init__(self, master: Any, request: Any, parts: list[str]) -> None:
        self.master = master
        self.http = request
        self.parts = parts
        self.names: dict[str, str] = {}
        self.is_post = request.method == b"POST"
        self.is_fragment = request.getHeader(FRAGMENT[0]) == FRAGMENT[1]
        self.is_admin = False

    @property
    def user_info(self) -> dict[str, Any]:
        found: dict[str, Any] = self.master.www.getUserInfos(self.http)
        return found

    @property
    def user(self) -> str | None:
        """The name of the user, or None for an anonymous visitor."""
        return name_of(self.user_info)

    # the values of the form, or of the query

    def value(self, name: str, default: str = "") -> str:
        """Return the last value of a field, or the default; lines end with \\n."""
        found = self.values(name)
        return found[-1] if found else default

    def values(self, name: str) -> list[str]:
        """Return all values of a field, such as of checkboxes."""
        found = (self.http.args or {}).get(name.encode(), [])
        return [each.decode("utf-8", "replace").replace("\r\n", "\n") for each in found]

    def has(self, name: str) -> bool:
        """Return whether there is a field, such as a box that is checked or a button."""
        return name.encode() in (self.http.args or {})

    # addresses, which are relative: a proxy may serve the master at any path and under any name

    @cached_property
    def root(self) -> str:
        """The relative address of the root of the master's web port."""
        if self.is_fragment:
            return ""  # it is shown in Buildbot's page, which is there
        return "../" * (self.http.path.count(b"/") - 1)

    def link(self, *parts: str, **query: str) -> str:
        """Return the address of a page under /litebot/."""
        path = path_of(*parts, **query)
        return ROUTE + path if self.is_fragment else f"{self.root}litebot/{path}"

    def buildbot(self, path: str) -> str:
        """Return the address of something on Buildbot's page, such as "builders/1"."""
        return f"{self.root}#/{path}"

    def action(self, *parts: str) -> str:
        """Return the address that a form is sent to."""
        return f"{self.root}litebot/{path_of(*parts)}"

    def leading_back(self, path: str, parts: list[str]) -> str:
        """Return the address of "auth/login" or "auth/logout" that leads back to a page."""
        route = ROUTE.removeprefix("#") if self.is_fragment else "/litebot/"
        return f"{self.root}{path}?redirect={quote(route + path_of(*parts))}"

    @cached_property
    def token(self) -> str:
        """What a form of this user has to send: see `form_token`."""
        return form_token.token_of(self.http, self.master, self.user or "")
