"""The provider of the secrets in a basedir's folder `secrets`, one a file.

The folder may be the user's own, with files that are no secrets.  So nothing in it is an error: a
file that can't be a secret is left out, and a note says why.
"""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from buildbot.secrets.providers.file import SecretInAFile

OTHERS = 0o007  # as Buildbot's provider: the group may read a secret
LARGEST_BYTES = 1024 * 1024


class FolderSecrets(SecretInAFile):
    """Buildbot's provider, without the files of which `unusable_files` tells."""

    def checkSecretDirectoryIsAvailableAndReadable(self, dirname: str, suffixes: list[str]) -> None:
        """Accept any folder."""

    def loadSecrets(self, dirname: str, suffixes: list[str], strip: bool) -> dict[str, str]:
        """Return the secrets that can be used, by their names, without newlines at their ends."""
        self.folder = Path(dirname)
        return {path.name: text.rstrip("\r\n") for path, text in usable_files(Path(dirname))}

    def get(self, entry: str) -> str | None:
        """Return a secret as its file has it now: one that was added or changed counts at once."""
        path = self.folder / entry
        if Path(entry).name != entry or not path.is_file():
            return None
        with suppress(Unusable):
            return secret_in(path)
        return None


def usable_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a folder that can be secrets, with their texts."""
    for path in _files(folder):
        if isinstance(found := _read(path), str):
            yield path, found


def unusable_files(folder: Path) -> Iterator[str]:
    """Yield a note on each file of a folder that can't be a secret, with its path and a remedy."""
    for path in _files(folder):
        if isinstance(found := _read(path), Unusable):
            yield f"{path} is not used as a secret: {found}"


class Unusable(Exception):
    """Why a file can't be a secret, and what to do about it."""


def secret_in(path: Path) -> str:
    """Return the secret in a file, without newlines at its end.  Raises Unusable."""
    found = _read(path)
    if isinstance(found, Unusable):
        raise found
    return found.rstrip("\r\n")


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return []  # it is none, or not to be read


def _read(path: Path) -> str | Unusable:
    name = shlex.quote(str(path))
    try:
        status = path.stat()
        if status.st_mode & OTHERS:
            mode = stat.S_IMODE(status.st_mode)
            return Unusable(f"others can read it (mode {mode:04o}); chmod 600 {name}")
        if status.st_size > LARGEST_BYTES:
            return Unusable(f"it has more than {LARGEST_BYTES} bytes; mv {name} elsewhere")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        return Unusable(f"{error.strerror}; let the master's user read it")
    except ValueError:
        return Unusable("it is not UTF-8; encode it, as with base64")
