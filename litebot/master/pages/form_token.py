"""The token in a form: it shows that the form is from a page that this master gave to this browser.

A page of another site can have a browser send a form, with its cookies.  It can't know the token,
which is made with the site's secret of a cookie that no script can read, and of the user's name.
The cookie is not that of the session: where everybody may act, there is none.
Source: https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any

from litebot.master.web.sessions import cookie_name

COOKIE = b"LITEBOT_FORM"
FIELD = "token"


def token_of(request: Any, master: Any, user: str) -> str:
    """Return the token for the forms of a page; gives the browser the cookie if it has none."""
    name = cookie_name(COOKIE, request, master.config.buildbotURL)
    cookie = request.getCookie(name)
    if not cookie:
        cookie = secrets.token_urlsafe(18).encode()
        request.addCookie(name, cookie, path=b"/")
    return _token(master, cookie, user)


def is_right(request: Any, master: Any, user: str, given: str) -> bool:
    """Return whether a token is the one that this browser got for forms of this user."""
    cookie = request.getCookie(cookie_name(COOKIE, request, master.config.buildbotURL))
    if not cookie:
        return False
    return hmac.compare_digest(_token(master, cookie, user).encode(), given.encode())


def _token(master: Any, cookie: bytes, user: str) -> str:
    key = b"litebot's forms " + master.www.site.session_secret.encode()
    return hmac.new(key, cookie + b"\0" + user.encode(), hashlib.sha256).hexdigest()
