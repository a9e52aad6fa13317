"""Which words from outside may reach a command line: branches, revisions and repositories.

A command takes a word that begins with "-" for an option, and some options and addresses run
commands, such as git's --upload-pack and ext::.  Each version control system (VCS) takes other
names, so some rules hold only where a configuration uses one VCS alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from litebot.master.limits.refusals import printable

# The reason under which `litebot status` counts what is refused here.
REASON = "dangerous names"
LONGEST_SHOWN = 250
HIGHEST_PATCH_LEVEL = 100

BRANCH, REVISION, REPOSITORY = "branch", "revision", "repository"
PROJECT, CODEBASE = "project", "codebase"
STAMP_WORDS = (BRANCH, REVISION, REPOSITORY, PROJECT, CODEBASE)

# Properties that Buildbot's source steps take from changes, and the kind of their values.
# Source: buildbot/steps/source/gitlab.py, gerrit.py and repo.py
PROPERTY_WORDS = {
    "source_branch": BRANCH,
    "target_branch": BRANCH,
    "source_git_ssh_url": REPOSITORY,
    "source_git_http_url": REPOSITORY,
    "target_git_ssh_url": REPOSITORY,
    "target_git_http_url": REPOSITORY,
    "event.patchSet.ref": BRANCH,
    "event.change.project": PROJECT,
    "gerrit_change": REVISION,
    "got_revision": REVISION,
}

GIT = "git"
DARCS = "darcs"
# The modules of Buildbot's source steps that fetch a sourcestamp's branch with git.
FETCHED_BY_GIT = {GIT, "github", "gitlab"}
SOURCES = "buildbot.steps.source."

# What no name of a git ref may contain.  Source: git-check-ref-format(1)
NOT_IN_REFS = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]")
# An address "NAME::..." makes git run git-remote-NAME; ext and fd run any command.
# Source: gitremote-helpers(7)
HELPER = re.compile(r"[A-Za-z0-9+.\-]*::")
# The host of a URL, and of an address HOST:PATH as scp takes it.
URL_HOST = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://(?P<host>[^/?#]*)")
SCP_HOST = re.compile(r"(?P<host>[^/:]*):(?P<path>.*)", re.DOTALL)
LOCAL = re.compile(r"file:|[A-Za-z]:[/\\]|[/\\~]|\.\.?(?:[/\\]|$)", re.IGNORECASE)


class RefusedWord(ValueError):
    """A word from outside that a command would misunderstand.

    `name` is what it is, such as "branch", and `codebase` that of its sourcestamp.
    """

    def __init__(self, message: str, name: str, codebase: str = "") -> None:
        super().__init__(message)
        self.name = name
        self.codebase = codebase


def fault(kind: str, word: Any, sources: Collection[str] = ()) -> str | None:
    """Say what a word must not be, or return None if it may reach a command line.

    `kind` is one of STAMP_WORDS.  `sources` are those that may use the word, as `source_of` names
    them; a word is at fault only if it is for all of them.
    """
    if word is None or isinstance(word, bool):
        return None
    if isinstance(word, bytes):
        word = word.decode(errors="replace")
    if isinstance(word, int):
        word = str(word)
    if not isinstance(word, str):
        return "it must be a text"
    if word.lstrip().startswith("-"):
        return "it must not begin with '-', which makes an option of it"
    if kind == REVISION and DARCS in sources:
        # A revision of darcs is a context of many lines, which goes into a file.
        word = word.replace("\n", " ").replace("\t", " ")
    if any(unicodedata.category(c) in {"Cc", "Cs"} for c in word):
        return "it must be one line without control characters"
    if kind == REPOSITORY:
        return _repository_fault(word)
    if kind in {BRANCH, CODEBASE} and ".." in re.split(r"[/\\]", word):
        return "it must not have '..' as a part, which leads out of a folder"
    is_for_git = bool(sources) and FETCHED_BY_GIT.issuperset(sources)
    if kind == BRANCH and is_for_git:
        return _ref_fault(word)
    if kind == REVISION and is_for_git:
        # After the name of a ref there may be operators.  Source: gitrevisions(7)
        return _ref_fault(re.split(r"[~^:]|@\{", word)[0])
    return None


def _ref_fault(word: str) -> str | None:
    """Say why git would take no ref of this name; an empty one is the default."""
    parts = word.split("/")
    wrong = (
        NOT_IN_REFS.search(word)
        or ".." in word
        or "@{" in word
        or word.endswith(".")
        or any(part.startswith(".") or part.endswith(".lock") for part in parts)
        or (word and "" in parts)
    )
    return "git takes no ref of this name (git check-ref-format)" if wrong else None


def refspec_fault(word: Any) -> str | None:
    """Do as `fault`, for what `git push` takes: [+]SOURCE[:TARGET]."""
    if wrong := fault(BRANCH, word):
        return wrong
    source, _, target = str(word).removeprefix("+").partition(":")
    return fault(REVISION, source, (GIT,)) or fault(BRANCH, target, (GIT,))


def _repository_fault(word: str) -> str | None:
    if found := HELPER.match(word):
        return f"it must not begin with {found[0]!r}, by which git runs another command"
    if word.startswith(":") and any(part.startswith("-") for part in re.split("[:@]", word)):
        return "its host must not begin with '-', which makes an option of it"  # as CVS writes it
    for address in {word, unquote(word)}:
        found = URL_HOST.match(address)
        if found is None and (found := SCP_HOST.match(address)) and found["path"].startswith("-"):
            return "its path must not begin with '-', which makes an option of it"
        # ssh would take a host that begins with "-" for an option, and hg pipes to one with "|".
        if found and any(part.startswith(("-", "|")) for part in (found["host"], *_hosts(found))):
            return "its host must not begin with '-' or '|', which makes an option of it"
    return None


def _hosts(found: re.Match[str]) -> list[str]:
    return found["host"].split("@")


def is_local(repository: Any) -> bool:
    """Return whether this is a repository on the machine that fetches it."""
    return isinstance(repository, str) and bool(LOCAL.match(repository))


def path_fault(word: Any) -> str | None:
    """Say why a word is no relative path that stays in its folder."""
    if word is None or word == "":
        return None
    wrong = fault(CODEBASE, word)
    if wrong is None and re.match(r"[/\\~]|[A-Za-z]:", str(word)):
        wrong = "it must be relative to the folder of the sources"
    return wrong


def patch_fault(level: Any, subdir: Any) -> tuple[str, str] | None:
    """Return what is wrong with a patch, and which of its values is at fault, or None."""
    is_level = re.fullmatch("[0-9]{1,3}", str(level)) and int(level) <= HIGHEST_PATCH_LEVEL
    if level is not None and not is_level:
        return said("patch level", level, f"it must be from 0 to {HIGHEST_PATCH_LEVEL}"), "level"
    if wrong := path_fault(subdir):
        return said("patch subdir", subdir, wrong), "subdir"
    return None


def said(name: str, word: Any, wrong: str) -> str:
    """Return a sentence on a word and its fault."""
    text = word if isinstance(word, str) else repr(word)
    return f"the {name} is '{printable(text, LONGEST_SHOWN)}'; {wrong}"


# where a word comes from and who uses it


def check_stamp(stamp: Mapping[str, Any], config: Any, *, by_visitor: bool = False) -> None:
    """Check the words of a change, or of a new sourcestamp.  Raises RefusedWord.

    What the configuration itself says is trusted.  One that a visitor makes may name no
    repository on the machine that builds, unless the configuration does.
    """
    words = [(name, name, stamp.get(name)) for name in STAMP_WORDS]
    words += _property_words(stamp.get("properties"))
    codebase = stamp.get(CODEBASE)
    codebase = codebase if isinstance(codebase, str) else ""
    for name, kind, word in words:
        is_too_near = by_visitor and kind == REPOSITORY and is_local(word)
        if not is_too_near and fault(kind, word, (GIT,)) is None:
            continue  # no VCS is stricter
        wrong = fault(kind, word, sources_of(config))
        if wrong is None and is_too_near:
            wrong = "it must not be on the machine that builds"
        is_text = isinstance(word, str)
        if wrong is not None and not (is_text and word in set(_configured(config))):
            raise RefusedWord(f"{said(name, word, wrong)}; {_remedy(kind)}", name, codebase)
    if stamp.get("patch_body"):
        found = patch_fault(stamp.get("patch_level"), stamp.get("patch_subdir"))
        if found is not None:
            message, name = found
            raise RefusedWord(message, f"patch_{name}", codebase)


def check_properties(properties: Mapping[str, Any] | None, config: Any) -> None:
    """Check the properties of a buildset that source steps use.  Raises RefusedWord."""
    check_stamp({"properties": properties}, config)


def _property_words(properties: Any) -> Iterator[tuple[str, str, Any]]:
    if not isinstance(properties, Mapping):
        return
    for name, kind in PROPERTY_WORDS.items():
        value = properties.get(name)
        # A property of a buildset or a stored change is a pair with its source.
        value = value[0] if isinstance(value, (tuple, list)) and len(value) == 2 else value
        for each in value.values() if isinstance(value, Mapping) else [value]:
            if isinstance(each, (str, bytes)):  # others may use the name for something else
                yield f"property {name}", kind, each


def _remedy(kind: str) -> str:
    if kind == BRANCH:
        return "rename the branch, or leave it empty for the default"
    if kind == REPOSITORY:
        return "use an https or ssh URL, or name this one in master.cfg"
    return f"use another {kind}"


def source_of(step_class: type) -> str | None:
    """Return the module of Buildbot's source step that a step is, such as "git", or None."""
    for base in step_class.__mro__:
        if base.__module__.startswith(SOURCES) and base.__name__ != "Source":
            return base.__module__.removeprefix(SOURCES)
    return None


