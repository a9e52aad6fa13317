"""Buildbot's web server with safer cookies and origin checks, and with answers that are durable.

A request that may change something is answered only after what it changed is on disk.
"""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from buildbot.www import service
from buildbot.www import sse
from buildbot.www import ws
from buildbot.www.auth import build_anonymous_user_info
from twisted.python import log
from twisted.python.failure import Failure
from twisted.web import server

from litebot.files import open_private
from litebot.master.secrets.masker import MASK
from litebot.master.secrets.masker import mask_urls
from litebot.master.secrets.masker import masker
from litebot.master.web.allowed_origins import origins
from litebot.master.web.change_hook import ChangeHookResource
from litebot.permissions import make_private

# Parameters of a URL that hold secrets: of change hooks, and of logins by OAuth.
SECRET_PARAMETER = re.compile(
    r"([?&;](?:[\w.%-]*(?:token|secret|passw|api_?key|signature)[\w.%-]*|code|sig|auth|key)=)"
    r"[^\s&;\"]+",
    re.IGNORECASE,
)
# The methods whose requests change nothing.
SAFE_METHODS = (b"GET", b"HEAD", b"OPTIONS")


def same_origin(request: server.Request) -> bool:
    """Return whether a request comes from a page of this master, or has no Origin header.

    Compares host and port as the browser sees them, but not the scheme: a proxy in front of the
    master may speak TLS.
    """
    origin = request.getHeader("origin")
    host = request.getHeader("host")
    return origin is None or (host is not None and urlsplit(origin).netloc.lower() == host.lower())


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

    @property
    def may_have_session(self) -> bool:
        """Whether a session was made for it, or its cookies may belong to one."""
        return self._has_session or bool(self.received_cookies)

    def getSession(self, *args: Any, **kwargs: Any) -> Any:
        self._has_session = True
        return super().getSession(*args, **kwargs)

    def addCookie(self, *args: Any, **kwargs: Any) -> None:
        super().addCookie(*args, **{"httpOnly": True, "sameSite": "lax", **kwargs})

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


class Site(service.BuildbotSite):
    """Buildbot's, whose log (http.log) is for its owner alone and holds no secrets."""

    def _openLogFile(self, path: Any) -> Any:
        # Twisted makes the later ones with the mode of the first.
        os.close(open_private(path, os.O_WRONLY | os.O_CREAT))
        make_private(Path(path))
        return MaskedFile(super()._openLogFile(path))


class MaskedFile:
    """A log file of requests, to which secrets in their URLs and headers are not written."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(mask_urls(masker.mask(SECRET_PARAMETER.sub(r"\1" + MASK, line))))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


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
        assert self.site is not None
        self.site.__class__ = Site
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
