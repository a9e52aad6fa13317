"""What an address says about the login at its server, and where a project keeps its own."""

from __future__ import annotations

import re
from urllib.parse import unquote
from urllib.parse import urlsplit

from litebot.projects.addresses import is_ssh

# user@host:path, where the host may be an IPv6 address in brackets.
_SCP = re.compile(r"(?:[^@]*@)?(\[[^]]*\]|[^:]*):")
# Whom a server takes a token from if the address names nobody.
ANY_USER = "git"


def key_name(project: str) -> str:
    """Return the name of the secret with the deploy key that litebot makes for a project."""
    return f"project-{project}-key"


def is_http(address: str) -> bool:
    """Return whether git asks a server by HTTP or HTTPS, which may want a password."""
    return address.lower().startswith(("http://", "https://"))


def user_in(address: str) -> str:
    """Return the user whom an HTTP address names, or ANY_USER."""
    return unquote(urlsplit(address).username or ANY_USER)


def server_of(address: str) -> str:
    """Return the server of an address, with its port and without a user; "" for a folder."""
    if "://" not in address:
        found = _SCP.match(address) if is_ssh(address) else None
        return found[1].lower() if found else ""
    return urlsplit(address).netloc.rpartition("@")[2].lower()


def origin_of(address: str) -> str:
    """Return the part of an HTTP address for which a password is meant, as scheme://host:port."""
    return f"{urlsplit(address).scheme}://{server_of(address)}"
