"""Buildbot's web server, particular about cookies and about whose pages talk to it."""

from __future__ import annotations

import fnmatch
from typing import Any
from urllib.parse import urlsplit

from buildbot.www import service
from buildbot.www import sse
from buildbot.www import ws
from twisted.web import server

from litebot.master.ports import origins


def same_origin(request: server.Request) -> bool:
    """Whether the page that a browser asks for is the one that it shows, or no browser asks.

    By host and port as the browser has them: what stands before the master may speak TLS.
    """
    origin = request.getHeader("origin")
    host = request.getHeader("host")
    return origin is None or (host is not None and urlsplit(origin).netloc.lower() == host.lower())


def allowed_origin(request: server.Request, master: Any) -> bool:
    """As same_origin, or a page of `allowed_origins` in c["www"]."""
    origin = (request.getHeader("origin") or "").lower()
    allowed = master.config.www.get("allowed_origins") or origins(master.config.buildbotURL)
    return same_origin(request) or any(fnmatch.fnmatch(origin, o.lower()) for o in allowed)


def _refuse(request: server.Request) -> bytes:
    request.setResponseCode(403)
    return b"invalid origin"


class EventResource(sse.EventResource):
    """/sse, for the pages of this master."""

    def render(self, request: server.Request) -> Any:
        return super().render(request) if allowed_origin(request, self.master) else _refuse(request)


class WsResource(ws.WsResource):
    """/ws, for the pages of this master."""

    def __init__(self, master: Any) -> None:
        super().__init__(master)
        self.master = master

    def render(self, request: server.Request) -> Any:
        return super().render(request) if allowed_origin(request, self.master) else _refuse(request)


class Request(server.Request):
    """A request whose cookies no script reads, and no form of another site sends along."""

    def addCookie(self, *args: Any, **kwargs: Any) -> None:
        super().addCookie(*args, **{"httpOnly": True, "sameSite": "lax", **kwargs})


class WWWService(service.WWWService):
    """`master.www` of a litebot master."""

    def setupSite(self, new_config: Any) -> None:
        super().setupSite(new_config)
        self.root.putChild(b"sse", EventResource(self.master))
        self.root.putChild(b"ws", WsResource(self.master))
        assert self.site is not None
        self.site.requestFactory = Request

    def assertUserAllowed(self, request: Any, ep: str, action: Any, options: dict[str, Any]) -> Any:
        """As Buildbot's; who may GET something may ask for its HEAD."""
        action = "GET" if action in ("HEAD", b"HEAD") else action
        return super().assertUserAllowed(request, ep, action, options)
