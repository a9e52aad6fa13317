"""Looks for new commits of a project, at its own times and less often while that fails."""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from typing import cast

from buildbot.changes.gitpoller import GitError
from buildbot.changes.gitpoller import GitPoller
from buildbot.util.poll import Poller
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer
from twisted.internet import threads

from litebot.errors import LitebotError
from litebot.master.delivery.place import LAST_REV
from litebot.master.delivery.source_problems import POLL
from litebot.master.projects.building import pulls
from litebot.master.projects.building.look import Look
from litebot.master.projects.building.refs import Refs
from litebot.master.projects.building.unchanged import Unchanged
from litebot.master.projects.logins.advice import in_short
from litebot.master.projects.logins.git import UNATTENDED
from litebot.master.projects.logins.git import Login
from litebot.master.projects.logins.host_keys import changed
from litebot.master.projects.logins.ssh import StrictSsh
from litebot.projects.addresses import is_ssh

# While a server fails, each wait is twice as long as the one before, up to this.
LONGEST_WAIT_S = 3600
# The state with the pull requests from forks.
PULLS = "pull requests"
# The state with the branches, tags and pull requests that the last look was for.
PATTERNS = "patterns"


class ProjectPoller(Unchanged, StrictSsh, GitPoller):
    """A GitPoller of one project, which asks for its refs alone and fetches only what is new.

    The first look at a repository is at once, as is one after a change that may mend it.  After a
    start of the master the looks of all projects are spread over their intervals.
    """

    git_environment = UNATTENDED
    git_silence_s = 60

    _timer: Poller | None = None
    # What git printed, and for which settings, at the last poll after which nothing was left to do;
    # and the same of the present poll.
    _done: tuple[str, Refs] | None = None
    _reached: tuple[str, Refs] | None = None
    _listed: Mapping[str, str] = MappingProxyType({})  # the revisions of refs in it
    _forks: Mapping[str, str] | None = None  # of the last look
    _is_known = False
    _has_looked = False  # since it is active
    failures = 0  # polls in a row that failed

    @property
    def doPoll(self) -> Poller:
        """What polls at each interval."""
        if self._timer is None:
            self._timer = SpacedPoller(
                lambda _: defer.maybeDeferred(self.poll), self, self.master.steady_clock
            )
        return self._timer

    @async_to_deferred
    async def reconfigService(self, *args: Any, **kwargs: Any) -> None:
        """Take new settings, and look by them at once."""
        await defer.maybeDeferred(super().reconfigService, *args, **kwargs)
        if self.active:
            self.force()

    @async_to_deferred
    async def activate(self) -> None:
        """Start to poll; a repository that is new, at once."""
        self._done = None
        self._is_known = bool(await self.getState(LAST_REV, {}))
        self._has_looked = False
        await defer.maybeDeferred(super().activate)
        if self._is_known:
            await self.master.projects.build_first(self.project)

    @async_to_deferred
    async def poll(self) -> None:
        """Poll, and count the failures."""
        self._reached = self._done
        await super().poll()
        problems = self.master.source_problems.of(self.name or "")
        self._done = None if problems or self.poll_should_exit() else self._reached
        self.failures = self.failures + 1 if any(p.what == POLL for p in problems) else 0
        if not self._has_looked and not self.poll_should_exit():
            await self.master.projects.build_first(self.project)
            self._has_looked = True

    def wait_s(self, interval_s: float, *, is_first: bool) -> float:
        """Return how long to wait for the next poll."""
        if is_first:
            # Where the last poll failed, a change of the project may have mended it.
            is_at_once = self.failures or not self._is_known
            return 0 if is_at_once else interval_s * random.random()  # noqa: S311
        return min(interval_s * 2**self.failures, max(interval_s, LONGEST_WAIT_S))

    @async_to_deferred
    async def _get_refs(self, git_auth_files_path: str) -> tuple[list[str], bool]:
        """Return the refs of the project, or none if they are where the last poll found them."""
        wanted = cast(Refs, self.branches)
        arguments = ["--refs", self.repourl, *wanted.listed]
        try:
            printed = await self._dovccmd(
                "ls-remote", arguments, auth_files_path=git_auth_files_path
            )
        except GitError as error:
            if (refused := await self._login_refused(error)) is not None:
                raise refused from error
            raise
        found = (printed, wanted)
        if found == self._done:
            return [], False
        self._done = None
        before = await self.pulls()
        look = await threads.deferToThread(Look.of, printed, wanted, before)
        if look.problem is not None:
            self.leave_undone(f"find branch {wanted.branches[0]}", LitebotError(look.problem))
        if wanted.pulls:
            now = pulls.follow(before, self._forks, look.forks, look.mine)
            self._forks = look.forks
            if now != before:
                await self.setState(PULLS, now)
        await self._begin_new_patterns(wanted, look.refs)
        self._listed, self._reached = look.refs, found
        return list(look.refs), False

    async def _begin_new_patterns(self, wanted: Refs, refs: Mapping[str, str]) -> None:
        """Have refs that only new settings admit begin where they are: what they have is old."""
        kept = await self.getState(PATTERNS, [])
        if kept == (now := [list(wanted.branches), list(wanted.tags), wanted.pulls]):
            return
        if kept:
            branches, tags, has_pulls = kept
            known = Refs(tuple(branches), tuple(tags), bool(has_pulls))
            reached = await self.getState(LAST_REV, {})
            new = {ref: revision for ref, revision in refs.items() if not known(ref)}
            if reached and new:
                self.lastRev = {**new, **reached}
                await self.setState(LAST_REV, self.lastRev)
        await self.setState(PATTERNS, now)

    @async_to_deferred
    async def _process_changes(self, newRev: str, branch: str) -> None:
        """Add new commits; a pull request that moved since it was looked at waits for a look."""
        if pulls.number_of(branch) is not None and self._listed.get(branch) != newRev:
            raise LitebotError("it has moved meanwhile, and is looked at again")
        await super()._process_changes(newRev, branch)

    @async_to_deferred
    async def pulls(self) -> pulls.Seen | None:
        """Return what is known of pull requests, None before the first look at them."""
        kept = await self.getState(PULLS, [])
        return pulls.Seen(*kept) if kept else None

    @async_to_deferred
    async def let_through(self, ref: str) -> None:
        """Have a pull request from a fork wait no longer."""
        if (kept := await self.pulls()) is not None:
            others = {each: commit for each, commit in kept.waiting.items() if each != ref}
            await self.setState(PULLS, kept._replace(waiting=others))

    async def _login_refused(self, error: GitError) -> LitebotError | None:
        """Return an error that says how the login may be mended, if there is one."""
        version = self.master.projects.find(self.project)
        if version is None or version.project is None:
            return None
        project, files = version.project, self.master.files
        if is_ssh(project.url) and project.host_key:
            remedy = f"litebot project key --trust {project.name} {files.quoted}"
            expected = (project.url, project.host_key)
            other = await changed(self.master.reactor, files, *expected, remedy)
            if other is not None:
                return LitebotError(f"{other.what}; {other.hint}")
        look_at = in_short(project.url, Login.of(project), project.name)
        return None if look_at is None else LitebotError(f"{error}; if the login fails: {look_at}")


class SpacedPoller(Poller):
    """Buildbot's, with the waits that its ProjectPoller says; a stop ends the poll that runs."""

    instance: ProjectPoller

    def stop(self) -> Any:
        stopped = super().stop()
        self.instance.interrupt_git()
        return stopped

    def _get_wait_time(
        self, curr_time: Any, force_now: bool = False, force_initial_now: bool = False
    ) -> float:
        if force_now:
            return 0
        return self.instance.wait_s(self._interval, is_first=force_initial_now)
