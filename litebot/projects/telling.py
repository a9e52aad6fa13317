"""Whom a project tells of its results: lines such as `github TOKEN` or `mail team@example.org`.

    github TOKEN [ADDRESS]        a status of the commit; gitlab, gitea (Forgejo too) and bitbucket
    mail ADDRESS ...              a mail when the result of a branch changes
    json SECRET [change]          JSON to the address that is in the secret, at each end

TOKEN and SECRET are names of files in the folder secrets.  A forge is looked for where the
repository is, unless an ADDRESS says where.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from urllib.parse import quote
from urllib.parse import unquote
from urllib.parse import urlsplit

from litebot.errors import LitebotError

# Names of secrets are names of files.
SECRET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# What somebody may write by mistake where the name of a secret has to be.
_TOKEN = re.compile(r"gh[a-z]_|github_pat_|gl[a-z]+-|https?:|.{40}")
CHANGE = "change"
FORMS = {
    "github": "github TOKEN [ADDRESS]",
    "gitlab": "gitlab TOKEN [ADDRESS]",
    "gitea": "gitea TOKEN [ADDRESS]",
    "bitbucket": "bitbucket TOKEN [ADDRESS]",
    "mail": "mail ADDRESS ...",
    "json": f"json SECRET [{CHANGE}]",
}
ALIASES = {"forgejo": "gitea"}
# What follows the address of a forge in that of its API, which Buildbot's reporters add to.
API = {"github": "/api/v3", "gitlab": "", "gitea": "/api/v1", "bitbucket": "/2.0/repositories"}
# Where the API of a public forge is, by the host of its repositories.
PUBLIC_API = {
    "github.com": "https://api.github.com",
    "api.github.com": "https://api.github.com",
    "bitbucket.org": "https://api.bitbucket.org/2.0/repositories",
}
# Hosts that take ssh through the port of HTTPS.
OTHER_HOSTS = {
    "ssh.github.com": "github.com",
    "altssh.gitlab.com": "gitlab.com",
    "altssh.bitbucket.org": "bitbucket.org",
}

_MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_PART = re.compile(r"(?!\.{1,2}$)[\w.~%+-]+")
_SCP = re.compile(r"(?:[^@/]*@)?(\[[^\]]+\]|[^:/]+):(.+)")


@dataclass(frozen=True)
class Forge:
    """Tells a forge the status of each commit; `address` is "" where the repository says it."""

    kind: str
    secret: str
    address: str = ""


@dataclass(frozen=True)
class Mail:
    """Writes a mail when the result of a branch has changed."""

    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Json:
    """Posts each end of a build, or only those with another result than before."""

    secret: str
    only_changes: bool = False


@dataclass(frozen=True)
class Place:
    """Where a forge takes statuses: the address of its API, and the path of the repository."""

    api: str
    path: str


def parse(line: str) -> Forge | Mail | Json:
    """Return what a line says.  Raises LitebotError."""
    kind, *words = line.split() or [""]
    kind = ALIASES.get(kind, kind)
    if kind not in FORMS:
        near = difflib.get_close_matches(kind, FORMS, n=1)
        raise LitebotError(
            f"{kind!r:.40} is none of {', '.join(FORMS)}",
            f"did you mean {FORMS[near[0]]}?" if near else "; ".join(FORMS.values()),
        )
    if not words:
        missing = "mail address" if kind == "mail" else "name of a secret"
        raise LitebotError(f"{kind} needs a {missing}", FORMS[kind])
    if kind == "mail":
        return Mail(tuple(dict.fromkeys(_mail_address(word) for word in words)))
    secret, others = _secret(words[0]), words[1:]
    if len(others) > 1 or (kind == "json" and others not in ([], [CHANGE])):
        raise LitebotError(f"{kind} {secret} has {others[-1]!r:.60} too much", FORMS[kind])
    if kind == "json":
        return Json(secret, only_changes=bool(others))
    return Forge(kind, secret, _address(others[0]) if others else "")


def _mail_address(word: str) -> str:
    if not _MAIL.fullmatch(word):
        raise LitebotError(f"{word!r:.100} is not a mail address", "mail team@example.org")
    return word


def _secret(word: str) -> str:
    hint = "name a file in the folder secrets of the basedir, not what is in it"
    if _TOKEN.match(word):
        raise LitebotError("there seems to be a token in the place of a secret's name", hint)
    if not SECRET.fullmatch(word):
        raise LitebotError("there is something in the place of a secret's name", hint)
    return word


def _address(word: str) -> str:
    hint = "https://git.example.org"
    try:
        parts = urlsplit(word)
        usable = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if "@" in word or "?" in word or "#" in word:
        shown = f"{word.partition(':')[0]}:..."
        raise LitebotError(f"the address {shown!r:.60} must have no user, '?' or '#'", hint)
    if not usable:
        raise LitebotError(f"{word!r:.100} is not an address of https:// or http://", hint)
    return word.rstrip("/")


def check_lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Return lines with single spaces, each once.  Raises LitebotError."""
    for line in lines:
        parse(line)
    return tuple(dict.fromkeys(" ".join(line.split()) for line in lines))


