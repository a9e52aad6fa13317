"""TCP ports: how Buildbot describes them, and whether they are free."""

from __future__ import annotations

from typing import Any

from buildbot.config.master import MasterConfig
from twisted.internet.endpoints import serverFromString

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.process import command_of
from litebot.process import pids_listening
from litebot.process import port_is_free
from litebot.settings import Settings

# How many connections the system keeps that the master has not accepted yet.  With Twisted's 50 a
# visitor who comes with a crowd may be forgotten, and tries again only after a second.
BACKLOG = 511
EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 (only compared with)


def endpoint(address: str, port: int) -> str:
    """Return the Twisted endpoint description of a TCP port on one address."""
    if ":" in address:
        escaped = address.replace(":", r"\:")
        return f"tcp6:{port}:interface={escaped}:backlog={BACKLOG}"
    return f"tcp:{port}:interface={address}:backlog={BACKLOG}"


def address_of(description: Any) -> tuple[str, int] | None:
    """Return the address and port of a description that Buildbot accepts as a port.

    Returns None if it is not a TCP port.
    """
    if description is None:
        return None
    text = str(description)
    if text.isdigit():
        return (EVERY_ADDRESS[0], int(text))
    try:
        from twisted.internet import reactor

        found = serverFromString(reactor, text)
    except ValueError:
        return None  # Buildbot reports what is wrong with it
    port, interface = getattr(found, "_port", None), getattr(found, "_interface", "")
    return (interface or EVERY_ADDRESS[0], port) if isinstance(port, int) else None


def configured_ports(config: MasterConfig) -> list[tuple[Any, str]]:
    """Return the ports of a configuration, each with its section of litebot.toml.

    A port is described as in the configuration; see address_of.
    """
    workers = [(options.get("port"), "workers") for options in config.protocols.values()]
    return [(config.www["port"], "web"), *workers]


def require_free(description: Any, section: str, settings: Settings, files: Basedir) -> None:
    """Raise LitebotError, with the pid, if another process listens on a port.

    `section` is the section of litebot.toml that sets the port unless master.cfg does.
    """
    found = address_of(description)
    if found is None or found[1] == 0 or port_is_free(*found):
        return
    address, port = found
    pids = pids_listening(port)
    who = ", ".join(f"pid {pid} ({command_of(pid)})" for pid in pids) or "another user's process"
    ours = settings.web if section == "web" else settings.workers
    is_ours = description == endpoint(ours.listen, ours.port)
    place = f"under [{section}] in {files.settings_file}" if is_ours else f"in {files.config_file}"
    raise LitebotError(f"port {port} on {address} is taken by {who}", f"set another port {place}")
