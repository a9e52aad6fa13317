"""A master that kills itself, for the tests of recovery.  Its buildbot.tac imports this."""

from __future__ import annotations

import functools
import itertools
import os
import signal
from typing import Any

from twisted.internet import defer

from litebot.master import service

KILL_AT = "LITEBOT_KILL_AT"


class BuildMaster(service.BuildMaster):
    """litebot's, but sends itself SIGKILL at the point in LITEBOT_KILL_AT, if that is set."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begin = self.startup.begin
        self.startup.begin = self._begin_armed

    def _begin_armed(self) -> Any:
        """Arm the point before the startup uses the database, then begin as litebot's does."""
        if point := os.environ.get(KILL_AT):
            arm(self, point)
        return self._begin()


def arm(master: Any, point: str) -> None:
    """Let a master die at a point such as "db.builds.finishBuild:2".

    That is when the second call of this method has its result: its work is committed, and its
    caller has not continued.
    """
    path, _, count = point.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, master)
    method = getattr(owner, name)
    calls = itertools.count(1)
    fatal = int(count)

    def die() -> None:
        if not master.db.is_on_server:
            master.db.pool.commit()  # on a server, a result comes after its commit
        os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> defer.Deferred[Any]:
        d = defer.maybeDeferred(method, *args, **kwargs)
        if next(calls) == fatal:
            d.addBoth(lambda _: die())
        return d

    setattr(owner, name, call)