def check_for(url: str, lines: tuple[str, ...]) -> None:
    """Raise LitebotError if a line does not go with the address of the repository."""
    for line in lines:
        if isinstance(told := parse(line), Forge):
            place_of(told, url)


def place_of(forge: Forge, url: str) -> Place:
    """Return where the commits of the repository at `url` have statuses.  Raises LitebotError."""
    origin, path = _split(url)
    if not (forge.address or origin):
        raise LitebotError(
            f"{forge.kind} {forge.secret} does not say where the forge is, and {url} is a path",
            f"{forge.kind} {forge.secret} https://git.example.org",
        )
    address = forge.address or origin
    parts = urlsplit(address)
    prefix = parts.path.strip("/")
    if origin and prefix and path.startswith(f"{prefix}/"):
        path = path[len(prefix) + 1 :]
    names = [part for part in path.split("/") if part]
    if not origin:
        names = names[-2:]
    is_deep = forge.kind == "gitlab" and len(names) > 2
    if not (len(names) == 2 or is_deep) or not all(map(_PART.fullmatch, names)):
        raise LitebotError(
            f"{url} has no owner and name by which {forge.kind} knows the repository",
            "an address such as https://HOST/OWNER/NAME.git",
        )
    if forge.kind in ("github", "bitbucket") and parts.hostname in PUBLIC_API:
        api = PUBLIC_API[parts.hostname]
    elif forge.kind == "github" and prefix:
        api = address  # it may be that of the API
    else:
        api = address.removesuffix(API[forge.kind] or "/") + API[forge.kind]
    return Place(api, "/".join(names))


def _split(url: str) -> tuple[str, str]:
    """Return the address of the host of a repository, "" for a path, and the repository's path."""
    if url.startswith(("/", "file:")):
        path = urlsplit(url).path if url.startswith("file:") else url
        origin = ""
    elif "://" in url:
        parts = urlsplit(url)
        path, host = parts.path, OTHER_HOSTS.get(parts.hostname or "", parts.hostname or "")
        host = f"[{host}]" if ":" in host else host
        if parts.scheme in ("https", "http"):
            port = f":{parts.port}" if parts.port else ""
            origin = f"{parts.scheme}://{host}{port}"
        else:
            origin = f"https://{host}"
    else:
        found = _SCP.fullmatch(url)
        assert found is not None
        origin, path = f"https://{OTHER_HOSTS.get(found[1], found[1])}", found[2]
    path = path.strip("/").removesuffix(".git")
    return origin, path


def quoted_path(path: str) -> str:
    """Return the path of a repository as one part of a URL, as GitLab wants it."""
    return quote(unquote(path), safe="")
