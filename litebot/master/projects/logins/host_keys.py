"""The key by which the server of an SSH address is known again.

It is taken at the first look, confirmed by an admin, and kept with the project; from then on no
other is accepted.
"""

from __future__ import annotations

import os
import pwd
import shlex
import tempfile
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildbot.util import runprocess

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.master.projects.logins.git import Unreachable
from litebot.master.projects.logins.git import run_git
from litebot.master.projects.logins.ssh import QUIET
from litebot.master.projects.logins.ssh import joined
from litebot.master.projects.logins.ssh import only_known_in
from litebot.projects.addresses import shown
from litebot.projects.ssh_keys import fingerprint
from litebot.projects.ssh_keys import type_of

ANSWERS_WITHIN_S = 20
RSA = "ssh-rsa"
# The names of algorithms where they are not those of the types of keys.
ALGORITHMS = {RSA: "rsa-sha2-512,rsa-sha2-256,ssh-rsa"}
REVOKED = "@revoked"


@dataclass(frozen=True)
class HostKey:
    """The key that a server has shown: `host` is its name in known_hosts files.

    `known_in` is the file in which this machine knows the key already, or None.
    """

    host: str
    key: str
    fingerprint: str
    known_in: str | None = None


class OtherHostKey(LitebotError):
    """A server has shown another key than the one by which it is known."""


def known_hosts_files() -> list[Path]:
    """Return the files in which this machine and its user keep host keys."""
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    return [home / ".ssh" / "known_hosts", Path("/etc/ssh/ssh_known_hosts")]


async def host_key(reactor: Any, files: Basedir, url: str) -> HostKey:
    """Return the key that the server of an SSH address shows; nobody logs in for it.

    Raises Unreachable, and OtherHostKey if a known_hosts file of the machine says otherwise.
    """
    host, key = await _shown_by(reactor, files, url)
    found = HostKey(host, key, fingerprint(key))
    for place in known_hosts_files():
        if place.exists():
            found = compared(found, place, await _lines_on(reactor, host, place))
    return found


def compared(found: HostKey, place: Path, lines: Iterable[str]) -> HostKey:
    """Compare a key with the lines that a known_hosts file has on its host.

    Return it with the file, if the file has it.  Raises OtherHostKey if it has another one of the
    type, or says that this one was revoked.
    """
    known = list(_entries(lines))
    is_revoked = (REVOKED, found.key) in known
    if not is_revoked and ("", found.key) in known:
        return replace(found, known_in=str(place))
    kind = type_of(found.key)
    others = [key for marker, key in known if not marker and type_of(key) == kind]
    if not is_revoked and not others:
        return found
    says = "says that it was revoked" if is_revoked else f"has {fingerprint(others[0])}"
    raise OtherHostKey(
        f"{found.host} shows the {kind} key {found.fingerprint}, and {place} {says}: it was"
        " changed, or somebody is in between",
        "if its admins say that it was changed: ssh-keygen -R"
        f" {shlex.quote(found.host)} -f {shlex.quote(str(place))}",
    )


async def changed(
    reactor: Any, files: Basedir, url: str, key: str, remedy: str
) -> OtherHostKey | None:
    """Return an error, with a remedy, if the server of an SSH address shows another key, else None.

    Returns None also if it can't be asked.
    """
    try:
        try:
            host, now = await _shown_by(reactor, files, url, type_of(key))
        except Unreachable:  # it may have no key of this type any more
            host, now = await _shown_by(reactor, files, url)
    except Unreachable:
        return None
    if now == key:
        return None
    return OtherHostKey(
        f"{host} shows the {type_of(now)} key {fingerprint(now)}, and not the {type_of(key)} key"
        f" {fingerprint(key)}: it was changed, or somebody is in between",
        f"if its admins say that it was changed: {remedy}",
    )


async def _shown_by(
    reactor: Any, files: Basedir, url: str, only_type: str | None = None
) -> tuple[str, str]:
    """Return the name of a server and the key that it shows.  Raises Unreachable."""
    with tempfile.TemporaryDirectory(dir=files.path, prefix=".look-") as place:
        known_hosts = Path(place, "known_hosts")
        options = [*QUIET, *only_known_in(known_hosts), "StrictHostKeyChecking=accept-new"]
        options += ["PreferredAuthentications=none"]
        if only_type is not None:
            options.append(f"HostKeyAlgorithms={ALGORITHMS.get(only_type, only_type)}")
        ssh = f"core.sshCommand={joined(['ssh'], options)}"
        words = ["-c", ssh, "ls-remote", "--", url, "HEAD"]
        _, _, said = await run_git(reactor, place, ANSWERS_WITHIN_S, words)
        lines = known_hosts.read_text(encoding="utf-8") if known_hosts.exists() else ""
    for line in lines.splitlines():
        names, kind, key, *_ = line.split(" ")
        return names.split(",")[0], f"{kind} {key}"
    raise Unreachable(f"the server of {shown(url)} can't be asked for its key: {said}")


async def _lines_on(reactor: Any, host: str, place: Path) -> list[str]:
    """Return the lines of a known_hosts file on a host, whose name may be hashed there."""
    command = ["ssh-keygen", "-F", host, "-f", str(place)]
    _, printed = await runprocess.run_process(
        reactor, command, runtime_timeout=ANSWERS_WITHIN_S, collect_stderr=False
    )
    return printed.decode("utf-8", "replace").splitlines()


def _entries(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the marker, such as @revoked, or "", and the key of each line."""
    for line in lines:
        words = line.split()
        marker = words.pop(0) if line.startswith("@") else ""
        if not line.startswith("#") and len(words) >= 3:
            yield marker, f"{words[1]} {words[2]}"
