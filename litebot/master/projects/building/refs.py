"""Which branches and tags of a repository a project builds."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from litebot.master.projects.building.pulls import LISTED
from litebot.master.projects.building.pulls import number_of
from litebot.projects.definition import Project
from litebot.projects.patterns import Patterns

HEADS, TAGS = "refs/heads/", "refs/tags/"
# A reader of patterns is kept for as many projects.
KEPT = 1000


@functools.lru_cache(KEPT)
def _compiled(patterns: tuple[str, ...]) -> Patterns:
    return Patterns(patterns)


@dataclass(frozen=True)
class Refs:
    """A predicate of refs, as the `branches` of a GitPoller and the `branch_fn` of a filter.

    Equal patterns make equal predicates, so that a reconfig sees no change where there is none.
    """

    branches: tuple[str, ...]
    tags: tuple[str, ...]
    pulls: bool = False

    @classmethod
    def of(cls, project: Project) -> Refs:
        """Return what a project builds."""
        return cls((project.branch, *project.branches), project.tags, project.pull_requests)

    def __call__(self, ref: str | None) -> bool:
        """Return whether a ref is built; a branch may be given without refs/heads/."""
        if not ref:
            return False
        if ref.startswith(TAGS):
            return bool(self.tags) and ref.removeprefix(TAGS) in _compiled(self.tags)
        if ref.startswith("refs/") and not ref.startswith(HEADS):
            return self.pulls and number_of(ref) is not None
        return ref.removeprefix(HEADS) in _compiled(self.branches)

    @property
    def listed(self) -> list[str]:
        """The patterns for `git ls-remote`, which then lists no others."""
        tags, pulls = [f"{TAGS}*"] if self.tags else [], LISTED if self.pulls else ()
        return [f"{HEADS}*", *tags, *pulls]