def sources_of(config: Any) -> set[str]:
    """Return the source steps of all builders, and "" if a builder has none of Buildbot's."""
    found: set[str] = set()
    for builder in config.builders:
        steps = getattr(builder.factory, "steps", ())
        classes = (getattr(step, "step_class", None) for step in steps)
        mine = {source_of(each) for each in classes if isinstance(each, type)}
        found |= {each for each in mine if each is not None} or {""}
    return found


# The attributes in which change sources and schedulers keep what the configuration says, beside
# their arguments.  Others may hold names that a poller has read.
CONFIGURED = (
    *("repourl", "repository", "project", "codebase", "branch", "branches", "cvsroot", "p4base"),
    *("codebases", "forcedProperties", "_config_args", "_config_kwargs"),
)


def _configured(config: Any) -> Iterator[str]:
    """Yield the texts of change sources and schedulers, and the arguments of source steps."""
    for service in (*config.change_sources, *config.schedulers.values()):
        yield from _texts([vars(service).get(name) for name in CONFIGURED])
    for builder in config.builders:
        for step in getattr(builder.factory, "steps", ()):
            if source_of(getattr(step, "step_class", object)) is not None:
                yield from _texts([getattr(step, "args", ()), getattr(step, "kwargs", {})])


def _texts(value: Any, depth: int = 6) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping) and depth:
        for each in list(value.values()):
            yield from _texts(each, depth - 1)
    elif isinstance(value, (list, tuple, set, frozenset)) and depth:
        for each in list(value):
            yield from _texts(each, depth - 1)
    elif hasattr(value, "spec_attributes") and depth:  # a parameter of a force scheduler
        for name in ("default", "choices", "fields"):
            yield from _texts(getattr(value, name, None), depth - 1)
