"""Dying on purpose, for the tests of recovery; off without LITEBOT_KILL_AT."""

from __future__ import annotations

import functools
import itertools
import os
import signal
from typing import Any

from twisted.internet import defer

KILL_AT = "LITEBOT_KILL_AT"


def arm(master: Any) -> None:
    """Die as from kill -9 where LITEBOT_KILL_AT says, such as db.builds.finishBuild:2.

    That is when the second call of that method of the master has its result: what it did is
    committed, and whoever called it has not gone on.
    """
    path, _, count = os.environ.get(KILL_AT, "").partition(":")
    if not path:
        return
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, master)
    method = getattr(owner, name)
    calls = itertools.count(1)
    fatal = int(count)

    def die() -> None:
        if not master.db.is_on_server:
            master.db.pool.commit()  # elsewhere a result comes after its commit
        os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> defer.Deferred[Any]:
        d = defer.maybeDeferred(method, *args, **kwargs)
        if next(calls) == fatal:
            d.addBoth(lambda _: die())
        return d

    setattr(owner, name, call)
