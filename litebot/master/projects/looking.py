"""Looks at a repository that may become a project, with git and a time limit."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.master.projects.logins.git import Login
from litebot.master.projects.logins.git import Unreachable
from litebot.master.projects.logins.git import run_git
from litebot.projects.addresses import check_address
from litebot.projects.addresses import shown
from litebot.projects.build_file import FILE_NAME
from litebot.projects.build_file import MOST_BYTES
from litebot.projects.proposals import propose

ANSWERS_WITHIN_S = 20
FETCHED_WITHIN_S = 60
NO_LOGIN = Login()
# Files of a repository that proposals read, at most.
MOST_READ = 40
# So many branches are named where the one that was asked for is missing.
MOST_BRANCHES = 5


@dataclass(frozen=True)
class Sighting:
    """What a repository is like: its default branch, its last commit there, and what it builds.

    `file` is the text of its .litebot.toml, or None.  Where it has none, `proposed` are steps
    for it as a .litebot.toml, "" if nothing is known of it, with `reasons`; `unseen` says why it
    could not be looked into.
    """

    url: str
    branch: str
    revision: str
    file: str | None = None
    proposed: str = ""
    reasons: tuple[str, ...] = ()
    unseen: str | None = None


async def look(
    reactor: Any,
    files: Basedir,
    url: str,
    branch: str | None = None,
    login: Login = NO_LOGIN,
) -> Sighting:
    """Return what is at an address.

    Raises Unreachable, and LitebotError if it is no address, has no such branch, or a secret of the
    login can't be used.
    """
    url = check_address(url)
    with tempfile.TemporaryDirectory(dir=files.path, prefix=".look-") as place:
        repository = Path(place, "repository")
        repository.mkdir()
        git = Git(reactor, repository, url, login.options(files, url, Path(place)))
        found, revision = await git.head(branch)
        try:
            await git.fetch(found)
            names = await git.names()
            text = await git.text(FILE_NAME) if FILE_NAME in names else None
            if text is not None:
                return Sighting(url, found, revision, file=text)
            read = await git.texts(names)
        except Unreachable as error:
            return Sighting(url, found, revision, unseen=error.what)
        proposal = propose(names, read.get)
        return Sighting(url, found, revision, proposed=proposal.to_toml(), reasons=proposal.reasons)


class Git:
    """Runs git on the repository at `url`, with a bare one of its own in `folder`."""

    def __init__(self, reactor: Any, folder: Path, url: str, options: Sequence[str] = ()) -> None:
        self._reactor = reactor
        self._folder = folder
        self._url = url
        self._options = options

    async def head(self, branch: str | None) -> tuple[str, str]:
        """Return a branch, or the default one, and its last commit."""
        wanted = ["HEAD"] if branch is None else [f"refs/heads/{branch}"]
        printed = await self._run(
            ANSWERS_WITHIN_S, "ls-remote", "--symref", "--", self._url, *wanted
        )
        revision = None
        for line in printed.decode("utf-8", "replace").splitlines():
            what, _, ref = line.partition("\t")
            if what.startswith("ref: refs/heads/") and ref == "HEAD":
                branch = what.removeprefix("ref: refs/heads/")
            elif ref in wanted:
                revision = what
        if revision is None and branch is not None:
            there = await self._branches(branch)
            listed = f"; it has {there}" if there else ""
            raise LitebotError(f"{shown(self._url)} has no branch {branch}{listed}")
        if revision is None:
            raise LitebotError(
                f"{shown(self._url)} has no commits yet", "push a commit, and try again"
            )
        return branch or "master", revision

    async def _branches(self, like: str) -> str:
        """Return the names of some branches, those that are most like `like` first."""
        printed = await self._run(ANSWERS_WITHIN_S, "ls-remote", "--heads", "--", self._url)
        lines = printed.decode("utf-8", "replace").splitlines()
        names = [line.partition("\trefs/heads/")[2] for line in lines]
        near = difflib.get_close_matches(like, names, n=MOST_BRANCHES)
        some = list(dict.fromkeys([*near, *names]))[:MOST_BRANCHES]
        more = len(names) - len(some)
        return ", ".join(some) + (f" and {more} more" if more else "")

    async def fetch(self, branch: str) -> None:
        """Fetch the last commit of a branch, without the files where the server allows it."""
        await self._run(ANSWERS_WITHIN_S, "init", "--bare", "--quiet")
        await self._run(
            FETCHED_WITHIN_S,
            *("fetch", "--quiet", "--depth=1", "--filter=blob:none", "--no-tags"),
            *("--", self._url, f"refs/heads/{branch}"),
        )

    async def names(self) -> list[str]:
        """Return the names of the files and folders at the top."""
        printed = await self._run(ANSWERS_WITHIN_S, "ls-tree", "-z", "--name-only", "FETCH_HEAD")
        return [name.decode("utf-8", "replace") for name in printed.split(b"\0") if name]

    async def text(self, name: str) -> str | None:
        """Return the text of a file, or None if there is none or it is too large."""
        try:
            size = await self._run(FETCHED_WITHIN_S, "cat-file", "-s", f"FETCH_HEAD:{name}")
            if int(size) > MOST_BYTES:
                return None
            printed = await self._run(FETCHED_WITHIN_S, "cat-file", "blob", f"FETCH_HEAD:{name}")
        except Unreachable:
            return None
        return printed.decode("utf-8", "replace")

    async def texts(self, names: Collection[str]) -> Mapping[str, str]:
        """Return the texts of the files that proposals read."""
        # Which of them it reads depends on what is in others, so it is asked with none first.
        asked: list[str] = []
        found: dict[str, str] = {}
        while len(asked) < MOST_READ:
            missing = [name for name in _asked_for(names, found) if name not in asked]
            if not missing:
                break
            for name in missing:
                asked.append(name)
                if (text := await self.text(name)) is not None:
                    found[name] = text
        return found

    async def _run(self, within_s: float, command: str, *arguments: str) -> bytes:
        """Run git and return what it prints.  Raises Unreachable."""
        words = [*self._options, command, *arguments]
        succeeded, printed, why = await run_git(self._reactor, self._folder, within_s, words)
        if not succeeded and _is_no_repository(self._url):
            raise Unreachable(f"there is no git repository at {self._url}")
        if not succeeded:
            raise Unreachable(f"{shown(self._url)} can't be read: {why}")
        return printed


def _is_no_repository(url: str) -> bool:
    """Return whether an address is a path, and nothing there looks like a repository."""
    path = url if url.startswith("/") else urlsplit(url).path
    if not url.startswith(("/", "file://")):
        return False
    try:
        if Path(path).is_file() or Path(f"{path}.git").exists():
            return False
        return not any(Path(path, name).exists() for name in (".git", "HEAD"))
    except OSError:
        return False


def _asked_for(names: Collection[str], found: Mapping[str, str]) -> list[str]:
    asked = []

    def read(name: str) -> str | None:
        asked.append(name)
        return found.get(name)

    propose(names, read)
    return asked
