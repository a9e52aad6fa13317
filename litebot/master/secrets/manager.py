"""Buildbot's manager of secrets, which has each value masked that a provider gives or holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from buildbot.secrets import manager
from twisted.internet import defer

from litebot.master.secrets.folder import usable_files
from litebot.master.secrets.masker import masker
from litebot.master.secrets.spellings import SHORTEST


class SecretManager(manager.SecretManager):
    """`master.secrets_manager` of a litebot master."""

    @defer.inlineCallbacks
    def setup(self) -> Any:
        yield super().setup()
        self._learn_files()

    @defer.inlineCallbacks
    def reconfigServiceWithBuildbotConfig(self, new_config: Any) -> Any:
        yield super().reconfigServiceWithBuildbotConfig(new_config)
        self._learn_files()

    def _learn_files(self) -> None:
        """Learn what providers have read from files: master.cfg may have used it by itself."""
        for provider in self.services:
            values = getattr(provider, "secrets", None)
            if isinstance(values, dict):
                for name, value in values.items():
                    if isinstance(value, str):
                        masker.learn(str(name), value)

    @defer.inlineCallbacks
    def get(self, secret: Any, *args: Any, **kwargs: Any) -> Any:
        """Return a secret's details, or None, as Buildbot does."""
        found = yield super().get(secret, *args, **kwargs)
        if found is not None and isinstance(found.value, str):
            masker.learn(str(secret), found.value)
        return found


def learn_folder(folder: Path) -> Iterator[str]:
    """Learn the secrets in a folder, one a file; yield notes on those too short to be masked.

    Leaves out files that can't be secrets; see `folder.unusable_files`.
    """
    for path, text in usable_files(folder):
        value = text.strip()
        if 0 < len(value) < SHORTEST:
            yield (
                f"the secret {path} has fewer than {SHORTEST} characters, so logs can't be kept"
                " free of it; make it longer"
            )
        masker.learn(path.name, value)
