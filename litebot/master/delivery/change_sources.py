"""Change sources that take each commit, pull request and mail once, whenever the master dies.

Buildbot's store a change first and then, on their own, that they have seen it, or the other way
round.  Each class here stands before one of Buildbot's, or before a class that a user has made of
it, and leaves what was seen to the transaction of the change.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from buildbot.changes.bitbucket import BitbucketPullrequestPoller
from buildbot.changes.github import GitHubPullrequestPoller
from buildbot.changes.gitpoller import GitPoller
from buildbot.changes.hgpoller import HgPoller
from buildbot.changes.mail import MaildirSource
from buildbot.util.maildir import MaildirService
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer

from litebot.master.delivery.change_origins import BranchProgress
from litebot.master.delivery.change_origins import IdempotencyKey
from litebot.master.delivery.change_origins import SeenState
from litebot.master.delivery.change_origins import change_origin

LAST_REV = "lastRev"


class KeepsPlace:
    """Goes on from the revisions that it knows when it is configured anew.

    Buildbot's pollers forget them then, in the middle of a poll too, and pass over commits.
    """

    @property
    def lastRev(self) -> Any:
        """The last revision of each branch; None or nothing where none is known."""
        return vars(self).get(LAST_REV)

    @lastRev.setter
    def lastRev(self, revisions: dict[str, str] | None) -> None:
        if revisions or not vars(self).get(LAST_REV):
            vars(self)[LAST_REV] = revisions

    def activate(self) -> Any:
        """As Buildbot's; another master may have come further meanwhile."""
        vars(self).pop(LAST_REV, None)
        return super().activate()  # type: ignore[misc]


class ExactGitPoller(KeepsPlace, GitPoller):
    """Knows of each branch the last commit that is stored, also after an error in a poll."""

    _branches: tuple[str, ...] = ()  # of this poll
    _done: frozenset[str] = frozenset()  # those of them that are dealt with

    def _get_refs(self, *args: Any) -> defer.Deferred[tuple[list[str], bool]]:
        def remember(found: tuple[list[str], bool]) -> tuple[list[str], bool]:
            refs, trims = found
            trimmed = (self._trim_prefix(ref, "refs/heads/") if trims else ref for ref in refs)
            self._branches, self._done = tuple(trimmed), frozenset()
            return found

        return super()._get_refs(*args).addCallback(remember)

    @async_to_deferred
    async def _process_changes(self, newRev: str, branch: str) -> None:
        before = (self.lastRev or {}).get(branch)
        objectid = await self.master.db.state.getObjectId(self.name, type(self).__name__)
        progress = BranchProgress(objectid, LAST_REV, branch)
        change_origin.set(progress)
        try:
            await super()._process_changes(newRev, branch)
        except Exception:
            # Buildbot's has noted the new head already, and would go on from there.
            _put(self.lastRev, branch, progress.reached or before)
            raise
        self._done |= {branch}

    @async_to_deferred
    async def setState(self, key: str, value: Any) -> None:
        """As Buildbot's; a branch that was not dealt with stays where it was."""
        if key == LAST_REV:
            reached = await self.getState(LAST_REV, {})
            revs, value = value, {}
            for branch in self._branches:
                _put(value, branch, (revs if branch in self._done else reached).get(branch))
            if not value:
                return
            self.lastRev = value
        await super().setState(key, value)


def _put(revisions: dict[str, str] | None, branch: str, revision: str | None) -> None:
    if revisions is None:
        return
    if revision is None:
        revisions.pop(branch, None)
    else:
        revisions[branch] = revision


class ExactHgPoller(KeepsPlace, HgPoller):
    """Notes a head when all commits before it are stored, and knows which of them are.

    Buildbot's notes the head with the first of them.
    """

    @async_to_deferred
    async def _processBranchChanges(self, new_rev: str, branch: str) -> None:
        last = self._getCurrentRev(branch)
        if last in {None, new_rev}:
            await super()._processBranchChanges(new_rev, branch)
            return
        change_origin.set(IdempotencyKey("hg", self.name or "", branch, last or ""))
        await super()._processBranchChanges(new_rev, branch)
        change_origin.set(None)
        await self._setCurrentRev(new_rev, branch)

    def _setCurrentRev(self, rev: str, branch: str = "default") -> defer.Deferred[Any]:
        if change_origin.get() is not None:
            return defer.succeed(None)  # there may be more to store before it
        return super()._setCurrentRev(rev, branch)


class ExactPullRequestPoller:
    """Notes with its change that it has seen a pull request, where Buildbot's does so before."""

    _getStateObjectId: Callable[[], defer.Deferred[int]]

    def _setCurrentRev(self, number: int, rev: str) -> defer.Deferred[None]:
        # In the context of the caller, who goes on to add the change.
        noted = SeenState(f"pull_request{number}", rev)
        change_origin.set(noted)
        return self._getStateObjectId().addCallback(noted.belongs_to)


class ExactMaildirSource(MaildirSource):
    """Moves a mail when its change is stored."""

    @async_to_deferred
    async def messageReceived(self, filename: str) -> None:
        # The name of a mail is its own, in whichever folder.  Source: maildir(5)
        change_origin.set(IdempotencyKey("maildir", str(self.basedir), filename))
        await super().messageReceived(filename)
        MaildirService.moveToCurDir(self, filename).close()

    def moveToCurDir(self, filename: str) -> Any:
        """Open the mail; it is moved later."""
        return open(os.path.join(self.newdir, filename), encoding="utf-8")


EXACT: tuple[tuple[type, type], ...] = (
    (GitPoller, ExactGitPoller),
    (HgPoller, ExactHgPoller),
    (GitHubPullrequestPoller, ExactPullRequestPoller),
    (BitbucketPullrequestPoller, ExactPullRequestPoller),
    (MaildirSource, ExactMaildirSource),
)


def exact_class(kind: type) -> type | None:
    """Which of the classes above goes before a class of change sources, if any."""
    return next((ours for buildbots, ours in EXACT if issubclass(kind, buildbots)), None)
