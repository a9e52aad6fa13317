"""Secrets of projects: files in the folder `secrets` of the basedir, whatever master.cfg says.

They are read when they are needed, so that a new one needs no reconfig.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from buildbot.interfaces import IRenderable
from zope.interface import implementer

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.master.secrets.folder import Unusable
from litebot.master.secrets.folder import secret_in
from litebot.master.secrets.masker import masker


@implementer(IRenderable)
@dataclass(frozen=True)
class FileSecret:
    """What Buildbot's Secret is, for a file in the folder: equal ones have equal names."""

    name: str

    def getRenderingFor(self, properties: Any) -> str:
        """Return the secret, and keep it out of logs.  Raises LitebotError."""
        value = read(properties.master.files, self.name)
        properties.useSecret(value, self.name)
        return value


def read(files: Basedir, name: str) -> str:
    """Return a secret, and keep it out of logs.  Raises LitebotError if it can't be used."""
    path = files.secrets / name
    if not path.is_file():
        folder = shlex.quote(str(files.secrets))
        raise LitebotError(
            f"there is no secret {name}: {path} does not exist",
            f"mkdir -p -m 700 {folder}; (umask 077; cat > {shlex.quote(str(path))})",
        )
    try:
        value = secret_in(path)
    except Unusable as error:
        raise LitebotError(f"{path} can't be used as a secret: {error}") from error
    if not value:
        raise LitebotError(f"the secret {path} is empty")
    masker.learn(name, value)
    return value
