"""Pull requests: refs of a repository, without asking the API of the forge that makes them.

One whose commit is also the head of a branch of the repository is by somebody who may push there.
All others are from forks: they wait until an admin has them built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

# GitHub's, Gitea's and Forgejo's; GitLab's; Bitbucket Server's.
# Sources:
# https://docs.github.com/en/pull-requests/collaborating-with-pull-requests/reviewing-changes-in-pull-requests/checking-out-pull-requests-locally
# https://docs.gitlab.com/user/project/merge_requests/reviews/
# https://confluence.atlassian.com/bitbucketserverkb/understanding-bitbucket-server-pull-request-refs
LISTED = ("refs/pull/*/head", "refs/merge-requests/*/head", "refs/pull-requests/*/from")
REF = re.compile(
    r"refs/(?:pull/(\d{1,9})/head|merge-requests/(\d{1,9})/head|pull-requests/(\d{1,9})/from)"
)
# So many of those from forks that changed last may wait.
MOST_WAITING = 50


class Seen(NamedTuple):
    """What is known of the pull requests of a repository.

    `highest` is the highest number, `waiting` are those from forks that wait, and `own` those that
    were by somebody who may push; each with its commit, by ref.
    """

    highest: int
    waiting: dict[str, str]
    own: dict[str, str]


def number_of(ref: str) -> int | None:
    """Return the number of the pull request that a ref is of; None for other refs."""
    found = REF.fullmatch(ref)
    return None if found is None else int(next(filter(None, found.groups())))


def own(
    pulls: Mapping[str, str], heads: Mapping[str, str], before: Mapping[str, str]
) -> dict[str, str]:
    """Return the pull requests, by ref, whose commits are among the heads of branches.

    One that was so `before` stays so with the same commit: its branch may be gone, once it is
    merged, or ahead of it for a moment.
    """
    commits = set(heads.values())
    return {
        ref: commit
        for ref, commit in pulls.items()
        if commit in commits or before.get(ref) == commit
    }


def follow(
    before: Seen | None,
    last: Mapping[str, str] | None,
    forks: Mapping[str, str],
    mine: Mapping[str, str],
) -> Seen:
    """Return what is known after a look at a repository.

    `forks` and `mine` are the pull requests that there are, `last` those from forks of the last
    look, if it is remembered, and `before` is what was returned then.  A forge keeps the refs of
    those that are closed, so at the first look of all none waits.
    """
    highest = max((number_of(ref) or 0 for ref in (*forks, *mine)), default=0)
    if before is None:
        return Seen(highest, {}, dict(mine))
    new = {
        ref: commit
        for ref, commit in forks.items()
        if (number_of(ref) or 0) > before.highest or (last is not None and last.get(ref) != commit)
    }
    older = {r: c for r, c in before.waiting.items() if r in forks and r not in new}
    newest = list({**older, **new}.items())[-MOST_WAITING:]
    return Seen(max(highest, before.highest), dict(newest), dict(mine))
