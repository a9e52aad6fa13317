"""Secrets that a configuration holds in clear, and not as util.Secret: they are masked, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from buildbot.config.master import MasterConfig

from litebot.master.secrets.masker import SHORTEST_PLAIN
from litebot.master.secrets.masker import URL_USER
from litebot.master.secrets.masker import mask_urls
from litebot.master.secrets.masker import masker

DEEPEST = 5


def learn_plain_secrets(config: MasterConfig) -> None:
    """Have the plain secrets of a configuration masked.

    They are what steps obfuscate, passwords in URLs (as a part of these), and secrets of hooks.
    """
    holders: list[Any] = [*config.change_sources, *config.services.values()]
    for builder in config.builders:
        for step in getattr(builder.factory, "steps", ()):
            holders += [getattr(step, "args", ()), getattr(step, "kwargs", {})]
    for holder in holders:
        for value in _values(holder if isinstance(holder, (dict, tuple)) else vars(holder)):
            if isinstance(value, tuple):
                masker.learn_obfuscated(value)
            else:
                _learn_url(value)
    dialects = config.www.get("change_hook_dialects")
    for name, options in dialects.items() if isinstance(dialects, dict) else ():
        secret = options.get("secret") if isinstance(options, dict) else None
        if isinstance(secret, str) and len(secret) >= SHORTEST_PLAIN:
            masker.learn(f"{name} secret", secret)


def _learn_url(text: str) -> None:
    for found in URL_USER.finditer(text):
        if (shown := mask_urls(f"://{found[0]}")[3:]) != found[0]:
            masker.learn("", found[0], shown=shown)


def _values(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the URLs with a user, and the obfuscated words, in nested lists and dicts."""
    if isinstance(value, str):
        if "://" in value and "@" in value:
            yield value
    elif depth > DEEPEST:
        return
    elif isinstance(value, tuple) and len(value) == 3 and value[0] == "obfuscated":
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _values(each, depth + 1)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _values(each, depth + 1)
