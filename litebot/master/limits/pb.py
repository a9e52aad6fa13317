"""Buildbot's manager of PB connections, with limits until a connection has logged in."""

from __future__ import annotations

import functools
from typing import Any

from buildbot.process.properties import Properties
from buildbot.util import bytes2unicode
from buildbot.util import unicode2bytes
from buildbot.util.eventual import eventually
from buildbot.util.twisted import async_to_deferred
from buildbot.worker.protocols.manager import pb as manager
from twisted.cred.error import UnauthorizedLogin
from twisted.spread import pb

from litebot.master.limits.worker_logins import LONGEST_NAME
from litebot.master.limits.worker_logins import LimitedLogin
from litebot.master.limits.worker_logins import WorkerLogins

# How deep the lists of a message of a login are nested, and one more.
MOST_DEPTH = 4


class WrongLogin(UnauthorizedLogin, pb.Error):
    """A wrong name or password, which PB tells the peer without a traceback in the log."""


# Clients look at the name of the class.
WrongLogin.__module__ = UnauthorizedLogin.__module__
WrongLogin.__name__ = UnauthorizedLogin.__name__


class Broker(LimitedLogin, pb.Broker):  # type: ignore[misc]
    """A PB connection, which has to begin with a login.

    Source: twisted/spread/pb.py, PBClientFactory.login and _PortalWrapper
    """

    def is_unusual(self) -> bool:
        """Return whether lists are nested deeper than those of a login."""
        return len(self.listStack) > MOST_DEPTH

    def callExpressionReceived(self, obj: Any) -> None:
        """Take an expression; before the login only those that belong to one."""
        if self.has_logged_in or self._belongs_to_login(obj):
            super().callExpressionReceived(obj)
        else:
            self.refuse("malformed worker login")

    def _belongs_to_login(self, expression: Any) -> bool:
        if not self.currentDialect:
            return expression in self.knownDialects
        match expression:
            case [b"version", int()] | [b"decref", int()]:
                return True
            case [b"message", int(), b"root", b"login", _, [b"tuple", name], [b"dictionary"]]:
                return _is_text(name)
            case [b"message", int(), int(), b"respond", _, [b"tuple", bytes(), mind], keywords]:
                return keywords == [b"dictionary"] and _is_mind(mind)
        return False


def _is_text(jellied: Any) -> bool:
    match jellied:
        case bytes() as text:
            return len(text) <= LONGEST_NAME
        case [b"unicode", bytes() as text]:
            return len(text) <= LONGEST_NAME
    return False


def _is_mind(jellied: Any) -> bool:
    """Return whether this is what a client logs in with: nothing, or an object that it has."""
    match jellied:
        case [b"None"] | [b"remote", int()]:
            return True
    return False


class Dispatcher(manager.Dispatcher):
    """A port for PB, with limits until a connection has logged in."""

    def __init__(self, logins: WorkerLogins, config_portstr: Any, portstr: str) -> None:
        super().__init__(config_portstr, portstr)
        self._logins = logins
        self.serverFactory.protocol = functools.partial(_broker, logins)

    @async_to_deferred
    async def requestAvatarId(self, creds: Any) -> Any:
        """Check a login as Buildbot does; raises WrongLogin.

        A wrong one is counted and not logged each time, and the next one has to wait.
        """
        connection: Broker = creds.broker
        try:
            name = bytes2unicode(creds.username)
        except UnicodeDecodeError:
            name = repr(creds.username)
        await self._logins.may_try(connection, name)
        connection.waits = True
        await self.master.initLock.acquire()
        try:
            if connection.is_lost:
                raise WrongLogin
            if name in self.users:
                password, _ = self.users[name]
                properties = Properties()
                properties.master = self.master
                right = await properties.render(password)
                if creds.checkPassword(unicode2bytes(right)):
                    self._logins.succeeded(connection, name)
                    return creds.username
            self._logins.failed(connection, name)
            raise WrongLogin
        finally:
            connection.waits = False
            # As in Buildbot, others who wait go on in another turn.
            eventually(self.master.initLock.release)


def _broker(logins: WorkerLogins, **kwargs: Any) -> Broker:
    broker = Broker(**kwargs)
    broker.worker_logins = logins
    return broker


class PBManager(manager.PBManager):
    """`master.pbmanager` of a litebot master."""

    def __init__(self, logins: WorkerLogins) -> None:
        super().__init__()
        self.dispatcher_class = functools.partial(Dispatcher, logins)
