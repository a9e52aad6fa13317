"""Ends the builds of builders that a reconfig removes, before workers detach from them.

Buildbot forgets such a builder at once, and its builds then never end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model
from buildbot.process.build import Build
from buildbot.process.results import CANCELLED
from twisted.internet import defer
from twisted.internet import task
from twisted.python import log

REASON = "builder was removed"
STOPS_WITHIN_S = 6.0
LOOK_S = 0.1


async def end_builds(botmaster: Any, builders: Iterable[Any]) -> None:
    """Cancel all builds of these builders, which must not start more.

    Builds that have not stopped after STOPS_WITHIN_S are ended without their steps.
    """
    reactor = botmaster.master.reactor
    await starts_are_over(botmaster)
    for build in running(builders):
        if build.workerforbuilder is not None:
            build.workerforbuilder.abortPingIfAny()
        # This does not wait for the Deferred, as a worker that hangs may never answer.
        d = build.stopBuild(REASON, CANCELLED)
        d.addErrback(log.err, f"while stopping {build}")
    late_at = reactor.seconds() + STOPS_WITHIN_S
    while running(builders) and reactor.seconds() < late_at:
        await task.deferLater(reactor, LOOK_S)
    for build in running(builders):
        if not build.finished and build.buildid is not None:
            build.results = CANCELLED
            await build.buildFinished([REASON], CANCELLED)


async def cancel_waited_for(master: Any, names: list[str]) -> None:
    """Cancel the requests for these builders that a Trigger step waits for and nobody will build.

    Those for a builder that another master has stay.
    """
    for brid in await master.db.pool.do(_waited_for, names):
        await master.data.control("cancel", {"reason": REASON}, ("buildrequests", str(brid)))


def _waited_for(conn: sa.engine.Connection, names: list[str]) -> list[int]:
    requests, builders, claims = Model.buildrequests, Model.builders, Model.buildrequest_claims
    query = (
        sa.select(requests.c.id)
        .join_from(requests, builders, requests.c.builderid == builders.c.id)
        .where(
            *(requests.c.complete == 0, requests.c.waited_for == 1, builders.c.name.in_(names)),
            requests.c.id.not_in(sa.select(claims.c.brid)),
            builders.c.id.not_in(sa.select(Model.builder_masters.c.builderid)),
        )
    )
    return list(conn.execute(query).scalars())


def running(builders: Iterable[Any]) -> list[Build]:
    """Return the builds of these builders that have not ended."""
    return [build for builder in builders for build in builder.building]


async def starts_are_over(botmaster: Any) -> bool:
    """Wait until builds that are about to start have started; return whether they have.

    Returns False after STOPS_WITHIN_S.
    """
    starting = botmaster.brd.activity_lock.run(lambda: True)
    starting.addTimeout(STOPS_WITHIN_S, botmaster.master.reactor)
    try:
        return bool(await starting)
    except defer.TimeoutError:
        log.msg(f"a build is about to start for more than {STOPS_WITHIN_S:g} s")
        return False
