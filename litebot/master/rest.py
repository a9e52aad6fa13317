"""Buildbot's REST API with its reads off the reactor: see `readers`."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

from buildbot.www import rest
from twisted.web import server

from litebot.master.readers import browsing


class V2RootResource(rest.V2RootResource):
    """/api/v2: what a GET asks of the database is asked of a read-only connection."""

    def asyncRender(self, request: server.Request) -> Any:
        if request.method in (b"GET", b"HEAD"):
            return copy_context().run(self._browse, request)
        return super().asyncRender(request)

    def _browse(self, request: server.Request) -> Any:
        browsing.set(True)
        return super().asyncRender(request)


def register() -> None:
    """Serve this class as version 2 of the API; Buildbot keeps a registry for that."""
    rest.RestRootResource.addApiVersion(2, V2RootResource)
