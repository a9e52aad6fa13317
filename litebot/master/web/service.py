"""Buildbot's web server with safer cookies and origin checks, and with answers that are durable.

A request that may change something is answered only after what it changed is on disk.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from collections.abc import Sequence
from contextvars import copy_context
from typing import Any
from typing import NoReturn
from urllib.parse import urlsplit

from buildbot.www import service
from buildbot.www.auth import build_anonymous_user_info
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.error import UnsupportedMethod
from twisted.web.resource import Resource

from litebot.master.db.read_pool import ReadSnapshot
from litebot.master.limits.addresses import address_of
from litebot.master.runtime.visitor_log import for_visitor
from litebot.master.web import events
from litebot.master.web import forms
from litebot.master.web import headers
from litebot.master.web import hosts
from litebot.master.web import sessions
from litebot.master.web.allowed_origins import origins
from litebot.master.web.auth import AuthRootResource
from litebot.master.web.avatars import AvatarResource
from litebot.master.web.change_hook import ChangeHookResource
from litebot.master.web.door import Channel
from litebot.master.web.door import Site
from litebot.master.web.logins import Logins
from litebot.master.web.subscriptions import Subscriptions

# The methods whose requests change nothing.
SAFE_METHODS = (b"GET", b"HEAD", b"OPTIONS")
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


def comes_from_foreign_page(request: server.Request, master: Any) -> bool:
    """Return whether a browser says that a page of another site has it send this request."""
    if request.getHeader("origin") is not None:
        return not allowed_origin(request, master)
    return request.getHeader("sec-fetch-site") in ("cross-site", "same-site")


def _refuse(request: server.Request) -> bytes:
    request.setResponseCode(403)
    return b"invalid origin"


class EventResource(events.EventResource):
    """/sse, refused to pages of other sites."""

    def render(self, request: server.Request) -> Any:
        return super().render(request) if allowed_origin(request, self.master) else _refuse(request)


class WsResource(events.WsResource):
    """/ws, refused to pages of other sites."""

    def __init__(self, master: Any, subscriptions: Subscriptions) -> None:
        super().__init__(master, subscriptions)
        self.master = master

    def render(self, request: server.Request) -> Any:
        if (request.getHeader("upgrade") or "").lower() != "websocket" or request.method != b"GET":
            # The library would answer it, without the headers of other answers.
            request.setResponseCode(426)
            request.setHeader(b"upgrade", b"websocket")
            request.setHeader(b"content-type", b"text/plain; charset=utf-8")
            return b"this is for WebSockets"
        return super().render(request) if allowed_origin(request, self.master) else _refuse(request)


class _Unreadable(Resource):
    """Answers 405."""

    def render(self, request: server.Request) -> NoReturn:
        raise UnsupportedMethod([])


def _lacks_get(resource: Any) -> bool:
    """Return whether Twisted would look for a render_GET that a resource does not have."""
    kind = type(resource)
    return (
        getattr(kind, "render", None) is Resource.render
        and kind.render_HEAD is Resource.render_HEAD
        and not hasattr(resource, "render_GET")
    )


class Request(server.Request):
    """A request whose answer, if it may change something, is sent once the change is on disk.

    It is refused if the host that it names is not this master.  Its cookies are HttpOnly, so no
    script can read them, SameSite=Lax, so the forms of other sites don't send them, and Secure
    where the page is read over TLS.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.snapshot = ReadSnapshot()  # for what its answer reads, if that is of one moment
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

    def process(self) -> None:
        """Answer the request when it is its turn, unless it is for a host that is not this master.

        What is logged meanwhile is cut.
        """
        channel: Any = self.channel
        self.site = channel.site
        context = copy_context()
        context.run(for_visitor.set, True)
        address = address_of(self.getClientAddress())
        pool = channel.site.master.db.pool
        pool.dispatch(lambda: context.run(self._answer), address, self.snapshot)

    def _answer(self) -> None:
        if self._is_disconnected:
            return
        try:
            self._process()
        except Exception:
            self.processingFailed(Failure())

    def _process(self) -> None:
        site: Any = self.site
        master = site.master
        if self._content_types is not None:
            self.requestHeaders.setRawHeaders(b"content-type", self._content_types)
        headers.protect(self)
        if (host := hosts.unknown_host(self, master.config)) is not None:
            asked_by = getattr(self.getClientAddress(), "host", "a Unix socket")
            master.refusals.note("unknown host", f"{host}, asked for by {asked_by}")
            self._refuse(421, b"Misdirected Request", hosts.refusal(self, master))
            return
        if hosts.is_for_hook(self.uri) and comes_from_foreign_page(self, master):
            master.refusals.note("hook from a page", f"{self.getHeader('origin')}")
            self._refuse(403, b"Forbidden", "a page of another site must not send to this hook")
            return
        if (self.getHeader(b"range") or b"").count(b",") >= MOST_RANGES:
            self.requestHeaders.removeHeader(b"range")
        if self.method == b"POST" and not hosts.is_for_hook(self.uri):
            try:
                self.read_form(SMALL_FORM_BYTES)
            except ValueError as error:
                self._refuse(400, b"Bad Request", f"{error}\n")
                return
        master.www.sessions.admit(self)
        super().process()

    def render(self, resrc: Any) -> None:
        """Do as Twisted does; what can't be read with GET can't be with HEAD either."""
        if self.method == b"HEAD" and _lacks_get(resrc):
            resrc = _Unreadable()
        super().render(resrc)

    def _refuse(self, code: int, message: bytes, reason: str) -> None:
        self.setResponseCode(code, message)
        self.setHeader(b"content-type", b"text/plain; charset=utf-8")
        body = reason.encode()
        self.setHeader(b"content-length", b"%d" % len(body))
        self.write(b"" if self.method == b"HEAD" else body)
        self.finish()

    def addCookie(self, k: Any, v: Any, *args: Any, **kwargs: Any) -> None:
        """Set a cookie; that of a session gets the name that `sessions` reads."""
        site: Any = self.site
        url = site.master.config.buildbotURL
        kwargs = {"httpOnly": True, "sameSite": "lax", **kwargs}
        if k in sessions.TWISTEDS_NAMES:
            k = sessions.cookie_name(sessions.TWISTEDS_NAMES[0], self, url)
            v = site.master.www.sessions.with_id(v)
        kwargs["secure"] = kwargs.get("secure") or sessions.is_secure(self, url)
        super().addCookie(k, v, *args, **kwargs)

    def redirect(self, url: bytes) -> None:
        """Redirect; a login or a logout that began at one of litebot's pages leads back there.

        Buildbot takes all addresses that it leads back to for such as its page has after the #.
        """
        before, is_ours, path = url.partition(b"#/litebot/")
        super().redirect(before + b"litebot/" + path if is_ours else url)

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
            # Resources that answer later may not have noticed that the visitor is gone.
            return None if self._is_disconnected else super().finish()
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


