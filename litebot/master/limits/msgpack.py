"""Buildbot's manager of workers over WebSocket, with limits until a connection has logged in."""

from __future__ import annotations

import functools
from typing import Any

from autobahn.websocket.types import ConnectionDeny
from buildbot.util.twisted import async_to_deferred
from buildbot.worker.protocols.manager import msgpack as manager

from litebot.master.limits.worker_logins import LimitedLogin
from litebot.master.limits.worker_logins import WorkerLogins


class Protocol(LimitedLogin, manager.BuildbotWebSocketServerProtocol):
    """A connection of a worker, which has to begin with a login in its headers."""

    # Buildbot logs each message, and each connection, whoever makes it.
    debug = False
    most_bytes = 16 * 1024

    @async_to_deferred
    async def onConnect(self, request: Any) -> Any:
        """Check the login as Buildbot does; a wrong one is counted, and the next has to wait."""
        try:
            name, _ = manager.decode_http_authorization_header(request.headers["authorization"])
        except (KeyError, ValueError):
            name = ""
        await self.worker_logins.may_try(self, name)
        self.waits = True
        try:
            await super().onConnect(request)
        except ConnectionDeny:
            self.worker_logins.failed(self, name)
            raise
        finally:
            self.waits = False
        self.worker_logins.succeeded(self, name)


class Dispatcher(manager.Dispatcher):
    """A port for workers over WebSocket, with limits until a connection has logged in."""

    def __init__(self, logins: WorkerLogins, config_portstr: Any, portstr: str) -> None:
        super().__init__(config_portstr, portstr)
        self.serverFactory.protocol = functools.partial(_protocol, logins)
        # The limits have a timeout of their own.
        self.serverFactory.setProtocolOptions(openHandshakeTimeout=0)


def _protocol(logins: WorkerLogins) -> Protocol:
    protocol = Protocol()
    protocol.worker_logins = logins
    return protocol


class MsgManager(manager.MsgManager):
    """`master.msgmanager` of a litebot master."""

    def __init__(self, logins: WorkerLogins) -> None:
        super().__init__()
        self.dispatcher_class = functools.partial(Dispatcher, logins)
