"""Logins on the page: wrong ones are counted, and have to wait, and others do not wait for them."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from buildbot.util.twisted import async_to_deferred
from buildbot.www import auth
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import LoginFailed
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.cred.portal import Portal
from twisted.internet import defer
from twisted.internet import task
from twisted.internet import threads
from twisted.web.guard import HTTPAuthSessionWrapper
from twisted.web.iweb import ICredentialFactory
from twisted.web.resource import IResource
from twisted.web.resource import Resource
from zope.interface import implementer

from litebot.master.limits.addresses import address_of
from litebot.master.limits.failures import Failures
from litebot.master.limits.refusals import printable

LONGEST_NAME = 256
LONGEST_PASSWORD = 4096
# The tries of a name from one address, and of all names from one address, before the next has to
# wait.  Behind a proxy all visitors have one address.
FREE_TRIES = 5
FREE_TRIES_OF_ADDRESS = 50
LONGEST_PAUSE_S = 60.0
# How many passwords wait to be checked, of names that exist and of others.  A check takes 50 ms.
MOST_WAITING = 100
MOST_WAITING_UNKNOWN = 20
# A check takes a core and memory from builds, too: one that was wrong is followed by a pause of so
# many times as long, before the next one of a name that does not exist.
PAUSE_FACTOR = 4.0


class TooMany(Exception):
    """A login that has to wait for some seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = math.ceil(wait_s)


class Logins:
    """The wrong logins on the page of a master."""

    def __init__(self, master: Any) -> None:
        self._master = master
        self._of_name = Failures(master.reactor, FREE_TRIES, LONGEST_PAUSE_S)
        self._of_address = Failures(master.reactor, FREE_TRIES_OF_ADDRESS, LONGEST_PAUSE_S)

    async def login(self, credentials: Any, check: Callable[[Any], Any]) -> Any:
        """Return what `check` does with the credentials, unless their name has to wait.

        Raises UnauthorizedLogin, or TooMany where the next try has to wait.
        """
        name = credentials.username.decode("utf-8", "replace")
        address = address_of(credentials.request.getClientAddress())
        shown = f"{printable(name, 64)!r} from {address}"
        if (wait_s := self._of_name.wait_s((name, address))) > 0:
            self._master.refusals.note("too many wrong logins", shown)
            raise TooMany(wait_s)
        self._of_name.add((name, address))
        credentials.is_one_of_many = self._of_address.wait_s(address) > 0
        try:
            found = await defer.maybeDeferred(check, credentials)
        except (LoginFailed, TooMany):
            self._of_address.add(address)
            self._master.refusals.note("wrong login", shown)
            # The same answer for a name that exists as for others, which are not looked at.
            if (wait_s := self._of_address.wait_s(address)) > 0:
                raise TooMany(wait_s) from None
            raise
        self._of_name.forget((name, address))
        return found


