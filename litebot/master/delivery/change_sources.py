"""Change sources that add each commit, pull request and mail once, even if the master dies.

Buildbot's change sources store a change and the state that they have seen it in two transactions,
in either order.  Each class here is put before one of Buildbot's, or before a user's subclass of
it, and records what was seen in the transaction of the change.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from buildbot.changes.base import ReconfigurablePollingChangeSource
from buildbot.changes.bitbucket import BitbucketPullrequestPoller
from buildbot.changes.gerritchangesource import GerritChangeSource
from buildbot.changes.gerritchangesource import GerritEventLogPoller
from buildbot.changes.github import GitHubPullrequestPoller
from buildbot.changes.gitpoller import GitPoller
from buildbot.changes.hgpoller import HgPoller
from buildbot.changes.mail import MaildirSource
from buildbot.changes.svnpoller import SVNPoller
from buildbot.util import runprocess
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer
from twisted.python import log

from litebot.master.delivery.change_origins import IdempotencyKey
from litebot.master.delivery.change_origins import SeenState
from litebot.master.delivery.change_origins import change_origin
from litebot.master.delivery.gerrit import ExactGerritEventLogPoller
from litebot.master.delivery.gerrit import WatchedGerritStream
from litebot.master.delivery.git_poller import ExactGitPoller
from litebot.master.delivery.place import KeepsPlace
from litebot.master.delivery.source_problems import WatchedSource
from litebot.master.runtime.error_log import store_failed
from litebot.master.runtime.subclasses import put_before
from litebot.master.runtime.subclasses import put_behind


class HgFailed(Exception):
    """A command of hg that failed, with what it said."""


class ExactHgPoller(KeepsPlace, WatchedSource, HgPoller):
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

    @async_to_deferred
    async def _processChanges(self) -> None:
        """Add the new commits of each branch; one that can't be read holds up its branch alone."""
        for branch in (*self.branches, *self.bookmarks):
            try:
                head = await self._getHead(branch)
                if head is not None:
                    await self._processBranchChanges(head, branch)
            except Exception as error:
                if store_failed(error) is not None:
                    raise
                self.leave_undone(f"poll branch {branch}", error)
            finally:
                change_origin.set(None)

    @async_to_deferred
    async def _getChanges(self) -> None:
        """Pull; Buildbot's poller does not look whether that failed."""
        await self._initRepository()
        log.msg(f"{self}: polling hg repo at {self.repourl}")
        names = [("-b", name) for name in self.branches]
        names += [("-B", name) for name in self.bookmarks]
        try:
            await self._hg("pull", *(word for name in names for word in name), self.repourl)
        except HgFailed:
            if len(names) == 1:
                raise
            failed = {}
            for option, name in names:
                try:
                    await self._hg("pull", option, name, self.repourl)
                except HgFailed as error:
                    failed[name] = error
            if len(failed) == len(names):
                raise
            for name, why in failed.items():
                self.leave_undone(f"pull {name}", why)

    @async_to_deferred
    async def _getRevDetails(self, rev: str) -> tuple[float | None, str, list[str], str]:
        """Return the date, author, files and description of a commit, whatever bytes are in it."""
        template = r"{date|hgdate}\0{author}\0{desc|strip}\0{files % '{file}\0'}"
        printed = await self._hg("log", "-r", rev, f"--template={template}")
        read = printed.decode(self.encoding, "replace")
        date, author, description, files = read.split("\0", 3)
        when = float(date.split()[0]) if self.usetimestamps else None
        return (
            when,
            author.strip(),
            [name for name in files.split("\0") if name],
            description.strip(),
        )

    @async_to_deferred
    async def _hg(self, *words: str) -> bytes:
        """Run hg in the folder and return what it prints, in `encoding`.  Raises HgFailed."""
        code, printed, said = await runprocess.run_process(
            self.master.reactor,
            [self.hgbin, *words],
            workdir=self._absWorkdir(),
            env={**os.environ, "HGENCODING": self.encoding, "HGPLAIN": "1"},
        )
        if code != 0:
            text = said.decode("utf-8", "replace").strip()
            raise HgFailed(f"hg {words[0]} on {self.repourl} failed with exit code {code}: {text}")
        return bytes(printed)

    def _setCurrentRev(self, rev: str, branch: str = "default") -> defer.Deferred[Any]:
        if change_origin.get() is not None:
            return defer.succeed(None)  # more commits up to this head may have to be stored
        return super()._setCurrentRev(rev, branch)


class ExactPullRequestPoller(WatchedSource):
    """Records together with its change that a pull request was seen; Buildbot's does so before."""

    _getStateObjectId: Callable[[], defer.Deferred[int]]

    async def _try(self, pull: Any, number: str, process: Callable[[Any], Any], arg: Any) -> None:
        """Process one pull request; one that can't be is noted, and tried again at each poll."""
        try:
            await process(arg)
        except Exception as error:
            if store_failed(error) is not None:
                raise
            known = pull.get(number) if isinstance(pull, dict) else None
            self.leave_undone(f"read pull request {known}", error)
        finally:
            change_origin.set(None)

    def _setCurrentRev(self, number: int, rev: str) -> defer.Deferred[None]:
        # This sets the origin in the context of the caller, which adds the change next.
        noted = SeenState(f"pull_request{number}", rev)
        change_origin.set(noted)
        return self._getStateObjectId().addCallback(noted.belongs_to)


