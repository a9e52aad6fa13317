"""Logins by OAuth: few at a time, as each takes a thread, of which reads need some."""

from __future__ import annotations

from typing import Any

from buildbot.util.twisted import async_to_deferred
from buildbot.www import auth
from twisted.internet import defer
from twisted.web.error import Error

# Codes that are looked up at the same time, and that wait for it.
AT_A_TIME = 2
MOST_WAITING = 20


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
