"""Change sources that add each commit, pull request and mail once, even if the master dies.

Buildbot's change sources store a change and the state that they have seen it in two transactions,
in either order.  Each class here is put before one of Buildbot's, or before a user's subclass of
it, and records what was seen in the transaction of the change.
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
    """Keeps the revisions that a poller knows when it is reconfigured.

    Buildbot's pollers forget them then, even in the middle of a poll, and skip commits.
    """

    @property
    def lastRev(self) -> Any:
        """Return the last revision of each branch; None or empty if none is known."""
        return vars(self).get(LAST_REV)

    @lastRev.setter
    def lastRev(self, revisions: dict[str, str] | None) -> None:
        if revisions or not vars(self).get(LAST_REV):
            vars(self)[LAST_REV] = revisions

    def activate(self) -> Any:
        """Do as Buildbot does, but forget the revisions: another master may have got further."""
        vars(self).pop(LAST_REV, None)
        return super().activate()  # type: ignore[misc]


class ExactGitPoller(KeepsPlace, GitPoller):
    """Records the last stored commit of each branch, even after an error in a poll."""

    _branches: tuple[str, ...] = ()  # of this poll
    _done: frozenset[str] = frozenset()  # the branches whose commits are all stored

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
            # Buildbot's method has set the new head already, and would skip the commits before it.
            _put(self.lastRev, branch, progress.reached or before)
            raise
        self._done |= {branch}

    @async_to_deferred
    async def setState(self, key: str, value: Any) -> None:
        """Do as Buildbot does, but keep the recorded revision of branches that are not done."""
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
    """Records a head when all commits up to it are stored, and adds none of them twice.

    Buildbot's poller records the head when it stores the first of them.
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
            return defer.succeed(None)  # more commits up to this head may have to be stored
        return super()._setCurrentRev(rev, branch)


class ExactPullRequestPoller:
    """Records together with its change that a pull request was seen; Buildbot's does so before."""

    _getStateObjectId: Callable[[], defer.Deferred[int]]

    def _setCurrentRev(self, number: int, rev: str) -> defer.Deferred[None]:
        # This sets the origin in the context of the caller, which adds the change next.
        noted = SeenState(f"pull_request{number}", rev)
        change_origin.set(noted)
        return self._getStateObjectId().addCallback(noted.belongs_to)


class ExactMaildirSource(MaildirSource):
    """Moves a mail only after its change is stored."""

    @async_to_deferred
    async def messageReceived(self, filename: str) -> None:
        # The name of a mail is unique, whichever folder it is in.  Source: maildir(5)
        change_origin.set(IdempotencyKey("maildir", str(self.basedir), filename))
        await super().messageReceived(filename)
        MaildirService.moveToCurDir(self, filename).close()

    def moveToCurDir(self, filename: str) -> Any:
        """Open the mail without moving it; messageReceived moves it later."""
        return open(os.path.join(self.newdir, filename), encoding="utf-8")


EXACT: tuple[tuple[type, type], ...] = (
    (GitPoller, ExactGitPoller),
    (HgPoller, ExactHgPoller),
    (GitHubPullrequestPoller, ExactPullRequestPoller),
    (BitbucketPullrequestPoller, ExactPullRequestPoller),
    (MaildirSource, ExactMaildirSource),
)


def exact_class(kind: type) -> type | None:
    """Return the class of EXACT to put before a class of change sources, or None."""
    return next((ours for buildbots, ours in EXACT if issubclass(kind, buildbots)), None)
