"""Source steps that refuse words which their commands would misunderstand.

Words are checked where they come in, too (limits.words).  Here they are checked where the command
is made, as they may also come from a property, an older database or a user's own scheduler.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from litebot.master.builds.refusing import RefusingStep
from litebot.master.limits import words

Check = Callable[[Any], str | None]


def _check(kind: str, *sources: str) -> Check:
    return lambda word: words.fault(kind, word, sources)


REF = _check(words.BRANCH, words.GIT)
REVISION = _check(words.REVISION, words.GIT)
BRANCH = _check(words.BRANCH)
OTHERS_REVISION = _check(words.REVISION)
REPOSITORY = _check(words.REPOSITORY)
WORD = _check(words.PROJECT)

# The attributes of Buildbot's steps that are, or become a part of, words of their commands.
CHECKS: dict[str, dict[str, Check]] = {
    "git.Git": {
        "branch": REF,
        "revision": REVISION,
        "repourl": REPOSITORY,
        "reference": WORD,
        "origin": WORD,
    },
    "git.GitPush": {"branch": words.refspec_fault, "repourl": REPOSITORY},
    "git.GitTag": {"tagName": REF},
    "git.GitCommit": {"paths": WORD},
    "mercurial.Mercurial": {
        "branch": BRANCH,
        "update_branch": BRANCH,
        "revision": OTHERS_REVISION,
        "repourl": REPOSITORY,
    },
    "svn.SVN": {"revision": OTHERS_REVISION, "repourl": REPOSITORY},
    "bzr.Bzr": {"branch": BRANCH, "revision": OTHERS_REVISION, "repourl": REPOSITORY},
    "cvs.CVS": {"branch": WORD, "revision": OTHERS_REVISION, "cvsroot": REPOSITORY},
    "darcs.Darcs": {"revision": _check(words.REVISION, words.DARCS), "repourl": REPOSITORY},
    "mtn.Monotone": {"branch": WORD, "revision": OTHERS_REVISION, "repourl": REPOSITORY},
    "p4.P4": {
        "revision": OTHERS_REVISION,
        **dict.fromkeys(("p4base", "p4branch", "p4client", "p4port", "p4user"), WORD),
        "p4viewspec": WORD,
    },
    "repo.Repo": {
        "manifestBranch": REF,
        "manifestURL": REPOSITORY,
        "manifestOverrideUrl": REPOSITORY,
        **dict.fromkeys(("manifestFile", "repoDownloads", "tarball"), WORD),
    },
}
NAMES = {"repourl": "repository", "update_branch": "branch", "tagName": "tag", "paths": "path"}

COMMIT = re.compile("[0-9a-f]{40}(?:[0-9a-f]{24})?")
NUMBER = re.compile("[0-9]+")
# What a revision of each VCS looks like.
REVISIONS = {
    **dict.fromkeys(("git", "github", "gitlab", "gerrit", "mercurial", "mtn"), COMMIT),
    **dict.fromkeys(("svn", "bzr", "p4"), NUMBER),
}


def names_of(kind: type) -> Iterator[str]:
    """Yield the names of the classes in CHECKS that a class of steps is derived from."""
    for base in kind.__mro__:
        if base.__module__.startswith(words.SOURCES):
            yield f"{base.__module__.removeprefix(words.SOURCES)}.{base.__name__}"


class CheckedStep(RefusingStep):
    """A step whose words are checked before each of its commands is made.

    What the configuration itself says is trusted.
    """

    refused_as = words.REASON

    def runCommand(self, command: Any) -> Any:
        """Run a command on the worker, unless a word is dangerous."""
        self._check_words()
        return super().runCommand(command)  # type: ignore[misc]

    def _check_words(self) -> None:
        for name in names_of(type(self)):
            for attribute, check in CHECKS.get(name, {}).items():
                plain = [w for w in _flat(self.configured.get(attribute)) if isinstance(w, str)]
                for word in _flat(getattr(self, attribute, None)):
                    wrong = check(word) or self._more(attribute, word)
                    if wrong and word not in plain:
                        self._refuse_word(attribute, word, wrong)

    def _more(self, attribute: str, word: Any) -> str | None:
        # bzr joins the two, and an absolute branch or a URL would replace the base.
        if attribute == "branch" and getattr(self, "baseURL", None) is not None:
            return words.path_fault(word)
        return None

    def _refuse_word(self, attribute: str, word: Any, wrong: str) -> None:
        self.refuse(words.said(NAMES.get(attribute, attribute), word, wrong))


class CheckedSource(CheckedStep):
    """A source step that also checks its patch, and the revision that the worker reports."""

    def patch(self, patch: Any) -> Any:
        """Apply a patch, (level, body, subdir), unless it would be applied outside the sources."""
        found = words.patch_fault(patch[0], patch[2] if len(patch) > 2 else None)
        if found is not None:
            self.refuse(found[0])
        return super().patch(patch)  # type: ignore[misc]

    def updateSourceProperty(self, name: str, value: Any, source: str = "") -> None:
        """Set a property, unless it is no revision of this VCS, or no description of one."""
        if name == "got_revision" and (wrong := self._revision_fault(value)):
            self.refuse(words.said("revision from the worker", value, wrong))
        if name == "commit-description" and (wrong := REF(value)):
            step: Any = self
            detail = words.said("description from the worker", value, wrong)
            step.master.refusals.note(self.refused_as, f"{step.build}: {detail}")
            return
        super().updateSourceProperty(name, value, source)  # type: ignore[misc]

    def _revision_fault(self, value: Any) -> str | None:
        source = words.source_of(type(self)) or ""
        pattern = REVISIONS.get(source)
        parse = getattr(type(self), "parseGotRevision", None)
        if pattern is None or (parse and not parse.__module__.startswith("buildbot.")):
            sources = (words.DARCS,) if source == words.DARCS else ()
            return words.fault(words.REVISION, value, sources)
        return None if pattern.fullmatch(str(value)) else f"it is no revision of {source}"


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _flat(each)
    elif value is not None:
        yield value
