"""Who may do what on the web page: everybody may look, and only admins may act."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from buildbot.util.twisted import async_to_deferred
from buildbot.www import auth
from buildbot.www import resource
from buildbot.www.authz import Authz
from buildbot.www.authz.endpointmatchers import AnyControlEndpointMatcher
from buildbot.www.authz.endpointmatchers import AnyEndpointMatcher
from buildbot.www.authz.roles import RolesFromBase
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import defer
from twisted.python import log
from twisted.web.resource import IResource

from litebot.errors import LitebotError
from litebot.master.web.logins import LimitedLogins
from litebot.master.web.logins import PasswordQueue
from litebot.master.web.oauth import OwnLoginResource
from litebot.master.web.oauth import is_oauth
from litebot.master.web.sessions import EndOfSession
from litebot.users import UserFile

ADMIN_ROLE = "admin"


def _is_current(users: UserFile, user_info: dict[str, Any]) -> bool:
    """Return whether a session began with the password that its user has at the moment."""
    name = user_info.get("username")
    try:
        current = None if name is None else users.fingerprint(name)
    except LitebotError as error:
        log.msg(f"litebot: {error.what}; nobody is an admin until this is fixed")
        return False
    return current is not None and current == user_info.get("session")


class FileUserInfo(auth.UserInfoProviderBase):
    """Puts a fingerprint of the user's password into a session, to notice when it changes."""

    def __init__(self, users: UserFile) -> None:
        self.users = users

    def getUserInfo(self, username: str) -> defer.Deferred[dict[str, str]]:
        info = {"email": username, "session": self.users.fingerprint(username) or ""}
        return defer.succeed(info)


def _relative_redirect(master: Any, url: bytes) -> bytes:
    """Make Buildbot's redirect from /auth/login or /auth/logout relative.

    Buildbot redirects to buildbotURL; a relative URL works under every name of the page's host.
    """
    return b"../" + url.removeprefix(master.config.buildbotURL.encode())


class LoginResource(auth.PreAuthenticatedLoginResource):
    """Completes a login whose password was right, with a relative redirect."""

    @defer.inlineCallbacks
    def renderLogin(self, request: Any) -> Any:
        try:
            yield super().renderLogin(request)
        except resource.Redirect as redirect:
            raise resource.Redirect(_relative_redirect(self.master, redirect.url)) from None


class LogoutResource(auth.LogoutResource):
    """Ends a session, with a relative redirect."""

    def render_GET(self, request: Any) -> bytes:
        body = super().render_GET(request)
        (url,) = request.responseHeaders.getRawHeaders(b"location")
        request.redirect(_relative_redirect(self.master, url))
        return body


class AuthRootResource(auth.AuthRootResource):
    """/auth, where a logout ends the session on the server too."""

    def getChild(self, path: bytes, request: Any) -> Any:
        """Return the resource of a login or a logout of the configured auth."""
        found = super().getChild(path, request)
        if path == b"logout":
            return EndOfSession(self.master, found)
        return OwnLoginResource(self.master, found) if is_oauth(found) else found


class Realm(auth.AuthRealm):
    """Gives a user whose password was right a LoginResource."""

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        return (IResource, LoginResource(self.master, avatarId), lambda: None)


class FileAuth(LimitedLogins, auth.CustomAuth):
    """Logs in the users of a basedir's `users` file; changes of the file need no reconfig."""

    realm = Realm

    def __init__(self, path: Path, **kwargs: Any) -> None:
        self.users = UserFile(path)
        self._passwords = PasswordQueue(lambda: self.master.reactor)
        # CustomAuth has no argument for the next class, so it is not LimitedLogins that calls it.
        auth.CustomAuth.__init__(self, userInfoProvider=FileUserInfo(self.users), **kwargs)

    def getLogoutResource(self) -> Any:
        return LogoutResource(self.master)

    def knows(self, user_info: dict[str, Any]) -> bool:
        """Return whether the user of a session still has the password with which it began.

        While the file can't be read, nobody has.
        """
        if user_info.get("anonymous", False):
            return True
        return _is_current(self.users, user_info)

    def check_credentials(self, username: bytes, password: bytes) -> bool:
        name = username.decode("utf-8", "replace")
        return self.users.verify(name, password.decode("utf-8", "replace")) is not None

    @async_to_deferred
    async def requestAvatarId(self, cred: Any) -> Any:
        """Check a name and a password; see PasswordQueue.  Raises UnauthorizedLogin."""
        try:
            is_known = self.users.fingerprint(cred.username.decode("utf-8", "replace")) is not None
            verify = functools.partial(self.check_credentials, cred.username, cred.password)
            if await self._passwords.run(cred, is_known, verify):
                return cred.username
        except LitebotError as error:
            self.master.refusals.note("logins without a readable file of users", error.what)
        raise UnauthorizedLogin


class RolesFromUserFile(RolesFromBase):
    """Gives the users of a `users` file the role that the file has for them at the moment.

    A session that began before its user's password changed has no role.  While the file can't be
    read, nobody has one.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.users = UserFile(path)

    def getRolesFromUser(self, userDetails: dict[str, Any]) -> list[str]:
        if not _is_current(self.users, userDetails):
            return []
        name = userDetails["username"]
        return [user.role for user in self.users.names() if user.name == name]


class AdminIfLoggedIn(RolesFromBase):
    """Gives everybody whom the configured auth has logged in the role of an admin."""

    def getRolesFromUser(self, userDetails: dict[str, Any]) -> list[str]:
        return [] if userDetails.get("anonymous", False) else [ADMIN_ROLE]


def lists_its_users(configured: auth.AuthBase) -> bool:
    """Return whether an auth logs in only users whom its configuration names."""
    return isinstance(configured, auth.TwistedICredAuthBase)


def admins_act(*roles: RolesFromBase) -> Authz:
    """Return rules by which everybody may look and only admins may control anything.

    `roles` say who is an admin; without any nobody is.
    """
    return Authz(allowRules=[AnyControlEndpointMatcher(role=ADMIN_ROLE)], roleMatchers=[*roles])


def missing_for_all_actions(authz: Any, user: dict[str, Any]) -> str | None:
    """Return the role without which `user` may not act at all; None if some action may be allowed.

    This can be told before an action is read only where the first rules are for all actions.
    """
    if type(authz) is not Authz:
        return None
    roles = authz.getRolesFromUser(user)
    for rule in authz.allowRules:
        if type(rule) not in (AnyEndpointMatcher, AnyControlEndpointMatcher):
            return None
        if any(authz.match(role, rule.role) for role in roles):
            return None
        if rule.defaultDeny:
            return str(rule.role)
    return None
