"""Runs git on a repository that somebody names, with a time limit and without questions."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildbot.util import runprocess

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.files import open_private
from litebot.master.projects.logins import secret_files
from litebot.master.projects.logins.ssh import ssh_command
from litebot.master.secrets import file_secret
from litebot.projects.addresses import is_ssh
from litebot.projects.definition import Project
from litebot.projects.logins import is_http
from litebot.projects.logins import origin_of
from litebot.projects.logins import user_in

LINES_SHOWN = 4
# What git may speak; ext and the like run commands.
PROTOCOLS = "file:git:http:https:ssh"
UNATTENDED = {
    "GIT_ALLOW_PROTOCOL": PROTOCOLS,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    # What git has started to speak HTTP ends by itself where a server sends nothing.
    "GIT_HTTP_LOW_SPEED_LIMIT": "1",
    "GIT_HTTP_LOW_SPEED_TIME": "30",
    "LC_ALL": "C",
}
# GIT_SSH_COMMAND would count more than core.sshCommand.
ENVIRONMENT: dict[str, str | None] = {**UNATTENDED, "GIT_SSH_COMMAND": None}


class Unreachable(LitebotError):
    """git can't read a repository; the message has git's own words."""


async def run_git(
    reactor: Any, folder: Path | str, within_s: float, words: Sequence[str]
) -> tuple[bool, bytes, str]:
    """Run git in a folder; return whether it succeeded, what it printed, and why it failed."""
    running = runprocess.create_process(
        reactor,
        ["git", "-c", "core.hooksPath=/dev/null", *words],
        workdir=str(folder),
        env=ENVIRONMENT,
        runtime_timeout=within_s,
        collect_stdout=True,
        collect_stderr=True,
    )
    code, printed, said = await running.start()
    if code is None or code < 0:
        return False, printed, f"git did not answer within {within_s:g} s"
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    shown = " ".join(lines[-LINES_SHOWN:]) or "it said nothing"
    return code == 0, printed, f"git says: {shown}"


@dataclass(frozen=True)
class Login:
    """How git logs in: names of secrets, and the host key that is expected; each may be ""."""

    key: str = ""
    password: str = ""
    host_key: str = ""

    @classmethod
    def of(cls, project: Project) -> Login:
        """Return what a project says."""
        return cls(project.key, project.password, project.host_key)

    def options(self, files: Basedir, url: str, folder: Path) -> list[str]:
        """Return options of git; `folder` is private, and gets the files that they name.

        Raises LitebotError if a secret can't be used.
        """
        if not is_ssh(url):
            return list(self._of_http(files, url)) if is_http(url) and self.password else []
        key, known_hosts = None, None
        if self.key:
            secret_files.read_key(files, self.key)
            key = folder / "key"
            _write(key, f"{file_secret.read(files, self.key)}\n")
        if self.host_key:
            known_hosts = folder / "known_hosts"
            _write(known_hosts, f"* {self.host_key}\n")
        return ["-c", f"core.sshCommand={ssh_command(key, known_hosts)}"]

    def _of_http(self, files: Basedir, url: str) -> Iterator[str]:
        """Have git read the password from its file, for this server alone, and ask nobody else."""
        secret_files.read_password(files, self.password)
        path = shlex.quote(str(files.secrets / self.password))
        user = shlex.quote(user_in(url))
        answer = f'printf "username=%s\\npassword=%s\\n" {user} "$(tr -d "\\r\\n" < {path})"'
        yield from ("-c", "credential.helper=")
        yield "-c"
        yield f'credential.{origin_of(url)}.helper=!f() {{ test "$1" != get || {answer}; }}; f'


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", opener=open_private) as file:
        file.write(text)
