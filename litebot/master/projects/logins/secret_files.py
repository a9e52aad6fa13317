"""Which secrets a project may name, before it is saved."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.master.secrets.file_secret import read
from litebot.projects.definition import Project
from litebot.projects.logins import key_name
from litebot.projects.ssh_keys import NoKey
from litebot.projects.ssh_keys import public_half


def read_key(files: Basedir, name: str) -> str:
    """Return the public half of the private key in a secret.  Raises LitebotError."""
    path = files.secrets / name
    try:
        return public_half(read(files, name))
    except NoKey as error:
        quoted = shlex.quote(str(path))
        raise LitebotError(
            f"{path}: {error.what}",
            f"ssh-keygen -p -P PASSPHRASE -N '' -f {quoted}  # also writes the format anew",
        ) from error


def read_password(files: Basedir, name: str) -> str:
    """Return the password in a secret.  Raises LitebotError."""
    value = read(files, name)
    if len(value.splitlines()) > 1:
        raise LitebotError(
            f"{files.secrets / name} has several lines, and a password has one",
            "name the file with the password or token alone",
        )
    return value


def require(files: Basedir, project: Project, before: Project | None = None) -> None:
    """Raise LitebotError if the key or password of a project, if it is new, can't be used.

    So one that got lost does not keep anybody from changing something else.  A secret that is only
    granted is missed by the build that asks for it.
    """
    for key, name in _named(project):
        if before is not None and (key, name) in _named(before):
            continue
        try:
            _READ[key](files, name)
        except LitebotError as error:
            hint = error.hint
            if name == key_name(project.name) and not (files.secrets / name).exists():
                hint = f"litebot project key {project.name} {files.quoted}"
            raise LitebotError(f"project {project.name}: {key}: {error.what}", hint) from error


_READ = {"key": read_key, "password": read_password}


def _named(project: Project) -> Iterator[tuple[str, str]]:
    if project.key:
        yield "key", project.key
    if project.password:
        yield "password", project.password
