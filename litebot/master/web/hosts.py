"""Under which names the page may be asked for.

A page of another site can have its own name lead to this machine (DNS rebinding).  For a browser
the master is then that site, which may read and act as the user.  So the name in the header `Host`
must be one that a stranger can't own: an IP address, a name of this machine, or one that is
configured.
"""

from __future__ import annotations

import fnmatch
import functools
import ipaddress
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes
from urllib.parse import urlsplit

from buildbot.util import bytes2unicode
from twisted.web import server

from litebot.master.limits.refusals import printable

HOSTS_FILE = Path("/etc/hosts")


def host_of(netloc: str) -> str:
    """Return the host of HOST:PORT in lower case, without the brackets of IPv6."""
    host = re.sub(r":[0-9]*$", "", netloc.strip().lower())
    found = re.fullmatch(r"\[(.*)\]", host)
    return found[1] if found else host.removesuffix(".")


def port_of(netloc: str) -> int | None:
    """Return the port of HOST:PORT, or None if it has none."""
    found = re.search(r":([0-9]{1,5})$", netloc.strip())
    return int(found[1]) if found else None


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, to which no name leads."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine for the browser that asks."""
    if is_address(host):
        return ipaddress.ip_address(host).is_loopback
    # Source: https://www.rfc-editor.org/rfc/rfc6761#section-6.3
    return host in {"localhost", "localhost.localdomain"} or host.endswith(".localhost")


@functools.cache
def names_of_machine() -> frozenset[str]:
    """Return the names of this machine, without asking a name server."""
    name = socket.gethostname().lower()
    names = {name, f"{name.partition('.')[0]}.local"}
    try:
        text = HOSTS_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset(names)
    for line in text.lower().splitlines():
        aliases = line.partition("#")[0].split()[1:]
        if name in aliases:
            names.update(aliases)
    return frozenset(names)


@functools.lru_cache
def configured(url: str, allowed_origins: tuple[str, ...]) -> tuple[str, ...]:
    """Return the hosts of a URL and of `allowed_origins`; the latter may be patterns."""
    hosts = [host_in(url)]
    for origin in allowed_origins:
        host = origin.lower().rpartition("://")[2].partition("/")[0]
        host = host.replace("[[]", "[")  # as `origins` writes IPv6
        if not host.startswith("["):
            host = host.partition(":")[0]
        hosts.append(host_of(host))
    return tuple(host for host in hosts if host)


def host_in(url: str) -> str:
    """Return the host of a URL as a browser sends it."""
    try:
        host = urlsplit(url).hostname or ""
        return host if host.isascii() else host.encode("idna").decode()
    except ValueError:
        return ""


def is_known(host: str, config: Any) -> bool:
    """Return whether the page may be asked for under a host's name."""
    if is_address(host) or is_loopback(host) or host in names_of_machine():
        return True
    origins = tuple(map(bytes2unicode, config.www.get("allowed_origins") or ()))
    known = configured(config.buildbotURL, origins)
    return any(fnmatch.fnmatchcase(host, each) for each in known)


def unknown_host(request: server.Request, config: Any) -> str | None:
    """Return the host of a request if the page must not be asked for under it, or None.

    A request without a host is not a browser's.  A change hook is sent to under any name: a browser
    says in a POST from which page it comes, and programs don't.
    """
    is_post = request.method == b"POST"
    if is_post and is_for_hook(request.uri) and request.getHeader("origin") is None:
        return None
    for header in request.requestHeaders.getRawHeaders("host") or ():
        host = host_of(header)
        if host and not is_known(host, config):
            return host
    return None


def is_for_hook(target: bytes) -> bool:
    """Return whether a request with this target, its path and query, is for a change hook."""
    return first_part(target) == b"change_hook"


def first_part(target: bytes) -> bytes:
    """Return the first part of the path in a target, by which the site finds its resource."""
    return unquote_to_bytes(target.partition(b"?")[0][1:].partition(b"/")[0])


def refusal(request: server.Request, master: Any) -> str:
    """Say why a request is refused, and what to write where."""
    header = request.getHeader("host") or ""
    usable = re.fullmatch(r"[A-Za-z0-9._-]{1,255}(:[0-9]{1,5})?", header)
    scheme = "https" if request.getHeader("x-forwarded-proto") == "https" else "http"
    url = f"{scheme}://{header if usable else 'ci.example.org'}/"
    now = master.config.buildbotURL
    in_toml = now == master.settings.web.public_url
    file, line = ("litebot.toml", f'[web]\n    url = "{url}"')
    if not in_toml:
        file, line = ("master.cfg", f'c["buildbotURL"] = "{url}"')
    return (
        f"This master is not known under the name {printable(header, 255)}.\n\n"
        f"If people reach it by that name, write into its {file}\n\n"
        f"    {line}\n\n"
        "and run: litebot reconfig\n\n"
        f"At present it has {now} there. Further names go into master.cfg, such as\n\n"
        f'    c["www"] = {{"allowed_origins": ["{now.rstrip("/")}", "{url.rstrip("/")}"]}}\n\n'
        "Behind a proxy, the proxy has to pass on the header Host as it came.\n"
    )
