"""A GitPoller that what it can't read, fetch or store does not keep from the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from typing import cast

from buildbot.changes.gitpoller import GitError
from buildbot.changes.gitpoller import GitPoller
from buildbot.db.model import Model
from buildbot.util import bytes2unicode
from buildbot.util import private_tempdir
from buildbot.util import runprocess
from buildbot.util import unicode2bytes
from buildbot.util.twisted import async_to_deferred
from twisted.python import log

from litebot.master.db.components.values import fit_epoch
from litebot.master.db.components.values import fit_text
from litebot.master.delivery import git_commits
from litebot.master.delivery.change_origins import BranchProgress
from litebot.master.delivery.change_origins import UnreadCommit
from litebot.master.delivery.change_origins import change_origin
from litebot.master.delivery.git_commits import Commit
from litebot.master.delivery.place import LAST_REV
from litebot.master.delivery.place import KeepsPlace
from litebot.master.delivery.source_problems import WatchedSource
from litebot.master.runtime.error_log import store_failed

# The state with the commits that could not be read or stored, by branch.
UNREAD = "unread"
# A poll gives up after so many commits in a row that still can't be read.
MOST_ATTEMPTS = 10
LINES_SHOWN = 6
HEADS = "refs/heads/"
# What a repository of git has once it is made.
REPOSITORY = ("HEAD", "config", "objects", "refs")
# The state with the branches that could not be fetched at the first poll, whose history is old.
UNSEEN = "unseen"


class GitFailed(GitError):
    """A command of git that failed, with what it said."""

    def __init__(self, command: str, repository: str, code: int, said: str) -> None:
        # There may be much more, such as the progress of a fetch, and advice.
        lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
        reasons = [line for line in lines if line.startswith(("error: ", "fatal: "))]
        if command == "ls-remote" and reasons:
            # It shows no progress, and ssh and servers say before it what they refuse.
            reasons = lines[: lines.index(reasons[-1]) + 1]
        words = " ".join((reasons or lines)[-LINES_SHOWN:]) or "it said nothing"
        super().__init__(f"git {command} on {repository} failed with exit code {code}: {words}")
        self.was_killed = code < 0


class ExactGitPoller(KeepsPlace, WatchedSource, GitPoller):
    """Records the last stored commit of each branch, even after an error in a poll.

    A branch that can't be fetched, or a commit that can't be read, is noted, and tried again at
    each poll.  The others go on meanwhile.
    """

    _last_read: tuple[str, Commit] | None = None
    _unread: Mapping[str, list[str]] = MappingProxyType({})
    git_environment: Mapping[str, str] = MappingProxyType({})
    git_silence_s = 300  # after that long without a word a git is killed
    _running: Any = None  # the git that runs

    def poll(self) -> Any:
        """Fetch, and add a change for each new commit; what can't be done is noted."""
        return self.watch(self._poll)

    @async_to_deferred
    async def _poll(self) -> None:
        await self._checkGitFeatures()
        async with self.master.source_turns.turn(self._folder):
            if self.poll_should_exit():
                return
            refs, trims = await self._fetch_refs()
        if not refs or self.poll_should_exit():
            return
        if self.lastRev is None:
            self.lastRev = await self.getState(LAST_REV, {})
        self._unread = await self.getState(UNREAD, {})
        was_unseen = set(await self.getState(UNSEEN, []))
        unseen, is_first = set(was_unseen), not self.lastRev
        log.msg(f'gitpoller: processing changes from "{self.repourl}"')
        done: dict[str, str] = {}
        branches = []
        for ref, is_fetched in refs.items():
            branch = self._trim_prefix(ref, HEADS) if trims else ref
            branches.append(branch)
            if not is_fetched or self.poll_should_exit():
                if is_first:
                    unseen.add(branch)
                continue
            try:
                tracker = self._tracker_ref(self.repourl, ref)
                revision = await self._dovccmd("rev-parse", [tracker], path=self._folder)
                if branch not in unseen:
                    await self._process_changes(revision, branch)
            except Exception as error:
                if store_failed(error) is not None:
                    raise
                self.leave_undone(f"poll branch {branch}", error)
            else:
                done[branch] = revision
        await self._record(branches, done)
        if (left := unseen.intersection(branches).difference(done)) != was_unseen:
            await self.setState(UNSEEN, sorted(left))

    async def _record(self, branches: list[str], done: dict[str, str]) -> None:
        """Record how far all branches are; one that is not done is where its last change was."""
        unread = {name: self._unread[name] for name in branches if self._unread.get(name)}
        await self._set_unread(unread)
        reached = await self.getState(LAST_REV, {})
        revisions = {name: done.get(name, reached.get(name)) for name in branches}
        known = {name: revision for name, revision in revisions.items() if revision is not None}
        if known:
            self.lastRev = known
            await self.setState(LAST_REV, known)

    # fetching

    @property
    def _folder(self) -> str:
        assert self.workdir is not None
        return self.workdir

    async def _fetch_refs(self) -> tuple[dict[str, bool], bool]:
        """Fetch all refs that are wanted; return whether each was, and whether names are cut."""
        async with self.master.source_turns.making(self._folder):
            if not all(os.path.exists(os.path.join(self._folder, part)) for part in REPOSITORY):
                await self._dovccmd("init", ["--bare", self._folder])
        tmp_dir: Any = contextlib.nullcontext()
        if self._git_auth.is_auth_needed:
            tmp_dir = private_tempdir.PrivateTemporaryDirectory(
                dir=self._folder, prefix=".buildbot-ssh"
            )
        with tmp_dir as auth:
            await self._git_auth.download_auth_files_if_needed(cast(str, auth))
            refs, trims = await self._get_refs(cast(str, auth))
            named = [ref for ref in refs if git_commits.is_storable(ref)]
            fetched: dict[str, Exception | None] = {}
            if named and not self.poll_should_exit():
                await self._prune(named)
                await self._fetch(named, auth, fetched)
        failed = {ref: error for ref, error in fetched.items() if error is not None}
        for ref in refs:
            if not git_commits.is_storable(ref):
                failed[ref] = UnicodeError("its name is not UTF-8: rename it")
        for ref, error in failed.items():
            self.leave_undone(f"fetch {ref}", error)
        return {ref: ref in fetched and ref not in failed for ref in refs}, trims

    async def _prune(self, refs: list[str]) -> None:
        """Delete what was fetched of refs that are gone: they may be where others are to be.

        A repository can't have both a branch `a` and a branch `a/b`.
        """
        trackers = {self._tracker_ref(self.repourl, ref) for ref in refs}
        folders = {folder for tracker in trackers for folder in _parents(tracker)}
        root = self._tracker_ref(self.repourl, "refs/")
        found = await self._dovccmd("for-each-ref", ["--format=%(refname)", root], self._folder)
        lists_all = self.branches is True
        gone = [
            known
            for known in found.splitlines()
            if known in folders
            or any(parent in trackers for parent in _parents(known))
            or (lists_all and known.startswith(f"{root}heads/") and known not in trackers)
        ]
        if gone:
            commands = "".join(f"delete {ref}\0\0" for ref in gone)
            await self._dovccmd(
                "update-ref", ["-z", "--stdin"], self._folder, initial_stdin=commands
            )

    async def _fetch(
        self, refs: list[str], auth: Any, fetched: dict[str, Exception | None]
    ) -> None:
        """Fetch refs; add each to `fetched`, with the error of one that can't be fetched.

        Raises the error if it seems to be the server's.
        """
        specs = [f"+{ref}:{self._tracker_ref(self.repourl, ref)}" for ref in refs]
        arguments = ["--progress", self.repourl, *specs, "--"]
        try:
            await self._dovccmd("fetch", arguments, path=self._folder, auth_files_path=auth)
        except GitFailed as error:
            fails_always = len(fetched) >= MOST_ATTEMPTS and None not in fetched.values()
            if error.was_killed or fails_always or self.poll_should_exit():
                raise
            if len(refs) == 1:
                fetched[refs[0]] = error
                return
            middle = len(refs) // 2
            await self._fetch(refs[:middle], auth, fetched)
            await self._fetch(refs[middle:], auth, fetched)
        else:
            fetched.update(dict.fromkeys(refs))

    # commits

    @async_to_deferred
    async def _process_changes(self, newRev: str, branch: str) -> None:
        if not self.lastRev:
            return  # at the first poll all history is old
        objectid = await self.master.db.state.getObjectId(self.name, type(self).__name__)
        tried = set(self._unread.get(branch, ()))
        await self._add_unread(objectid, newRev, branch)
        before = self.lastRev.get(branch)
        found = await self._new_revisions(newRev, branch)
        revisions = [revision for revision in found if revision not in tried]
        self.lastRev[branch] = newRev
        if revisions:
            text = f'{revisions} from "{self.repourl}" branch "{branch}"'
            log.msg(f"gitpoller: processing {len(revisions)} changes: {text}")
        progress = BranchProgress(objectid, LAST_REV, branch)
        commits = CodebaseCommits(self, branch)
        try:
            for revision in revisions:
                try:
                    await self._add(revision, branch, progress, commits)
                except Exception as error:
                    if store_failed(error) is not None or progress.reached == revision:
                        raise
                    await self._leave_unread(revision, branch, error)
            await commits.finish()
        except Exception:
            if (known := progress.reached or before) is None:
                self.lastRev.pop(branch, None)
            else:
                self.lastRev[branch] = known
            raise

    async def _new_revisions(self, new: str, branch: str) -> list[str]:
        """Return the commits since the last poll, the oldest first."""
        known = self.lastRev or {}
        others = [f"^{revision}" for revision in sorted(known.values())]
        arguments = ["--ignore-missing", "--first-parent", "--format=%H", new, *others, "--"]
        found = (await self._dovccmd("log", arguments, path=self._folder)).split()
        if not found and self.buildPushesWithNoCommits and known.get(branch) != new:
            is_new = "new" if known.get(branch) is None else "updated"
            log.msg(f'gitpoller: rebuilding {new} for {is_new} branch "{branch}"')
            return [new]
        return found[::-1]

    async def _leave_unread(self, revision: str, branch: str, error: Exception) -> None:
        """Record that a commit has still to be added, before one that follows it is."""
        self.leave_undone(f"poll branch {branch}, commit {revision}", error)
        known = self._unread.get(branch, [])
        await self._set_unread({**self._unread, branch: [*known, revision]})

    async def _set_unread(self, unread: dict[str, list[str]]) -> None:
        if unread != self._unread:
            await self.setState(UNREAD, unread)
        self._unread = unread

    async def _add_unread(self, objectid: int, new: str, branch: str) -> None:
        """Try again to add the commits that could not be read, unless they are gone."""
        if not (unread := self._unread.get(branch)):
            return
        failed = []
        for revision in unread[:MOST_ATTEMPTS]:
            origin = UnreadCommit(objectid, UNREAD, branch, revision)
            try:
                if await self._is_in(revision, new):
                    await self._add(revision, branch, origin, CodebaseCommits(self, branch))
            except Exception as error:
                if store_failed(error) is not None:
                    raise
                self.leave_undone(f"poll branch {branch}, commit {revision}", error)
                if not origin.is_stored:
                    failed.append(revision)
        # Those that were not tried now come first next time.
        await self._set_unread({**self._unread, branch: [*unread[MOST_ATTEMPTS:], *failed]})

    async def _is_in(self, revision: str, head: str) -> bool:
        """Return whether a commit is still there, and in the history of another one."""
        try:
            await self._dovccmd("cat-file", ["-e", f"{revision}^{{commit}}"], self._folder)
        except GitFailed as error:
            if error.was_killed:
                raise
            return False
        return not await self._dovccmd("rev-list", ["-1", revision, f"^{head}"], self._folder)

    async def _add(self, revision: str, branch: str, origin: Any, commits: CodebaseCommits) -> None:
        """Add the change of a commit."""
        change_origin.set(origin)
        commit = {
            "author": await self._get_commit_author(revision),
            "committer": await self._get_commit_committer(revision),
            "comments": await self._get_commit_comments(revision),
            "when_timestamp": await self._get_commit_timestamp(revision),
            "revision": revision,
        }
        await self.master.data.updates.addChange(
            **commit,
            files=await self._get_commit_files(revision),
            branch=self._removeHeads(branch),
            project=self.project,
            repository=bytes2unicode(self.repourl, encoding=self.encoding),
            category=self.category,
            src="git",
        )
        await commits.add(commit)

    # reading a commit

    @async_to_deferred
    async def _read(self, revision: str) -> Commit:
        if self._last_read is None or self._last_read[0] != revision:
            arguments = [*git_commits.FORMAT, revision, "--"]
            printed = await self._git("log", arguments, self._folder)
            encodings = [self.encoding]
            try:
                printed.decode()
            except UnicodeDecodeError:
                encodings += await self._configured_encoding()
            commit = git_commits.parse(printed, encodings)
            if commit.when is None:
                text = await self._git("cat-file", ["commit", revision], self._folder)
                commit = dataclasses.replace(commit, when=git_commits.date_in(text))
            self._last_read = revision, commit
        return self._last_read[1]

    async def _configured_encoding(self) -> list[str]:
        try:
            name = await self._dovccmd("config", ["i18n.commitEncoding"], path=self._folder)
        except GitFailed:
            return []  # it is not set
        return [name]

    @async_to_deferred
    async def _get_commit_author(self, rev: str) -> str:
        return (await self._read(rev)).author

    @async_to_deferred
    async def _get_commit_committer(self, rev: str) -> str:
        return (await self._read(rev)).committer

    @async_to_deferred
    async def _get_commit_comments(self, rev: str) -> str:
        return (await self._read(rev)).comments

    @async_to_deferred
    async def _get_commit_files(self, rev: str) -> list[str]:
        return (await self._read(rev)).files

    @async_to_deferred
    async def _get_commit_timestamp(self, rev: str) -> int | None:
        return (await self._read(rev)).when if self.usetimestamps else None

    @async_to_deferred
    async def _get_commit_parent_hashes(self, rev: str) -> str:
        """Return the parents of a commit, separated by spaces."""
        return " ".join((await self._read(rev)).parents)

    # running git

    def interrupt_git(self) -> None:
        """Kill the git that runs, if one does: a server that doesn't answer holds up nothing."""
        if self._running is not None:
            self._running.kill("its poller is stopped")

    @async_to_deferred
    async def _dovccmd(
        self,
        command: str,
        args: list[str],
        path: str | None = None,
        auth_files_path: str | None = None,
        initial_stdin: str | None = None,
    ) -> str:
        """Run git; return what it prints, with U+FFFD for what is not UTF-8.  Raises GitFailed."""
        printed = await self._git(command, args, path, auth_files_path, initial_stdin)
        return printed.decode("utf-8", "replace").strip()

    @async_to_deferred
    async def _git(
        self,
        command: str,
        args: list[str],
        path: str | None = None,
        auth_files_path: str | None = None,
        initial_stdin: str | None = None,
    ) -> bytes:
        words, environment = list[str](), os.environ.copy()
        if self._git_auth.is_auth_needed_for_git_command(command):
            if auth_files_path is None:
                raise RuntimeError(f"git {command} needs auth, and there is none")
            self._git_auth.adjust_git_command_params_for_auth(
                words, environment, auth_files_path, self
            )
        running = runprocess.create_process(
            self.master.reactor,
            [self.gitbin, *words, command, *args],
            path,
            env={**environment, **self.git_environment},
            initial_stdin=unicode2bytes(initial_stdin),
            io_timeout=self.git_silence_s,
        )
        self._running = running
        try:
            code, printed, said = await running.start()
        finally:
            self._running = None
        if code != 0:
            raise GitFailed(command, self.repourl, code, said.decode("utf-8", "replace"))
        return bytes(printed)


