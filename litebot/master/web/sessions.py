"""Sessions in cookies: their names, whether they need TLS, and their end.

A session is a signed token in a cookie and is stored nowhere.  So one that is ended before its time
is noted in the database until its token expires.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import jwt
from buildbot.www import auth
from buildbot.www import resource
from twisted.internet import defer
from twisted.python import log
from twisted.web import server

from litebot.master.web.hosts import host_in
from litebot.master.web.hosts import host_of
from litebot.master.web.hosts import is_loopback
from litebot.master.web.hosts import port_of
from litebot.store.sql import Sql

# The names that Twisted and Buildbot look for, without TLS and with it.
TWISTEDS_NAMES = (b"TWISTED_SESSION", b"TWISTED_SECURE_SESSION")
# Under which object of Buildbot's table of states the ended sessions are.
OBJECT = ("ended sessions", "litebot.master.web.sessions.Sessions")
ENDED = ("sessions", None, "ended")


def arrived_by_tls(request: server.Request, url: str) -> bool:
    """Return whether the browser has certainly sent a request over TLS.

    That is if the master itself speaks TLS, or the browser asks for the host of an https `url`: a
    proxy in front of the master speaks TLS then.
    """
    asked, parts = request.getHeader("host") or "", urlsplit(url)
    is_same = host_of(asked) == host_in(url) and port_of(asked) in (None, 443, parts.port)
    return request.isSecure() or (parts.scheme == "https" and is_same)


def cookie_name(kind: bytes, request: server.Request, url: str) -> bytes:
    """Return the name of a cookie of this master, with the port of its `url`.

    Browsers send a cookie to all ports of a host, so masters on one host need different names.
    With `__Host-`, no other host and nobody without TLS can set it.
    Source: https://www.rfc-editor.org/rfc/rfc6265bis
    """
    parts = urlsplit(url)
    port = 443 if parts.scheme == "https" else 80
    with suppress(ValueError):  # the port may be none
        port = parts.port or port
    prefix = b"__Host-" if arrived_by_tls(request, url) else b""
    return b"%b%b_%d" % (prefix, kind, port)


def is_secure(request: server.Request, url: str) -> bool:
    """Return whether a browser may send a cookie back over TLS alone.

    A proxy may ask the master under a loopback name.  Without a proxy, browsers count that as safe.
    """
    if arrived_by_tls(request, url):
        return True
    host = host_of(request.getHeader("host") or "localhost")
    return urlsplit(url).scheme == "https" and is_loopback(host)


class Sessions:
    """Which sessions may still be used, on all masters of a database."""

    def __init__(self, master: Any) -> None:
        self._master = master
        self._expiry: dict[str, int] = {}  # of the tokens of ended sessions, by their digests
        self._consumer: Any = None

    @defer.inlineCallbacks
    def load(self) -> Any:
        """Read which sessions are ended, and follow what other masters end."""
        if self._consumer is None:
            self._consumer = yield self._master.mq.startConsuming(self._note, ENDED)
        objectid = yield self._master.db.state.getObjectId(*OBJECT)
        self._expiry.update((yield self._master.db.do_sql(_thd_load, objectid)))

    @defer.inlineCallbacks
    def end(self, request: server.Request) -> Any:
        """End the session of a request; fires once a power loss can't undo it."""
        token = _token(request)
        claims = None if token is None else self._claims(token)
        if token is None or claims is None or claims["user_info"].get("anonymous"):
            return
        digest, expires_at = _digest(token), int(claims["exp"])
        self._note(ENDED, {"digest": digest, "expires_at": expires_at})
        objectid = yield self._master.db.state.getObjectId(*OBJECT)
        yield self._master.db.do_sql(_thd_end, objectid, digest, expires_at, int(time.time()))
        message = {"digest": digest, "expires_at": expires_at}
        self._master.mq.produce(("sessions", digest, "ended"), message)
        yield self._master.db.on_disk()

    def admit(self, request: server.Request) -> None:
        """Leave in a request no cookie of a session but that of one that may still be used.

        It then has the names that Twisted and Buildbot look for.
        """
        cookies = request.received_cookies
        if not cookies:
            return
        url = self._master.config.buildbotURL
        token = cookies.pop(cookie_name(TWISTEDS_NAMES[0], request, url), None)
        for name in TWISTEDS_NAMES:
            cookies.pop(name, None)
            if token is not None and self._may_be_used(token):
                cookies[name] = token
        # Buildbot reads the cookies of a WebSocket from the header.
        header = b"; ".join(b"%b=%b" % pair for pair in cookies.items())
        request.requestHeaders.setRawHeaders(b"cookie", [header])

    def user_info(self, token: str | None) -> dict[str, Any]:
        """Return the user of the token in a session's cookie; nobody if it may not be used."""
        claims = self._claims(token) if token and self._may_be_used(token.encode()) else None
        return auth.build_anonymous_user_info() if claims is None else claims["user_info"]

    def with_id(self, token: str) -> str:
        """Return a token that differs from all others; two logins in a second have the same."""
        claims = self._claims(token)
        if claims is None:
            return token
        secret = self._master.www.site.session_secret
        claims["jti"] = secrets.token_urlsafe(12)
        return jwt.encode(claims, secret, algorithm=auth.SESSION_SECRET_ALGORITHM)

    def _may_be_used(self, token: bytes) -> bool:
        claims = self._claims(token)
        if claims is None or _digest(token) in self._expiry:
            return False
        knows = getattr(self._master.www.auth, "knows", None)
        return knows is None or bool(knows(claims["user_info"]))

    def _claims(self, token: bytes | str) -> dict[str, Any] | None:
        """Return what a token says, or None if it is not from here or has expired."""
        secret = self._master.www.site.session_secret
        try:
            claims: dict[str, Any] = jwt.decode(
                token, secret, algorithms=[auth.SESSION_SECRET_ALGORITHM]
            )
        except jwt.exceptions.ExpiredSignatureError:
            return None
        except Exception as error:  # of whatever a token can be made of
            self._master.refusals.note("session tokens of nobody", repr(error))
            return None
        return claims if isinstance(claims.get("user_info"), dict) else None

    def _note(self, _key: Any, message: dict[str, Any]) -> None:
        now = time.time()
        self._expiry = {each: at for each, at in self._expiry.items() if at > now}
        self._expiry[message["digest"]] = message["expires_at"]


