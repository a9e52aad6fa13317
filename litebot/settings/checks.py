"""Checks of the values of keys of litebot.toml.

Each check returns the value as it is stored, or raises CheckError.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import parse_qsl
from urllib.parse import urlsplit

DEFAULT_DATABASE = "sqlite:///state.sqlite"
DATABASE_FORMS = "sqlite:///FILE, sqlite:////ABSOLUTE/FILE or postgresql://USER@HOST/NAME"
SQLITE_PREFIX = "sqlite:///"
DURABILITIES = ("acknowledged", "commit", "process")
TLS = ("none", "starttls", "tls")


class CheckError(Exception):
    """Raised by a check: `need` completes "KEY is VALUE; ", and `shown` is the VALUE to print."""

    def __init__(self, need: str, hint: str | None = None, shown: str | None = None) -> None:
        super().__init__(need)
        self.need = need
        self.hint = hint
        self.shown = shown


def check_port(port: int) -> int:
    if not 0 <= port <= 65535:
        raise CheckError("it must be from 0 to 65535")
    return port


def check_attempts(attempts: int) -> int:
    if attempts < 1:
        raise CheckError("it must be 1 or more")
    return attempts


def check_limit(limit: int) -> int:
    if not 1 <= limit <= 1_000_000:
        raise CheckError("it must be from 1 to 1000000")
    return limit


def check_grace(grace_s: int) -> int:
    if not 0 <= grace_s <= 3600:
        raise CheckError("it must be from 0 to 3600")
    return grace_s


def check_silence(silence_s: int) -> int:
    if not 1 <= silence_s <= 86400:
        raise CheckError("it must be from 1 to 86400")
    return silence_s


def check_listen(address: str) -> str:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        # The address of a host name depends on somebody's DNS, and where we listen must not.
        if address != "localhost":
            raise CheckError(
                "it must be an IP address or 'localhost'",
                "127.0.0.1 serves this machine only, 0.0.0.0 every network it is on",
            ) from None
    return address


def check_environment(names: str) -> str:
    for name in names.split():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\*?", name):
            raise CheckError(
                f"{name!r} is not the name of a variable; spaces separate names, and a name may"
                " end in *",
                'environment = "JAVA_HOME CI_*"',
            )
    return names


def check_durability(durability: str) -> str:
    if durability not in DURABILITIES:
        raise CheckError(f"it must be one of {', '.join(map(repr, DURABILITIES))}")
    return durability


def check_database_url(url: str) -> str:
    scheme, colon, _ = url.partition(":")
    if scheme == "sqlite":
        return check_sqlite_url(url)
    # Only the scheme is shown: the rest may have a password, even in a form that we don't know.
    shown = repr(f"{scheme}:..." if colon else url)
    if not url.startswith("postgresql://"):
        raise CheckError(f"it must be {DATABASE_FORMS}", shown=shown)
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise CheckError(f"it must be {DATABASE_FORMS}", shown=shown) from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    # An unquoted "/", "?" or "#" in a password ends the host part early and leaves the "@" behind.
    stray = "@" in parts.path + parts.query + parts.fragment
    if parts.password is not None or stray or {"password", "sslpassword"} & options.keys():
        raise CheckError(
            "it must not hold a password",
            "put the password into ~/.pgpass (or the file named by PGPASSFILE) or into PGPASSWORD",
            shown,
        )
    if not (host or parts.path.strip("/") or {"host", "dbname"} & options.keys()):
        raise CheckError("it must name a host or a database", DATABASE_FORMS, shown)
    return url


def check_sqlite_url(url: str) -> str:
    name = url.removeprefix(SQLITE_PREFIX)
    if url in {"sqlite:", "sqlite:/", "sqlite://", SQLITE_PREFIX} or ":memory:" in name:
        raise CheckError(
            "it must name a file: a database in memory holds nothing after a stop",
            f'url = "{DEFAULT_DATABASE}"',
        )
    if not url.startswith(SQLITE_PREFIX):
        raise CheckError(
            "it must have three slashes, or four before an absolute path", DATABASE_FORMS
        )
    if "?" in name:
        raise CheckError("it must not have options after a '?'", DATABASE_FORMS)
    if name.endswith("/") or name.rpartition("/")[2] in {".", ".."}:
        raise CheckError(
            "it must end in the name of a file", f'url = "{url.rstrip("/.")}/state.sqlite"'
        )
    return url


def check_web_url(url: str) -> str:
    if not url:
        return url
    hint = 'url = "https://ci.example.org/"'
    shown = repr(url.partition(":")[0] + ":...") if "@" in url else None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or " " in url:
        raise CheckError("it must be http:// or https:// and a host", hint, shown)
    if "@" in url or "?" in url or "#" in url:
        raise CheckError(
            "it must have no user, '?' or '#', as links are made by appending to it", hint, shown
        )
    return url if url.endswith("/") else url + "/"


def check_mail_address(address: str) -> str:
    if address and not re.fullmatch(r"[!-~]+@[A-Za-z0-9.-]+", address):
        raise CheckError("it must be a mail address", 'sender = "ci@example.org"')
    return address


def check_host(host: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*|[0-9A-Fa-f:]+", host):
        raise CheckError("it must be the name or the IP address of a host", 'host = "localhost"')
    return host


def check_mail_port(port: int) -> int:
    if not 1 <= port <= 65535:
        raise CheckError("it must be from 1 to 65535")
    return port


def check_tls(tls: str) -> str:
    if tls not in TLS:
        raise CheckError(f"it must be one of {', '.join(map(repr, TLS))}")
    return tls


def check_secret(name: str) -> str:
    if name and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise CheckError(
            "it must be the name of a file in the folder secrets",
            "write the password into that file, not here",
            "what is there",
        )
    return name
