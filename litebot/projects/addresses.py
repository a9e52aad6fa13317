"""Which addresses a project's repository may have, and which name a project may have.

An address becomes an argument of git on the master and on workers, and is stored, shown and
logged: it must not be an option, start a program or hold a secret.
"""

from __future__ import annotations

import re
from urllib.parse import unquote
from urllib.parse import urlsplit

from litebot.errors import ProjectError

LONGEST_ADDRESS = 1000
LONGEST_NAME = 50
# The page of a project is at projects/NAME, beside these.
RESERVED = {"add"}
SCHEMES = ("https", "http", "ssh", "git", "file")
FORMS = "https://HOST/PATH, ssh://git@HOST/PATH, git@HOST:PATH or /ABSOLUTE/PATH"
WITHOUT_IT = "give the address without it, and the password or token as a secret of the project"

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
_HOST = re.compile(r"\w[\w.-]*|\[[0-9A-Fa-f:.]+\]")
_USER = re.compile(r"\w[\w.+-]*")
# As git does, whatever has a ":" before the first "/" is on another host.
_SCP = re.compile(rf"(?:({_USER.pattern})@)?({_HOST.pattern}):(?!-)(?!.*(?:::|@))(.+)")
_HELPER = re.compile(r"[A-Za-z0-9+.-]+::")
# What forges give as tokens, which their users are told to put into a URL as its user.
_TOKEN = re.compile(r"gh[a-z]_|github_pat_|gl[a-z]+-|.{40}")


def check_address(address: str) -> str:
    """Return the address of a repository without white space around it.

    It is a URL of `SCHEMES`, HOST:PATH with or without a user before it, or an absolute path.
    Raises ProjectError, which shows nothing secret of it.
    """
    address = address.strip()
    if len(address) > LONGEST_ADDRESS:
        raise _refused(address[:60] + "...", f"is longer than {LONGEST_ADDRESS:,} characters")
    if not address:
        raise _refused(address, "is empty")
    if not address.isprintable() or not unquote(address).isprintable():
        raise _refused(address, "holds characters that are not printable")
    if address.startswith("-"):
        raise _refused(address, "begins with '-', so that git would take it for an option")
    if _HELPER.match(address):
        raise _refused(address, "names a program of git's; litebot does not start these")
    if "://" in address:
        _check_url(address)
    elif not address.startswith("/"):
        _check_scp(address)
    return address


def _check_url(address: str) -> None:
    scheme = address.partition("://")[0]
    if scheme not in SCHEMES:
        raise _refused(address, f"must begin with one of {', '.join(f'{s}://' for s in SCHEMES)}")
    # Also a password with an unquoted "/", "?" or "#", which would end the host part early.
    before, at, _ = address.partition("://")[2].rpartition("@")
    if at and scheme != "file" and re.search("[:/?#]", before):
        raise _refused(address, "holds a password, or an '@' after the host", WITHOUT_IT)
    try:
        parts = urlsplit(address)
        host, user = parts.hostname or "", parts.username
        usable = parts.port != 0
    except ValueError:
        raise _refused(address, "is not a URL that litebot can read") from None
    if scheme == "file":
        if host not in {"", "localhost"} or not parts.path.startswith("/"):
            raise _refused(
                address, "must be file:/// and an absolute path", "file:///srv/hello.git"
            )
        return
    if user is not None and scheme.startswith("http") and _TOKEN.match(user):
        raise _refused(address, "seems to hold a token", WITHOUT_IT)
    if parts.query or parts.fragment or address.endswith(("?", "#")):
        raise _refused(address, "must have no '?' or '#'", WITHOUT_IT)
    host = f"[{host}]" if ":" in host else host
    if not usable or not _HOST.fullmatch(host) or not (user is None or _USER.fullmatch(user)):
        raise _refused(address, "has no host, or a user or a host that git would not take")
    if " " in address or not parts.path.strip("/"):
        raise _refused(address, "must have a path, with %20 for a space")


def _check_scp(address: str) -> None:
    if not _SCP.fullmatch(address):
        before, at, _ = address.rpartition("@")
        if at and ":" in before:
            raise _refused(address, "holds a password", WITHOUT_IT)
        raise _refused(address, "is neither a URL nor an absolute path")


def _refused(address: str, why: str, hint: str = FORMS) -> ProjectError:
    return ProjectError(f"the address {shown(address)!r} {why}", hint)


def shown(address: str) -> str:
    """Return any address as it may be shown to everybody: without what may be a secret."""
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in address)
    scheme, separator, rest = text.partition("://")
    if not separator:
        if text.startswith("/") or _SCP.fullmatch(text) or "@" not in text:
            return text[:LONGEST_ADDRESS]
        return f"***@{text.rpartition('@')[2]}"[:LONGEST_ADDRESS]
    if scheme == "file" and rest.startswith("/"):
        return text[:LONGEST_ADDRESS]
    user, at, rest = rest.rpartition("@")
    if at:
        user = user if scheme == "ssh" and _USER.fullmatch(user) else "***"
    place, cut, _ = rest.replace("#", "?").partition("?")
    shown_scheme = scheme if "@" not in scheme else "***"
    return f"{shown_scheme}://{user}{at}{place}{'?...' if cut else ''}"[:LONGEST_ADDRESS]


def is_ssh(address: str) -> bool:
    """Return whether git reaches an address that `check_address` takes through ssh."""
    return address.startswith("ssh://") or ("://" not in address and not address.startswith("/"))


def suggested_name(address: str) -> str:
    """Return a name for the project of an address: its last part, as far as a name may be so."""
    if "://" in address:
        address = address.partition("://")[2].partition("/")[2]
    last = re.split("[/:]", unquote(address[:LONGEST_ADDRESS]).rstrip("/ "))[-1]
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", last))
    name = name.lstrip("._-")[:LONGEST_NAME]
    while name.endswith((".git", ".", "-", "_")):
        name = name.removesuffix(".git").rstrip("._-")
    return name or "project"


def check_name(name: str) -> str:
    """Return the name of a project if it may have it.  Raises ProjectError."""
    hint = f"letters, digits, '.', '_' and '-', at most {LONGEST_NAME}, a letter or digit first"
    if not _NAME.fullmatch(name):
        raise ProjectError(f"{name[:60]!r} is not the name of a project", hint)
    if name.lower() in RESERVED:
        raise ProjectError(f"no project can have the name {name!r}, which its page needs", hint)
    if ".." in name or name.endswith((".git", ".")):
        raise ProjectError(f"the name {name!r} must not hold '..' or end in '.' or '.git'", hint)
    return name
