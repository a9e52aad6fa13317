"""What a living master does when another is dead, or when events may have been lost."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from buildbot.schedulers.triggerable import Triggerable
from twisted.internet import defer
from twisted.python import log

from litebot.errors import StoreFailed
from litebot.master.cluster import claims
from litebot.master.cluster import takeover
from litebot.master.cluster.queue import from_master
from litebot.master.db.pool import NotOurs
from litebot.master.delivery import controls
from litebot.master.delivery.triggers import check_waiter
from litebot.master.recovery.requests import complete_buildsets

# When to poll again for schedulers and change sources if a poll of one was under way.
POLL_AGAIN_S = 1.0


async def take_over(master: Any, masterid: int, holder: int, startid: int) -> None:
    """Repair what the dead master with this id left, and continue its work.

    `holder` is the server's process that holds the dead master's lock, and `startid` the row of
    this master's start.  May be called again at any time, also if nothing is left.
    """
    dead = None
    with suppress(NotOurs):  # it may be alive again
        dead = await master.db.pool.do_with_transaction(
            takeover.take_over,
            masterid,
            holder,
            (master.masterid, master.name, startid),
            master.settings.recovery.max_attempts,
        )
    if dead is None:
        return
    log.msg(f"litebot: the master {dead.name} is dead; its work is taken over")
    for finding in dead.findings:
        log.msg(f"found: {finding.message}")
    await _announce(master, dead)
    await complete_buildsets(master)
    await master.outbox.take_over(masterid)
    event = {"masterid": masterid, "name": dead.name, "active": False}
    master.data.rtypes.master.produceEvent(event, "stopped")


async def _announce(master: Any, dead: takeover.Takeover) -> None:
    """Produce the events that the dead master can no longer produce."""
    types = master.data.rtypes
    # To reporters the outbox delivers these ends.
    for buildid in dead.ended:
        build = await master.data.get(("builds", str(buildid)))
        with from_master(master.mq.impl, dead.masterid):
            types.build.produceEvent(build, "finished")
    for brids, event in ((dead.completed, "complete"), (dead.freed, "unclaimed")):
        models = await master.db.buildrequests.get_some(brids)
        types.buildrequest.announce(models, event)


def catch_up(master: Any) -> None:
    """Look in the database for work, as events may have been lost."""
    if not master.running:
        return
    d = defer.ensureDeferred(_catch_up(master))
    d.addErrback(lambda failure: failure.trap(StoreFailed))
    d.addErrback(lambda f: log.err(f, "while looking for work that other masters have left"))


async def _catch_up(master: Any) -> None:
    if not claims.poll_unclaimed(master):
        master.reactor.callLater(POLL_AGAIN_S, claims.poll_unclaimed, master)
    master.change_delivery.check_all()
    master.change_delivery.notify_dependents(recheck_all=True)
    master.botmaster.maybeStartBuildsForAllBuilders()
    await master.worker_controls.send_again()
    await cancel_again(master, master.masterid)
    await _wake_triggers(master)


async def cancel_again(master: Any, claimed_by: int | None = None) -> None:
    """Cancel the requests whose cancellation is pending; with `claimed_by`, only that master's."""
    unfinished = await master.db.pool.do(controls.unfinished, claimed_by)
    for brid, reason in unfinished:
        key = ("control", "buildrequests", str(brid), "cancel")
        master.mq.produce(key, {"reason": reason})


async def _wake_triggers(master: Any) -> None:
    """Notify Trigger steps of the buildsets that have ended while they wait for them."""
    for scheduler in master.allSchedulers():
        if not isinstance(scheduler, Triggerable):
            continue
        for bsid in list(scheduler._waiters):
            await check_waiter(scheduler, bsid)
