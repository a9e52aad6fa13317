"""Buildbot's REST API with its reads off the reactor: see `readers`."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

from buildbot.www import rest
from twisted.internet import defer
from twisted.python import threadable
from twisted.web import server

from litebot.master.readers import browsing
from litebot.master.web import same_origin


class GatheredRequest:
    """A request whose writes from a thread wait for the reactor's.

    Buildbot writes JSON from a thread, a token at a time, and Twisted's transports are not made
    for that: bytes get lost, and the visitor waits for ever.
    """

    def __init__(self, request: server.Request) -> None:
        self._request = request
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def write(self, data: bytes) -> None:
        """Write at once on the reactor's thread, keep what comes from another."""
        if threadable.isInIOThread():
            self._request.write(data)
        else:
            self._parts.append(data)

    def flush(self) -> None:
        """Write what was kept; on the reactor's thread."""
        if self._parts and not rest._is_request_finished(self._request):
            self._request.write(b"".join(self._parts))


class V2RootResource(rest.V2RootResource):
    """/api/v2: what a GET asks of the database is asked of a read-only connection."""

    def asyncRender(self, request: server.Request) -> Any:
        if same_origin(request):  # whatever name the master has for the visitor
            request.requestHeaders.removeHeader("origin")
        if request.method in (b"GET", b"HEAD"):
            return copy_context().run(self._browse, request)
        return super().asyncRender(request)

    @defer.inlineCallbacks
    def _browse(self, request: server.Request) -> Any:
        browsing.set(True)
        gathered = GatheredRequest(request)
        result = yield super().asyncRender(gathered)
        gathered.flush()
        return result


def register() -> None:
    """Serve this class as version 2 of the API; Buildbot keeps a registry for that."""
    rest.RestRootResource.addApiVersion(2, V2RootResource)
