"""A client endpoint for Twisted that connects a worker to the first of several masters to answer.

    buildbot-worker create-worker --connection-string 'masters:ci1.example.org:ci2.example.org' ...

Each argument is HOST or HOST\\:PORT, with an IPv6 address in brackets.  `port=` is the port of the
hosts without one (9989 by default), and `tls=yes` is for all of them.  The name `masters` is
registered in twisted/plugins/litebot_masters.py.
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
# A master that accepts no connection within this time is skipped.
CONNECT_TIMEOUT_S = 3.0
# A master that ends a connection this early refuses the worker or is about to stop, so the next
# master is tried.
SHORT_CONNECTION_S = 10.0
# A master whose machine or network has failed does not close its connections.  With these options
# the worker ends such a connection after 6 s.
KEEPALIVE_OPTIONS = {
    "TCP_KEEPIDLE": 3,
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 6000,
}


def masters(reactor: Any, *places: str, port: str = str(PORT), tls: str = "no") -> Masters:
    """Return the endpoint of a parsed description.  Raises ValueError if that is malformed."""
    if not places:
        raise ValueError("masters: needs the host of a master, as in masters:ci1.example.org")
    if tls not in {"yes", "no"}:
        raise ValueError(f"tls={tls} must be yes or no")
    endpoints: list[Any] = []
    for place in places:
        host, number = address(place, int(port))
        tcp = HostnameEndpoint(reactor, host, number, timeout=CONNECT_TIMEOUT_S)
        endpoint: Any = KeepaliveEndpoint(tcp)
        if tls == "yes":
            endpoint = wrapClientTLS(optionsForClientTLS(host), endpoint)
        endpoints.append(endpoint)
    return Masters(reactor, endpoints, places)


def address(place: str, port: int) -> tuple[str, int]:
    """Split HOST, HOST:PORT, [IPv6] or [IPv6]:PORT; `port` is the default.  Raises ValueError."""
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        own = rest.removeprefix(":")
    else:
        host, _, own = place.partition(":")
    if not host or not (own or "0").isdecimal():
        raise ValueError(f"{place!r} is not HOST, HOST\\:PORT or [IPv6]\\:PORT")
    return host, int(own) if own else port


@implementer(IStreamClientEndpoint)
class KeepaliveEndpoint:
    """A TCP endpoint whose connections end soon after the other side has become unreachable."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    def connect(self, factory: Any) -> defer.Deferred[Any]:
        """Connect, and set the keepalive options; see IStreamClientEndpoint."""
        connecting: defer.Deferred[Any] = self._endpoint.connect(factory)
        return connecting.addCallback(self._set_keepalive)

    def _set_keepalive(self, protocol: Any) -> Any:
        handle = protocol.transport.getHandle()
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE_OPTIONS.items():
            if hasattr(socket, name):  # some systems lack some of them
                handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return protocol


@implementer(IStreamClientEndpoint)
class Masters:
    """Tries one endpoint after the other, starting with the one that connected last."""

    def __init__(self, reactor: Any, endpoints: Sequence[Any], names: Sequence[str]) -> None:
        self._reactor = reactor
        self._endpoints = endpoints
        self._names = names
        self._first_index = 0
        self._connected_at: float | None = None

    def connect(self, factory: Any) -> defer.Deferred[Any]:
        """Connect to the first master that answers; fails with the last error if none does."""
        return defer.Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        now = self._reactor.seconds()
        if self._connected_at is not None and now - self._connected_at < SHORT_CONNECTION_S:
            self._first_index += 1
        self._connected_at = None
        for tried in range(len(self._endpoints)):
            index = (self._first_index + tried) % len(self._endpoints)
            try:
                protocol = await self._endpoints[index].connect(factory)
            except defer.CancelledError:
                raise
            except Exception as error:
                log.msg(f"the master at {self._names[index]} does not answer: {error}")
                if tried + 1 == len(self._endpoints):
                    raise
            else:
                log.msg(f"connected to the master at {self._names[index]}")
                self._first_index, self._connected_at = index, self._reactor.seconds()
                _log_end_of_connection(protocol, self._names[index])
                return protocol
        raise AssertionError("there is no endpoint")


def _log_end_of_connection(protocol: Any, name: str) -> None:
    """Log why a connection ends.

    The worker does not log the reason, and a refusal by TLS may show only at the end.
    """
    lost = protocol.connectionLost

    def log_and_pass_on(reason: Failure) -> None:
        log.msg(f"the connection to the master at {name} has ended: {reason.getErrorMessage()}")
        lost(reason)

    protocol.connectionLost = log_and_pass_on
