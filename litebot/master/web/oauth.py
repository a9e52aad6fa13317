"""Logins by OAuth: few at a time, and each ends in the browser in which it began.

Each takes a thread, of which reads need some.  And a page of another site could log its visitors in
as somebody else, by sending them to the end of a login of its own.
Source: https://www.rfc-editor.org/rfc/rfc6749#section-10.12
"""

from __future__ import annotations

import hmac
import secrets
import sys
from typing import Any
from urllib.parse import parse_qs
from urllib.parse import parse_qsl
from urllib.parse import urlencode
from urllib.parse import urlsplit

from buildbot.util.twisted import async_to_deferred
from buildbot.www import auth
from buildbot.www import resource
from twisted.internet import defer
from twisted.web.error import Error

from litebot.master.web.sessions import arrived_by_tls
from litebot.master.web.sessions import cookie_name

COOKIE = b"LITEBOT_LOGIN"
LOGIN_S = 3600  # how long a user may take at the other site
# Codes that are looked up at the same time, and that wait for it.
AT_A_TIME = 2
MOST_WAITING = 20


def is_oauth(login: Any) -> bool:
    """Return whether a resource is that of a login by OAuth."""
    # Importing the module needs a package that litebot does not require.
    module = sys.modules.get("buildbot.www.oauth2")
    return module is not None and isinstance(login, module.OAuth2LoginResource)


class OwnLoginResource(auth.LoginResource):
    """Does as a login by OAuth does, with a secret of the browser in the state of the login."""

    def __init__(self, master: Any, login: Any) -> None:
        super().__init__(master)
        self._login = login

    def render_POST(self, request: Any) -> Any:
        return self.render_GET(request)

    @defer.inlineCallbacks
    def renderLogin(self, request: Any) -> Any:
        """Send the browser to the other site, or complete its login when it comes back."""
        name = cookie_name(COOKIE, request, self.master.config.buildbotURL)
        if request.args.get(b"code", [b""])[0]:
            self._require_own_login(request, request.getCookie(name) or b"")
            yield self._login.renderLogin(request)
            return
        # Logins that begin in several tabs have the same secret.
        secret = (request.getCookie(name) or secrets.token_urlsafe(18).encode()).decode()
        # Some sites send the browser back by a form.
        same_site = "none" if arrived_by_tls(request, self.master.config.buildbotURL) else "lax"
        request.addCookie(name, secret, path=b"/", max_age=str(LOGIN_S), sameSite=same_site)
        try:
            yield self._login.renderLogin(request)
        except resource.Redirect as redirect:
            raise resource.Redirect(_with_secret(redirect.url.decode(), secret)) from None

    def _require_own_login(self, request: Any, secret: bytes) -> None:
        state = parse_qs(request.args.get(b"state", [b""])[0])
        given = state.get(b"secret", [b""])[0]
        if not secret or not hmac.compare_digest(secret, given):
            url = self.master.config.buildbotURL
            raise Error(403, f"this login did not begin at {url}: open it and log in".encode())


def _with_secret(url: str, secret: str) -> str:
    """Return the address of the other site with a secret in its parameter `state`."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    state = dict(parse_qsl(query.get("state", "")))
    query["state"] = urlencode({**state, "secret": secret})
    return parts._replace(query=urlencode(sorted(query.items()))).geturl()


class LimitedOAuth(auth.AuthBase):
    """Put before the class of an OAuth, looks up few codes at the same time."""

    @async_to_deferred
    async def verifyCode(self, code: bytes) -> Any:
        codes: defer.DeferredSemaphore = self.__dict__.setdefault(
            "_codes", defer.DeferredSemaphore(AT_A_TIME)
        )
        if len(codes.waiting) >= MOST_WAITING:
            self.master.refusals.note("too many logins by OAuth")
            raise Error(429, b"too many logins; try again in a few seconds")
        try:
            return await codes.run(super().verifyCode, code)
        except Error:
            raise
        except Exception as error:
            self.master.refusals.note("failed login by OAuth", f"{type(error).__name__}: {error}")
            raise Error(502, b"the login has failed; the log of the master says why") from error
