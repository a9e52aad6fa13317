"""Buildbot's web server, particular about cookies, and about whose pages talk to it.

What it answers to a request that may have changed something is on disk before.
"""

from __future__ import annotations

import fnmatch
from typing import Any
from urllib.parse import urlsplit

from buildbot.www import service
from buildbot.www import sse
from buildbot.www import ws
from buildbot.www.auth import build_anonymous_user_info
from twisted.python import log
from twisted.python.failure import Failure
from twisted.web import server

from litebot.master.web.change_hook import ChangeHookResource
from litebot.master.web.origins import origins

SAFE_METHODS = (b"GET", b"HEAD", b"OPTIONS")


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
    """Keeps the answer to a request that may change something until it holds.

    Its cookies no script reads, and no form of another site sends along.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: list[bytes] = []
        self._status: tuple[int, bytes] | None = None
        self._has_gone = False
        self._has_session = False

    @property
    def is_known(self) -> bool:
        """Whether it belongs to a session, or may."""
        return self._has_session or bool(self.received_cookies)

    def getSession(self, *args: Any, **kwargs: Any) -> Any:
        self._has_session = True
        return super().getSession(*args, **kwargs)

    def addCookie(self, *args: Any, **kwargs: Any) -> None:
        super().addCookie(*args, **{"httpOnly": True, "sameSite": "lax", **kwargs})

    def write(self, data: bytes) -> Any:
        """Write, or keep for finish()."""
        if self.method in SAFE_METHODS:
            return super().write(data)
        if self._status is None:  # what is set later comes too late in Buildbot, too
            self._status = (self.code, self.code_message)
        self._kept.append(data)
        return None

    def finish(self) -> Any:
        """End the answer; of a request that may change something, when it is on disk."""
        if self.method in SAFE_METHODS:
            return super().finish()
        site: Any = self.site
        d = site.master.db.on_disk()
        d.addCallbacks(lambda _: self._answer(), self._refuse)
        d.addErrback(log.err, f"while answering {self.uri!r}")
        return None

    def connectionLost(self, reason: Failure) -> Any:
        """Nobody waits for the answer any more."""
        self._has_gone = True
        return super().connectionLost(reason)

    def _answer(self) -> None:
        if self._has_gone:
            return
        if self._status is not None:
            self.setResponseCode(*self._status)
        for data in self._kept:
            super().write(data)
        super().finish()

    def _refuse(self, _failure: Failure) -> None:
        self._kept = [b"the disk of the master has failed; it stops\n"]
        self.responseHeaders.removeHeader(b"content-length")
        self.setHeader(b"content-type", b"text/plain; charset=utf-8")
        self._status = (503, b"Service Unavailable")
        self._answer()


class WWWService(service.WWWService):
    """`master.www` of a litebot master."""

    def setupSite(self, new_config: Any) -> None:
        super().setupSite(new_config)
        self.root.putChild(b"sse", EventResource(self.master))
        self.root.putChild(b"ws", WsResource(self.master))
        hook = ChangeHookResource(self.master)
        told: tuple[Any, ...] = self.reconfigurableResources  # type: ignore[has-type]
        self.reconfigurableResources = (*told, hook)
        auth = new_config.www.get("change_hook_auth")
        child = hook if auth is None else self.setupProtectedResource(hook, auth)
        self.root.putChild(b"change_hook", child)
        assert self.site is not None
        self.site.requestFactory = Request

    def getUserInfos(self, request: Any) -> Any:
        """As Buildbot's, without beginning a session for somebody who only looks at something."""
        if getattr(request, "is_known", True):
            return super().getUserInfos(request)
        return build_anonymous_user_info()

    def assertUserAllowed(self, request: Any, ep: str, action: Any, options: dict[str, Any]) -> Any:
        """As Buildbot's; who may GET something may ask for its HEAD."""
        action = "GET" if action in ("HEAD", b"HEAD") else action
        return super().assertUserAllowed(request, ep, action, options)
