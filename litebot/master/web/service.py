"""Buildbot's web server with safer cookies and origin checks, and with answers that are durable.

A request that may change something is answered only after what it changed is on disk.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from buildbot.www import service
from buildbot.www import sse
from buildbot.www import ws
from buildbot.www.auth import build_anonymous_user_info
from twisted.python import log
from twisted.python.failure import Failure
from twisted.web import server

from litebot.master.web import forms
from litebot.master.web.allowed_origins import origins
from litebot.master.web.change_hook import ChangeHookResource
from litebot.master.web.door import Channel
from litebot.master.web.door import Site
from litebot.master.web.door import under_hook

# The methods whose requests change nothing.
SAFE_METHODS = (b"GET", b"HEAD", b"OPTIONS")
# How the names of the cookies begin that hold the token of a session.
SESSION_COOKIES = (b"TWISTED_SESSION", b"TWISTED_SECURE_SESSION")
# Forms that are larger are read for change hooks only.  Plugins of the page have their own.
SMALL_FORM_BYTES = 1 << 14
# More ranges of a file than a browser or a download manager asks for at once.
MOST_RANGES = 8


def same_origin(request: server.Request) -> bool:
    """Return whether a request comes from a page of this master, or has no Origin header.

    Compares host and port as the browser sees them, but not the scheme: a proxy in front of the
    master may speak TLS.
    """
    origin = request.getHeader("origin")
    host = request.getHeader("host")
    if origin is None:
        return True
    try:
        return host is not None and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False  # it is no URL, such as http://[


def allowed_origin(request: server.Request, master: Any) -> bool:
    """Return whether a request is `same_origin`, or from one of `allowed_origins` in c["www"]."""
    origin = (request.getHeader("origin") or "").lower()
    allowed = master.config.www.get("allowed_origins") or origins(master.config.buildbotURL)
    return same_origin(request) or any(fnmatch.fnmatch(origin, o.lower()) for o in allowed)


def _refuse(request: server.Request) -> bytes:
    request.setResponseCode(403)
    return b"invalid origin"


class EventResource(sse.EventResource):
    """/sse, refused to pages of other sites."""

    def render(self, request: server.Request) -> Any:
        return super().render(request) if allowed_origin(request, self.master) else _refuse(request)


class WsResource(ws.WsResource):
    """/ws, refused to pages of other sites."""

    def __init__(self, master: Any) -> None:
        super().__init__(master)
        self.master = master

    def render(self, request: server.Request) -> Any:
        return super().render(request) if allowed_origin(request, self.master) else _refuse(request)


class Request(server.Request):
    """A request whose answer, if it may change something, is sent once the change is on disk.

    Its cookies are HttpOnly, so no script can read them, and SameSite=Lax, so the forms of other
    sites don't send them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._delayed_body: list[bytes] = []
        self._status: tuple[int, bytes] | None = None
        self._is_disconnected = False
        self._has_session = False
        self._content_types: Sequence[bytes] | None = None

    @property
    def may_have_session(self) -> bool:
        """Whether a session was made for it, or its cookies may belong to one."""
        return self._has_session or bool(self.received_cookies)

    def getSession(self, *args: Any, **kwargs: Any) -> Any:
        self._has_session = True
        return super().getSession(*args, **kwargs)

    def addCookie(self, *args: Any, **kwargs: Any) -> None:
        super().addCookie(*args, **{"httpOnly": True, "sameSite": "lax", **kwargs})

    def handleContentChunk(self, data: bytes) -> None:
        channel: Channel = self.channel  # type: ignore[assignment]
        if not channel.takes(len(data)):
            return
        try:
            super().handleContentChunk(data)
        except OSError as error:
            text = "the master has no room for the body on its disk"
            channel.refuse(503, "bodies without room on the disk", text, str(error))

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Begin to answer.  Keeps Twisted from reading a form that nobody may ask for."""
        self._content_types = self.requestHeaders.getRawHeaders(b"content-type")
        self.requestHeaders.removeHeader(b"content-type")
        super().requestReceived(command, path, version)

    def process(self) -> None:
        channel: Any = self.channel
        if self._content_types is not None:
            self.requestHeaders.setRawHeaders(b"content-type", self._content_types)
        self._drop_broken_sessions()
        if (self.getHeader(b"range") or b"").count(b",") >= MOST_RANGES:
            self.requestHeaders.removeHeader(b"range")
        if self.method == b"POST" and not under_hook(self.uri):
            try:
                self.read_form(SMALL_FORM_BYTES)
            except ValueError as error:
                self.site = channel.site
                self.setResponseCode(400)
                self.setHeader(b"content-type", b"text/plain; charset=utf-8")
                self.write(f"{error}\n".encode())
                self.finish()
                return
        super().process()

    def _drop_broken_sessions(self) -> None:
        """Drop cookies with tokens that Buildbot would log a traceback for, and ignore."""
        channel: Any = self.channel
        sessions = {k: v for k, v in self.received_cookies.items() if k.startswith(SESSION_COOKIES)}
        broken = [name for name, token in sessions.items() if not channel.site.is_session(token)]
        for name in broken:
            del self.received_cookies[name]
        if broken:
            left = b"; ".join(k + b"=" + v for k, v in self.received_cookies.items())
            self.requestHeaders.setRawHeaders(b"cookie", [left] if left else [])

    def read_form(self, largest: int) -> None:
        """Add the values of a form in the body to `args`, if there is one that is not larger.

        Raises ValueError if the form is malformed.
        """
        kind = self.getHeader(b"content-type")
        if kind is None or forms.kind_of(kind) is None or self.body_size() > largest:
            return
        assert self.content is not None
        body = self.content.read()
        self.content.seek(0)
        if body:
            self.args = {**(self.args or {}), **forms.parse(kind, body)}

    def body_size(self) -> int:
        """How many bytes the body has."""
        assert self.content is not None
        self.content.seek(0, os.SEEK_END)
        size = self.content.tell()
        self.content.seek(0)
        return size

    def write(self, data: bytes) -> Any:
        """Send `data`, or keep it for finish() if the request may change something."""
        if self.method in SAFE_METHODS:
            return super().write(data)
        # The status is fixed at the first write; Buildbot sends it then, too.
        if self._status is None:
            self._status = (self.code, self.code_message)
        self._delayed_body.append(data)
        return None

    def finish(self) -> Any:
        """End the answer; if the request may change something, after the change is on disk."""
        if self.method in SAFE_METHODS:
            return super().finish()
        site: Any = self.site
        d = site.master.db.on_disk()
        d.addCallbacks(lambda _: self._send(), self._send_disk_failure)
        d.addErrback(log.err, f"while answering {self.uri!r}")
        return None

    def connectionLost(self, reason: Failure) -> Any:
        """Note that nobody waits for the answer any more."""
        self._is_disconnected = True
        return super().connectionLost(reason)

    def _send(self) -> None:
        if self._is_disconnected:
            return
        if self._status is not None:
            self.setResponseCode(*self._status)
        for data in self._delayed_body:
            super().write(data)
        super().finish()

    def _send_disk_failure(self, _failure: Failure) -> None:
        self._delayed_body = [b"the disk of the master has failed; the master stops\n"]
        self.responseHeaders.removeHeader(b"content-length")
        self.setHeader(b"content-type", b"text/plain; charset=utf-8")
        self._status = (503, b"Service Unavailable")
        self._send()


class WWWService(service.WWWService):
    """`master.www` of a litebot master."""

    def setupSite(self, new_config: Any) -> None:
        super().setupSite(new_config)
        self.root.putChild(b"sse", EventResource(self.master))
        self.root.putChild(b"ws", WsResource(self.master))
        hook = ChangeHookResource(self.master)
        resources: tuple[Any, ...] = self.reconfigurableResources  # type: ignore[has-type]
        self.reconfigurableResources = (*resources, hook)
        auth = new_config.www.get("change_hook_auth")
        child = hook if auth is None else self.setupProtectedResource(hook, auth)
        self.root.putChild(b"change_hook", child)
        site: Any = self.site  # type: ignore[has-type]
        self.site = Site(site, self.master)
        self.site.requestFactory = Request

    def getUserInfos(self, request: Any) -> Any:
        """Return the user of a request, without making a session for a request that has none."""
        if getattr(request, "may_have_session", True):
            return super().getUserInfos(request)
        return build_anonymous_user_info()

    def assertUserAllowed(self, request: Any, ep: str, action: Any, options: dict[str, Any]) -> Any:
        """Check as Buildbot does, with a HEAD allowed to everybody who may GET the same."""
        action = "GET" if action in ("HEAD", b"HEAD") else action
        return super().assertUserAllowed(request, ep, action, options)