def _token(request: server.Request) -> bytes | None:
    return request.getCookie(TWISTEDS_NAMES[request.isSecure()])


def _digest(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()


def _thd_load(sql: Sql, objectid: int) -> dict[str, int]:
    query = "SELECT name, value_json FROM object_state WHERE objectid = ?"
    return {digest: int(json.loads(value)) for digest, value in sql.rows(query, objectid)}


def _thd_end(sql: Sql, objectid: int, digest: str, expires_at: int, now: int) -> None:
    """Write that a session is ended, and forget those whose tokens have expired."""
    known = _thd_load(sql, objectid)
    for each in [each for each, at in known.items() if at < now]:
        sql.write("DELETE FROM object_state WHERE objectid = ? AND name = ?", objectid, each)
    sql.write(
        "INSERT INTO object_state (objectid, name, value_json) VALUES (?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        *(objectid, digest, json.dumps(expires_at)),
    )


class EndOfSession(resource.Resource):
    """Ends a session on the server, and then as the configured auth does, in the browser."""

    def __init__(self, master: Any, of_auth: Any) -> None:
        super().__init__(master)
        self._of_auth = of_auth

    def render(self, request: server.Request) -> Any:
        def log_out(_: object) -> None:
            if request.channel is not None:
                request.render(self._of_auth)

        d = self.master.www.sessions.end(request)
        d.addCallback(log_out)
        d.addErrback(request.processingFailed)
        d.addErrback(log.err, "while a session was ended")
        return server.NOT_DONE_YET
