"""Whose pages a browser may let talk to the master: the Origin headers of its own page."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def origins(url: str) -> list[str]:
    """The Origin headers that a browser sends for a page at `url`.

    A loopback address has several names and people type all of them.  There are none for what is
    no URL, which Buildbot accepts as its own.
    """
    try:
        parts = urlsplit(url)
        host, suffix = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        return []
    hosts = {host}
    if host == "localhost" or _is_loopback(host):
        hosts |= {"localhost", "127.0.0.1", "::1"}
    shown = (f"[[]{name}]" if ":" in name else name for name in sorted(hosts))
    return [f"{parts.scheme}://{name}{suffix}" for name in shown]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