class ExactGitHubPoller(ExactPullRequestPoller):
    """Adds each pull request, whatever becomes of the others."""

    @async_to_deferred
    async def _processChanges(self, github_result: list[Any]) -> None:
        process = super()._processChanges  # type: ignore[misc]
        for pull in github_result:
            await self._try(pull, "number", process, [pull])


class ExactBitbucketPoller(ExactPullRequestPoller):
    """Adds each pull request, whatever becomes of the others."""

    @async_to_deferred
    async def _processChanges(self, result: dict[str, Any]) -> None:
        process = super()._processChanges  # type: ignore[misc]
        for pull in result["values"]:
            await self._try(pull, "id", process, {"values": [pull]})


class ExactSVNPoller(WatchedSource, SVNPoller):
    """Adds each commit, whatever becomes of the others.

    Buildbot's notes the last one of a poll before it adds the first, and loses what is between them
    if one fails.
    """

    _unsent: tuple[dict[str, Any], ...] = ()

    def create_changes(self, new_logentries: list[Any]) -> list[dict[str, Any]]:
        """Return the changes of commits, without those that can't be understood."""
        changes = []
        for entry in new_logentries:
            try:
                changes += super().create_changes([entry])
            except Exception as error:
                self.leave_undone(f"read revision {entry.getAttribute('revision')}", error)
        return changes

    @async_to_deferred
    async def submit_changes(self, changes: list[dict[str, Any]]) -> None:
        """Add changes; one that can't be added is tried again at the next poll."""
        waiting, self._unsent = [*self._unsent, *changes], ()
        for change in waiting:
            try:
                await super().submit_changes([change])
            except Exception as error:
                if store_failed(error) is not None:
                    raise
                self.leave_undone(f"add revision {change['revision']}", error)
                self._unsent = (*self._unsent, change)


class ExactMaildirSource(MaildirSource):
    """Moves a mail only after its change is stored."""

    @defer.inlineCallbacks
    def startService(self) -> Any:
        """Do as Buildbot does, and look for mails at intervals by the steady clock."""
        yield super().startService()
        timer = self.timerService
        if timer is not None:
            yield timer.stopService()
            timer.clock = self.master.steady_clock
            timer.startService()

    @async_to_deferred
    async def messageReceived(self, filename: str) -> None:
        # The name of a mail is unique, whichever folder it is in.  Source: maildir(5)
        change_origin.set(IdempotencyKey("maildir", str(self.basedir), filename))
        problems, what = self.master.source_problems, f"read the mail {filename}"
        try:
            await super().messageReceived(filename)
        except Exception as error:
            problems.note(self.name, what, error)
            raise
        problems.note(self.name, what, None)
        os.rename(os.path.join(self.newdir, filename), os.path.join(self.curdir, filename))

    def moveToCurDir(self, filename: str) -> Any:
        """Open the mail without moving it; messageReceived moves it later.

        One that is not UTF-8 is decoded by the charset that it names.  Raises UnicodeDecodeError if
        it names none.  Source: email.message, get_payload
        """
        raw = Path(self.newdir, filename).read_bytes()
        try:
            return io.StringIO(raw.decode())
        except UnicodeDecodeError:
            if b"charset=" not in raw.lower():
                raise
            return io.StringIO(raw.decode("ascii", "surrogateescape"))

    @async_to_deferred
    async def stopService(self) -> None:
        """Do as Buildbot does, and forget what it could not do."""
        await defer.maybeDeferred(super().stopService)
        self.master.source_problems.forget(self.name or "")


EXACT: tuple[tuple[type, type], ...] = (
    (GitPoller, ExactGitPoller),
    (HgPoller, ExactHgPoller),
    (GitHubPullrequestPoller, ExactGitHubPoller),
    (BitbucketPullrequestPoller, ExactBitbucketPoller),
    (SVNPoller, ExactSVNPoller),
    (MaildirSource, ExactMaildirSource),
    (GerritEventLogPoller, ExactGerritEventLogPoller),
    (GerritChangeSource, WatchedGerritStream),
    (ReconfigurablePollingChangeSource, WatchedSource),
)


# Of these a user's own methods come first: litebot's, which they call, call none of Buildbot's.
REPLACED = (GitPoller, HgPoller)


def make_exact(source: Any) -> None:
    """Give a change source the class of EXACT for its kind, if there is one."""
    kind = type(source)
    ours = next((ours for buildbots, ours in EXACT if issubclass(kind, buildbots)), None)
    if ours is None:
        return
    is_own = issubclass(kind, REPLACED) and kind not in REPLACED
    (put_behind if is_own else put_before)(source, ours)
