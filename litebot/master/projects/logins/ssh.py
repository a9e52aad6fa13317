"""How ssh is run for a project: with its own key alone, and for one key of the host alone."""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import Any

# Nobody is there to answer a question, and a connection of somebody else's proves nothing.
QUIET = ("BatchMode=yes", "ConnectTimeout=10", "ControlPath=none")
NO_FILE = "/dev/null"


def ssh_command(key: PurePath | str | None, known_hosts: PurePath | str | None) -> str:
    """Return a GIT_SSH_COMMAND that uses this private key and trusts these host keys.

    Without either, ssh does as its user has configured it.
    """
    options = list(QUIET)
    if known_hosts is not None:
        options += ["StrictHostKeyChecking=yes", *only_known_in(known_hosts)]
    words = ["ssh"]
    if key is not None:
        options += ["IdentitiesOnly=yes", "PreferredAuthentications=publickey"]
        words += ["-i", _without_tokens(key)]
    return joined(words, options)


def only_known_in(known_hosts: PurePath | str) -> list[str]:
    """Return options by which ssh knows the host keys of this file alone."""
    return [
        f'UserKnownHostsFile="{_without_tokens(known_hosts)}"',
        f"GlobalKnownHostsFile={NO_FILE}",
        "CheckHostIP=no",
        "HashKnownHosts=no",
        "UpdateHostKeys=no",
    ]


def joined(words: list[str], options: list[str]) -> str:
    """Return a command of a shell, with options of ssh."""
    return shlex.join([*words, *(word for option in options for word in ("-o", option))])


def _without_tokens(path: PurePath | str) -> str:
    """Return a path as ssh reads it: it replaces %h and the like."""
    return str(path).replace("%", "%%")


class StrictSsh:
    """Has Buildbot's GitPoller and Git use `ssh_command`.

    Buildbot's own command offers all keys of its user, too, and trusts all hosts that the machine
    knows.
    """

    def adjustCommandParamsForSshPrivateKey(
        self,
        command: list[str],
        env: dict[str, Any],
        keyPath: str,
        sshWrapperPath: str | None = None,
        knownHostsPath: str | None = None,
    ) -> None:
        """Set the variable by which git takes its ssh; it counts more than any configuration."""
        env["GIT_SSH_COMMAND"] = ssh_command(keyPath, knownHostsPath)