class CodebaseCommits:
    """Adds commits of a branch to the codebase of a poller, if it has one."""

    def __init__(self, poller: ExactGitPoller, branch: str) -> None:
        self._poller = poller
        self._branch = branch
        self._ids: dict[str, int] = {}

    async def add(self, commit: dict[str, Any]) -> None:
        """Add a commit, given by some of the arguments of a change."""
        codebaseid, master = self._poller._codebase_id, self._poller.master
        if codebaseid is None:
            return
        parents = (await self._poller._get_commit_parent_hashes(commit["revision"])).split()
        columns, when = Model.codebase_commits.c, commit["when_timestamp"]
        texts = {name: commit[name] for name in ("author", "committer")}
        self._ids[commit["revision"]] = await master.data.updates.add_commit(
            codebaseid=codebaseid,
            **{name: fit_text(master.db, columns[name], text) for name, text in texts.items()},
            comments=commit["comments"],
            when_timestamp=fit_epoch(master.db, master.reactor.seconds() if when is None else when),
            revision=commit["revision"],
            parent_commitid=await self._id_of(parents[0]) if parents else None,
        )

    async def _id_of(self, revision: str) -> int | None:
        if revision not in self._ids:
            where = ("codebases", self._poller._codebase_id, "commits_by_revision", revision)
            found = await self._poller.master.data.get(where)
            return None if found is None else int(found["commitid"])
        return self._ids[revision]

    async def finish(self) -> None:
        """Record that the branch is at the last of these commits, if there is any."""
        if self._ids:
            master = self._poller.master
            await master.data.updates.update_branch(
                codebaseid=self._poller._codebase_id,
                name=self._branch,
                commitid=list(self._ids.values())[-1],
                last_timestamp=int(master.reactor.seconds()),
            )


def _parents(ref: str) -> Iterator[str]:
    """Yield the folders that a ref is in."""
    while "/" in ref:
        ref = ref.rpartition("/")[0]
        yield ref