class PasswordQueue:
    """Passwords that wait to be checked, one at a time, those of names that exist first.

    A check is slow on purpose and takes a thread, of which others need some.  So wrong logins of
    names that do not exist keep nobody waiting.  `reactor` returns the reactor.
    """

    def __init__(self, reactor: Callable[[], Any]) -> None:
        self._reactor = reactor
        self._is_checking = False
        self._pause: Any = None
        self._pause_ends_at = 0.0
        self._waiting: deque[defer.Deferred[None]] = deque()
        self._waiting_unknown: deque[defer.Deferred[None]] = deque()

    async def run(self, credentials: Any, is_known: bool, verify: Callable[[], bool]) -> bool:
        """Return what `verify` does in a thread when it is its turn.

        Raises UnauthorizedLogin if the visitor has gone, and for an unknown name where too many
        wait, and TooMany for a known one.
        """
        came_at = time.monotonic()
        waiting = self._waiting if is_known else self._waiting_unknown
        if not is_known and getattr(credentials, "is_one_of_many", False):
            raise UnauthorizedLogin
        if len(waiting) >= (MOST_WAITING if is_known else MOST_WAITING_UNKNOWN):
            raise TooMany(1) if is_known else UnauthorizedLogin
        turn: defer.Deferred[None] = defer.Deferred()
        waiting.append(turn)
        if (request := getattr(credentials, "request", None)) is not None:
            request.notifyFinish().addErrback(lambda _: turn.cancel())
        self._check_next()
        try:
            await turn
        except defer.CancelledError:
            waiting.remove(turn)
            raise UnauthorizedLogin from None
        began_at, is_right = time.monotonic(), False
        owed_s = self._pause_ends_at - came_at
        try:
            is_right = await threads.deferToThread(verify)
        finally:
            self._is_checking = False
            if not is_right:
                self._begin_pause(PAUSE_FACTOR * (time.monotonic() - began_at))
            self._check_next()
        if is_known and not is_right and owed_s > 0:
            # A name that does not exist would have waited for the pause.
            await task.deferLater(self._reactor(), owed_s)
        return is_right

    def _begin_pause(self, seconds: float) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._pause = self._reactor().callLater(seconds, self._end_pause)
        self._pause_ends_at = time.monotonic() + seconds

    def _end_pause(self) -> None:
        self._pause = None
        self._check_next()

    def _check_next(self) -> None:
        waiting = self._waiting or (self._waiting_unknown if self._pause is None else None)
        if waiting and not self._is_checking:
            self._is_checking = True
            waiting.popleft().callback(None)


class LimitedLogins(auth.TwistedICredAuthBase):
    """Put before the class of an auth that checks names and passwords, limits wrong logins."""

    realm = auth.AuthRealm

    def getLoginResource(self) -> Any:
        realm: Any = _Realm(self.realm(self.master, self))
        checkers: Any = [_Checker(self.master.www.logins, checker) for checker in self.checkers]
        factories = [_CredentialFactory(factory) for factory in self.credentialFactories]
        return HTTPAuthSessionWrapper(Portal(realm, checkers), factories)


@implementer(ICredentialFactory)
class _CredentialFactory:
    """Makes the credentials that another factory makes, of a limited size, and with the request."""

    def __init__(self, factory: Any) -> None:
        self._factory = factory
        self.scheme = factory.scheme

    def getChallenge(self, request: Any) -> Any:
        return self._factory.getChallenge(request)

    def decode(self, response: bytes, request: Any) -> ICredentials:
        if len(response) > 2 * (LONGEST_NAME + LONGEST_PASSWORD):
            raise LoginFailed("the name or the password is too long")
        credentials: Any = self._factory.decode(response, request)
        too_long = len(credentials.username) > LONGEST_NAME
        if too_long or len(getattr(credentials, "password", b"")) > LONGEST_PASSWORD:
            raise LoginFailed("the name or the password is too long")
        credentials.request = request
        return credentials


@implementer(ICredentialsChecker)
class _Checker:
    """Checks credentials as another checker does, unless they have to wait."""

    def __init__(self, logins: Logins, checker: Any) -> None:
        self._logins = logins
        self._checker = checker
        self.credentialInterfaces = checker.credentialInterfaces

    @async_to_deferred
    async def requestAvatarId(self, credentials: Any) -> Any:
        try:
            return await self._logins.login(credentials, self._checker.requestAvatarId)
        except TooMany as error:
            return error


@implementer(IRealm)
class _Realm:
    """Does as another realm, but gives a login that has to wait a resource that says so."""

    def __init__(self, realm: Any) -> None:
        self._realm = realm

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        if isinstance(avatarId, TooMany):
            return (IResource, _TooManyLogins(avatarId.wait_s), lambda: None)
        return self._realm.requestAvatar(avatarId, mind, *interfaces)


class _TooManyLogins(Resource):
    isLeaf = True

    def __init__(self, wait_s: int) -> None:
        super().__init__()
        self._wait_s = wait_s

    def render(self, request: Any) -> bytes:
        request.setResponseCode(429)
        request.setHeader(b"retry-after", b"%d" % self._wait_s)
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return f"too many wrong logins; try again in {self._wait_s} s\n".encode()
