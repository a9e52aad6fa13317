"""The cookie of a session: whose it is, without a line in the log for each invalid one."""

from __future__ import annotations

from typing import Any

import jwt
from buildbot.www import auth


def user_info_of(token: str | None, secret: str) -> dict[str, Any]:
    """Return the user of a session's cookie, or nobody if there is none or it is not valid.

    Source: buildbot/www/auth.py, parse_user_info_from_token, which logs each invalid one.
    """
    found = _decoded(token, secret) if token else None
    return auth.build_anonymous_user_info() if found is None else found


def drop_invalid_cookies(request: Any, secret: str) -> None:
    """Take the cookies that are no valid session's from a request, before Buildbot reads them."""
    for name, token in list(request.received_cookies.items()):
        is_session = name.startswith((b"TWISTED_SESSION", b"TWISTED_SECURE_SESSION"))
        if is_session and _decoded(token.decode("latin-1"), secret) is None:
            del request.received_cookies[name]


def _decoded(token: str, secret: str) -> dict[str, Any] | None:
    try:
        claims = jwt.decode(token, secret, algorithms=[auth.SESSION_SECRET_ALGORITHM])
    except (jwt.exceptions.PyJWTError, ValueError):
        return None
    user_info = claims.get("user_info")
    return user_info if isinstance(user_info, dict) else None
