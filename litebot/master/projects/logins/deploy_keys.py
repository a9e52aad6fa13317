"""The SSH key of a project, which its repository takes as a deploy key."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from buildbot.util import runprocess

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.files import locked
from litebot.files import replace_file
from litebot.master.projects.logins import secret_files
from litebot.projects.addresses import check_name
from litebot.projects.definition import Project
from litebot.projects.logins import key_name
from litebot.projects.ssh_keys import NoKey
from litebot.projects.ssh_keys import public_half

MADE_WITHIN_S = 20
LINES_SHOWN = 3
PRIVATE_FOLDER = 0o700
PRIVATE = 0o600


async def make(
    reactor: Any, files: Basedir, project: str, *, anew: bool = False
) -> tuple[str, bool]:
    """Return the name of the secret with a project's deploy key, and whether it was made now.

    It is made if there is none, and with `anew` it is replaced.  The project need not exist yet.
    Raises LitebotError.
    """
    check_name(project)
    name = key_name(project)
    path = files.secrets / name
    is_missing = anew or not path.exists()
    if is_missing:
        _make_folder(files)
        text = await _generated(reactor, files, project)
        with locked(files.secrets):
            if anew or not path.exists():
                replace_file(path, text, new_mode=PRIVATE)
    secret_files.read_key(files, name)
    return name, is_missing


def public_key(files: Basedir, project: Project) -> str | None:
    """Return the public half of a project's key, or None if it has none that can be used."""
    if not project.key:
        return None
    try:
        return described(secret_files.read_key(files, project.key), project.name)
    except LitebotError:
        return None


def described(public: str, project: str) -> str:
    """Return a public key with a comment that says whose it is."""
    return f"{public} litebot-{project}"


def _make_folder(files: Basedir) -> None:
    try:
        files.secrets.mkdir(mode=PRIVATE_FOLDER)
    except FileExistsError:
        return
    except OSError as error:
        raise LitebotError(f"{files.secrets} can't be made: {error.strerror}") from error
    if os.geteuid() == 0:
        owner = files.path.stat()
        os.chown(files.secrets, owner.st_uid, owner.st_gid)


async def _generated(reactor: Any, files: Basedir, project: str) -> str:
    """Return a new private key.  Raises LitebotError."""
    with tempfile.TemporaryDirectory(dir=files.path, prefix=".key-") as place:
        path = Path(place, "key")
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"litebot-{project}"]
        code, said = await runprocess.run_process(
            reactor,
            [*command, "-f", str(path)],
            runtime_timeout=MADE_WITHIN_S,
            collect_stdout=False,
        )
        try:
            text = path.read_text(encoding="ascii")
            public_half(text)
        except (OSError, NoKey) as error:
            lines = said.decode("utf-8", "replace").split("\n")
            words = " ".join(lines[-LINES_SHOWN:]).strip() or f"it exited with {code}"
            raise LitebotError(
                f"ssh-keygen has made no key: {words}", "apt install openssh-client"
            ) from error
    return text
