"""A worker's way to the first of several masters that takes it: a client endpoint of Twisted's.

    buildbot-worker create-worker --connection-string 'masters:ci1.example.org:ci2.example.org' ...

Each argument is HOST or HOST\\:PORT; `port=` (9989) is that of all others, `tls=yes` is for all.
An IPv6 address stands in brackets.  twisted/plugins/litebot_masters.py makes the name known.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet import defer
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer

PORT = 9989
# A master that takes no connection within this time is passed over.
CONNECT_S = 3.0
# One that ends a connection so early does not want this worker, or is about to stop.
BRIEF_S = 10.0
# A master whose machine or network has gone says nothing: the worker lets go of it after 6 s.
ALIVE = {
    "TCP_KEEPIDLE": 3,
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 6000,
}


def masters(reactor: Any, *places: str, port: str = str(PORT), tls: str = "no") -> Masters:
    """The endpoint that such a description means.  Raises ValueError."""
    if not places:
        raise ValueError("masters: needs the host of a master, as in masters:ci1.example.org")
    if tls not in {"yes", "no"}:
        raise ValueError(f"tls={tls} must be yes or no")
    endpoints: list[Any] = []
    for place in places:
        host, number = address(place, int(port))
        endpoint: Any = Watched(HostnameEndpoint(reactor, host, number, timeout=CONNECT_S))
        if tls == "yes":
            endpoint = wrapClientTLS(optionsForClientTLS(host), endpoint)
        endpoints.append(endpoint)
    return Masters(reactor, endpoints, places)


def address(place: str, port: int) -> tuple[str, int]:
    """Host and port of HOST, HOST:PORT, [IPv6] or [IPv6]:PORT.  Raises ValueError."""
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        own = rest.removeprefix(":")
    else:
        host, _, own = place.partition(":")
    if not host or not (own or "0").isdecimal():
        raise ValueError(f"{place!r} is not HOST, HOST\\:PORT or [IPv6]\\:PORT")
    return host, int(own) if own else port


@implementer(IStreamClientEndpoint)
class Watched:
    """A TCP endpoint whose connections end soon after the other side has vanished."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    def connect(self, factory: Any) -> defer.Deferred[Any]:
        """As IStreamClientEndpoint's."""
        connecting: defer.Deferred[Any] = self._endpoint.connect(factory)
        return connecting.addCallback(self._watch)

    def _watch(self, protocol: Any) -> Any:
        handle = protocol.transport.getHandle()
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in ALIVE.items():
            if hasattr(socket, name):  # not every system has all of them
                handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return protocol


@implementer(IStreamClientEndpoint)
class Masters:
    """Tries one endpoint after the other, beginning with the one that has taken it last."""

    def __init__(self, reactor: Any, endpoints: Sequence[Any], names: Sequence[str]) -> None:
        self._reactor = reactor
        self._endpoints = endpoints
        self._names = names
        self._at = 0
        self._since: float | None = None

    def connect(self, factory: Any) -> defer.Deferred[Any]:
        """Connect to the first that takes it; fails with the last error where none does."""
        return defer.Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        now = self._reactor.seconds()
        if self._since is not None and now - self._since < BRIEF_S:
            self._at += 1
        self._since = None
        for tried in range(len(self._endpoints)):
            at = (self._at + tried) % len(self._endpoints)
            try:
                protocol = await self._endpoints[at].connect(factory)
            except defer.CancelledError:
                raise
            except Exception as error:
                log.msg(f"the master at {self._names[at]} does not answer: {error}")
                if tried + 1 == len(self._endpoints):
                    raise
            else:
                log.msg(f"connected to the master at {self._names[at]}")
                self._at, self._since = at, self._reactor.seconds()
                _tell_of_its_end(protocol, self._names[at])
                return protocol
        raise AssertionError("there is no endpoint")


def _tell_of_its_end(protocol: Any, name: str) -> None:
    """Log why a connection ends: what asked for it does not, and TLS may be refused only then."""
    lost = protocol.connectionLost

    def tell(reason: Failure) -> None:
        log.msg(f"the connection to the master at {name} has ended: {reason.getErrorMessage()}")
        lost(reason)

    protocol.connectionLost = tell
