"""Who may do what on the web page: everybody looks, admins act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from buildbot.www import auth
from buildbot.www.authz import Authz
from buildbot.www.authz.endpointmatchers import AnyControlEndpointMatcher
from buildbot.www.authz.roles import RolesFromBase
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import defer
from twisted.internet import threads

from litebot.users import UserFile

ADMIN = "admin"


class FileAuth(auth.CustomAuth):
    """Logs in the users of a basedir's `users` file; changes to it need no reconfig."""

    def __init__(self, path: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.users = UserFile(path)

    def check_credentials(self, username: bytes, password: bytes) -> bool:
        name = username.decode("utf-8", "replace")
        return self.users.verify(name, password.decode("utf-8", "replace")) is not None

    @defer.inlineCallbacks
    def requestAvatarId(self, cred: Any) -> Any:
        # In a thread: scrypt is slow on purpose.
        if (yield threads.deferToThread(self.check_credentials, cred.username, cred.password)):
            return cred.username
        raise UnauthorizedLogin


class RolesFromUserFile(RolesFromBase):
    """Gives the users of a `users` file the role that stands there, as it stands there now."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.users = UserFile(path)

    def getRolesFromUser(self, userDetails: dict[str, Any]) -> list[str]:
        name = userDetails.get("username")
        return [user.role for user in self.users.names() if user.name == name]


class AdminIfLoggedIn(RolesFromBase):
    """Gives everybody whom the configured auth let in the role of an admin."""

    def getRolesFromUser(self, userDetails: dict[str, Any]) -> list[str]:
        return [] if userDetails.get("anonymous", False) else [ADMIN]


def admins_act(roles: RolesFromBase) -> Authz:
    """Rules under which everybody may look and only admins may control anything."""
    return Authz(allowRules=[AnyControlEndpointMatcher(role=ADMIN)], roleMatchers=[roles])
