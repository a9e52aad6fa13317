"""Who may do what on the web page: everybody looks, admins act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from buildbot.www import auth
from buildbot.www import resource
from buildbot.www.authz import Authz
from buildbot.www.authz.endpointmatchers import AnyControlEndpointMatcher
from buildbot.www.authz.roles import RolesFromBase
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet import defer
from twisted.internet import threads
from twisted.python import log
from twisted.web.guard import HTTPAuthSessionWrapper
from twisted.web.resource import IResource

from litebot.errors import LitebotError
from litebot.users import UserFile

ADMIN_ROLE = "admin"


# Logins at a time: scrypt is slow on purpose, and the reactor's threads have other work to do.
LOGINS = 1


class FileUserInfo(auth.UserInfoProviderBase):
    """What a session knows of a user of a `users` file: also which password it began with."""

    def __init__(self, users: UserFile) -> None:
        self.users = users

    def getUserInfo(self, username: str) -> defer.Deferred[dict[str, str]]:
        info = {"email": username, "session": self.users.fingerprint(username) or ""}
        return defer.succeed(info)


def _back(master: Any, url: bytes) -> bytes:
    """Where Buildbot sends a visitor after /auth/login, by whatever name he reaches the page."""
    return b"../" + url.removeprefix(master.config.buildbotURL.encode())


class LoginResource(auth.PreAuthenticatedLoginResource):
    """The end of a login that went well."""

    @defer.inlineCallbacks
    def renderLogin(self, request: Any) -> Any:
        try:
            yield super().renderLogin(request)
        except resource.Redirect as redirect:
            raise resource.Redirect(_back(self.master, redirect.url)) from None


class LogoutResource(auth.LogoutResource):
    """The end of a session."""

    def render_GET(self, request: Any) -> bytes:
        body = super().render_GET(request)
        (url,) = request.responseHeaders.getRawHeaders(b"location")
        request.redirect(_back(self.master, url))
        return body


class Realm(auth.AuthRealm):
    """Gives those who are let in their LoginResource."""

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        return (IResource, LoginResource(self.master, avatarId), lambda: None)


class FileAuth(auth.CustomAuth):
    """Logs in the users of a basedir's `users` file; changes to it need no reconfig."""

    def __init__(self, path: Path, **kwargs: Any) -> None:
        self.users = UserFile(path)
        super().__init__(userInfoProvider=FileUserInfo(self.users), **kwargs)
        self._turn = defer.DeferredSemaphore(LOGINS)

    def getLoginResource(self) -> Any:
        portal = Portal(Realm(self.master, self), self.checkers)
        return HTTPAuthSessionWrapper(portal, self.credentialFactories)

    def getLogoutResource(self) -> Any:
        return LogoutResource(self.master)

    def check_credentials(self, username: bytes, password: bytes) -> bool:
        name = username.decode("utf-8", "replace")
        return self.users.verify(name, password.decode("utf-8", "replace")) is not None

    @defer.inlineCallbacks
    def requestAvatarId(self, cred: Any) -> Any:
        check = (self.check_credentials, cred.username, cred.password)
        if (yield self._turn.run(threads.deferToThread, *check)):
            return cred.username
        raise UnauthorizedLogin


class RolesFromUserFile(RolesFromBase):
    """Gives the users of a `users` file the role that stands there, as it stands there now.

    A session from before its user's password changed has none; nobody has one while the file
    can't be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.users = UserFile(path)

    def getRolesFromUser(self, userDetails: dict[str, Any]) -> list[str]:
        name = userDetails.get("username")
        if name is None:
            return []
        try:
            if self.users.fingerprint(name) != userDetails.get("session"):
                return []
            return [user.role for user in self.users.names() if user.name == name]
        except LitebotError as error:
            log.msg(f"litebot: {error.what}; nobody is an admin until it is mended")
            return []


class AdminIfLoggedIn(RolesFromBase):
    """Gives everybody whom the configured auth let in the role of an admin."""

    def getRolesFromUser(self, userDetails: dict[str, Any]) -> list[str]:
        return [] if userDetails.get("anonymous", False) else [ADMIN_ROLE]


def lists_its_users(configured: auth.AuthBase) -> bool:
    """Whether an auth lets in those only whom its configuration names, and no others."""
    return isinstance(configured, auth.TwistedICredAuthBase)


def admins_act(*roles: RolesFromBase) -> Authz:
    """Rules under which everybody may look and only admins, if any, may control anything."""
    return Authz(allowRules=[AnyControlEndpointMatcher(role=ADMIN_ROLE)], roleMatchers=[*roles])
