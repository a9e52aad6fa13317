"""Which handlers belong to a path: patterns such as "projects/<name>/edit"."""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from dataclasses import dataclass

from litebot.master.pages.answers import Page
from litebot.master.pages.answers import Redirect
from litebot.master.pages.request import PageRequest

Handler = Callable[[PageRequest], Awaitable[Page | Redirect]]


@dataclass(frozen=True)
class Route:
    """A pattern, and who answers a GET or a POST at its paths; None for a method that is not."""

    parts: tuple[str, ...]
    get: Handler | None
    post: Handler | None

    def match(self, parts: list[str]) -> dict[str, str] | None:
        """Return what stands at the <names> of the pattern, or None if the path is another."""
        if len(parts) != len(self.parts):
            return None
        names = {}
        for pattern, part in zip(self.parts, parts, strict=True):
            if pattern.startswith("<"):
                names[pattern[1:-1]] = part
            elif pattern != part:
                return None
        return names

    @property
    def methods(self) -> str:
        """The methods that it has, as in the header Allow."""
        return ", ".join([*(["GET", "HEAD"] if self.get else []), *(["POST"] if self.post else [])])


class Routes:
    """All patterns; where several match a path, the one that was added first counts."""

    def __init__(self) -> None:
        self._routes: list[Route] = []

    def add(self, pattern: str, get: Handler | None, post: Handler | None) -> None:
        """Add a pattern, with parts between "/"; one in < > stands for any text."""
        parts = tuple(part for part in pattern.split("/") if part)
        self._routes.append(Route(parts, get, post))

    def find(self, parts: list[str]) -> tuple[Route, dict[str, str]] | None:
        """Return the route of a path, and what stands at its <names>."""
        for route in self._routes:
            names = route.match(parts)
            if names is not None:
                return route, names
        return None