class Hooks(Resource):
    """/change_hook: hooks of other parts, by the next part of the path, and Buildbot's.

    The others check their senders themselves, whatever login Buildbot's ask for.
    """

    def __init__(self, buildbots: Any, others: Mapping[bytes, Any]) -> None:
        super().__init__()
        self._buildbots = buildbots
        for name, hook in others.items():
            self.putChild(name, hook)

    def getChild(self, path: bytes, request: Any) -> Any:
        return self._buildbots.getChildWithDefault(path, request)

    def render(self, request: Any) -> Any:
        return self._buildbots.render(request)


class WWWService(service.WWWService):
    """`master.www` of a litebot master.

    `children` are what other parts add to the root of the web port, by the first part of the path;
    `hooks` the same for /change_hook, by the second part.
    """

    def __init__(
        self,
        children: Mapping[bytes, Resource] | None = None,
        hooks: Mapping[bytes, Any] | None = None,
    ) -> None:
        super().__init__()
        self._children = dict(children or {})
        self._hooks = dict(hooks or {})

    def setupSite(self, new_config: Any) -> None:
        self.logins = Logins(self.master)
        super().setupSite(new_config)
        self.sessions = sessions.Sessions(self.master)
        index = headers.IndexResource(self.master, self.apps.get(self.base_plugin_name).static_dir)
        self.root.putChild(b"", index)
        self.root.putChild(b"auth", AuthRootResource(self.master))
        pictures = AvatarResource(self.master)
        self.root.putChild(b"avatar", pictures)
        subscriptions = Subscriptions(self.master)
        self.root.putChild(b"sse", EventResource(self.master, subscriptions))
        self.root.putChild(b"ws", WsResource(self.master, subscriptions))
        for name, child in self._children.items():
            self.root.putChild(name, child)
        self._hook = ChangeHookResource(self.master)
        resources: tuple[Any, ...] = self.reconfigurableResources  # type: ignore[has-type]
        self.reconfigurableResources = (*resources, self._hook, index, pictures)
        site: Any = self.site  # type: ignore[has-type]
        self.site = Site(site, self.master)
        self.site.requestFactory = Request

    def reconfigSite(self, new_config: Any) -> None:
        """Do as Buildbot does, and require the logins for hooks that are configured now."""
        super().reconfigSite(new_config)
        checkers = new_config.www.get("change_hook_auth")
        hook: Any = self._hook
        if checkers is not None:
            hook = self.setupProtectedResource(hook, checkers)
        self.root.putChild(b"change_hook", Hooks(hook, self._hooks))

    @defer.inlineCallbacks
    def makeSessionSecret(self) -> Any:
        """Get the key of sessions, and those that are ended."""
        yield super().makeSessionSecret()
        yield self.sessions.load()

    def getUserInfos(self, request: Any) -> Any:
        """Return the user of a request, without making a session for a request that has none."""
        if getattr(request, "may_have_session", True):
            return super().getUserInfos(request)
        return build_anonymous_user_info()

    def assertUserAllowed(self, request: Any, ep: str, action: Any, options: dict[str, Any]) -> Any:
        """Check as Buildbot does, with a HEAD allowed to everybody who may GET the same."""
        action = "GET" if action in ("HEAD", b"HEAD") else action
        return super().assertUserAllowed(request, ep, action, options)
