"""Registers `masters:` in Twisted as the prefix of a client endpoint's description."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IStreamClientEndpointStringParserWithReactor
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class Parser:
    """Parses descriptions that start with `masters:`.

    Every program that looks for plugins imports this module, so it stays small.
    """

    prefix = "masters"

    @staticmethod
    def parseStreamClient(reactor: Any, *args: str, **kwargs: str) -> Any:
        """Return the endpoint; see litebot.contrib.masters.masters."""
        from litebot.contrib.masters import masters

        return masters(reactor, *args, **kwargs)


parser = Parser()
