"""What a look at the refs of a repository finds, read from what git prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from litebot.master.projects.building import pulls
from litebot.master.projects.building.refs import HEADS
from litebot.master.projects.building.refs import Refs

MOST_NAMED = 10  # of the branches that there are


@dataclass(frozen=True)
class Look:
    """The refs that a project builds; each with its revision, by name.

    `mine` are the pull requests among them, `forks` those from forks, which are not.  `problem`
    says, in words, that the project's branch is not there.
    """

    refs: Mapping[str, str]
    mine: Mapping[str, str]
    forks: Mapping[str, str]
    problem: str | None

    @classmethod
    def of(cls, printed: str, wanted: Refs, seen: pulls.Seen | None) -> Look:
        """Read what `git ls-remote` has printed; a repository may have very many refs."""
        rows = [row.split("\t") for row in printed.splitlines() if "\t" in row]
        refs = {ref: revision for revision, ref in rows if wanted(ref)}
        found = {ref: rev for ref, rev in refs.items() if pulls.number_of(ref) is not None}
        heads = {ref: revision for revision, ref in rows if ref.startswith(HEADS)}
        # The branches that are built themselves are no reason to build a pull request, too.
        others = {ref: revision for ref, revision in heads.items() if not wanted(ref)}
        mine = pulls.own(found, others, seen.own if seen is not None else {})
        forks = {ref: revision for ref, revision in found.items() if ref not in mine}
        built = {ref: revision for ref, revision in refs.items() if ref not in forks}
        return cls(built, mine, forks, _problem(wanted.branches[0], heads))


def _problem(branch: str, heads: Mapping[str, str]) -> str | None:
    if f"{HEADS}{branch}" in heads:
        return None
    if not heads:
        return "there are no branches yet"
    names = [head.removeprefix(HEADS) for head in heads]
    more = ", ..." if len(names) > MOST_NAMED else ""
    return f"there is no such branch; there are: {', '.join(names[:MOST_NAMED])}{more}"
