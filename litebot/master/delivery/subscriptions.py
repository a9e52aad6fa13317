"""Dependent schedulers: which buildsets of its upstream one waits for.

Its state `upstream_bsids` says that, but is written after the buildset that it is about.  So the
table litebot_subscriptions says in the transaction of a buildset what that state is going to gain
or to lose, until it does.  The state stays the truth, also for a stock Buildbot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model
from buildbot.process.results import SUCCESS
from buildbot.process.results import WARNINGS
from buildbot.schedulers.dependent import Dependent

from litebot.master.db import tables
from litebot.master.delivery.states import get_state
from litebot.master.delivery.states import set_state

subscriptions = tables.subscriptions

STATE = "upstream_bsids"
DOWNSTREAM = "downstream"  # the reason of a Dependent's buildsets


@dataclass(frozen=True)
class Links:
    """The objectids of those that will wait for a buildset, and of the one that waited till now."""

    gain: tuple[int, ...] = ()
    lose: int | None = None


def links(master: Any, scheduler: str | None, reason: str) -> Links:
    """Of a buildset that this scheduler adds, whoever is disabled."""
    dependents = [s for s in master.allSchedulers() if isinstance(s, Dependent) and s.objectid]
    gain = tuple(s.objectid for s in dependents if scheduler and s.upstream_name == scheduler)
    own = [s.objectid for s in dependents if s.name == scheduler and reason == DOWNSTREAM]
    return Links(gain, own[0] if own else None)


def note(conn: sa.engine.Connection, links: Links, bsid: int, ssids: list[int]) -> None:
    """Write down who gains and who loses a subscription by this buildset; commits nothing.

    What is added while a scheduler is disabled is not for it.
    """
    # Only the master that has a scheduler knows in memory whether it is enabled.
    disabled = _disabled(conn, links.gain) if links.gain else set()
    for objectid in set(links.gain) - disabled:
        conn.execute(subscriptions.insert().values(objectid=objectid, bsid=bsid, wanted=1))
    if links.lose is not None:
        upstream = _upstream_of(conn, links.lose, ssids)
        if upstream is not None:
            row = {"objectid": links.lose, "bsid": upstream, "wanted": 0}
            conn.execute(subscriptions.insert().values(row))


def _disabled(conn: sa.engine.Connection, objectids: Iterable[int]) -> set[int]:
    """Those of these schedulers that are disabled."""
    schedulers, objects = Model.schedulers, Model.objects
    query = (
        sa.select(objects.c.id)
        .join(schedulers, schedulers.c.name == objects.c.name)
        .where(objects.c.id.in_(list(objectids)), schedulers.c.enabled == 0)
    )
    return set(conn.execute(query).scalars())


def _upstream_of(conn: sa.engine.Connection, objectid: int, ssids: list[int]) -> int | None:
    """The first buildset that this scheduler waits for and that had these sourcestamps."""
    buildsets, stamps = Model.buildsets, Model.buildset_sourcestamps
    gone = sa.select(subscriptions.c.bsid).where(
        subscriptions.c.objectid == objectid, subscriptions.c.wanted == 0
    )
    query = (
        sa.select(buildsets.c.id)
        .where(buildsets.c.id.in_(waited_for(conn, objectid)), buildsets.c.id.not_in(gone))
        .where(buildsets.c.complete == 1, buildsets.c.results.in_((SUCCESS, WARNINGS)))
        .order_by(buildsets.c.id)
    )
    for bsid in conn.execute(query).scalars():
        had = sa.select(stamps.c.sourcestampid).where(stamps.c.buildsetid == bsid)
        if sorted(conn.execute(had).scalars()) == sorted(ssids):
            found: int = bsid
            return found
    return None


def waited_for(conn: sa.engine.Connection, objectid: int) -> list[int]:
    """The buildsets that are in a scheduler's state."""
    bsids: list[int] = get_state(conn, objectid, STATE) or []
    return bsids


def catch_up(conn: sa.engine.Connection, objectid: int) -> None:
    """Bring the state of a scheduler that nobody runs up to date; commits nothing."""
    mine = subscriptions.c.objectid == objectid
    rows = conn.execute(sa.select(subscriptions.c.bsid, subscriptions.c.wanted).where(mine)).all()
    gained = {bsid for bsid, wanted in rows if wanted}
    lost = {bsid for bsid, wanted in rows if not wanted}
    bsids = sorted((set(waited_for(conn, objectid)) | gained) - lost)
    set_state(conn, objectid, STATE, bsids)
    conn.execute(subscriptions.delete().where(mine))


def of_scheduler(conn: sa.engine.Connection, schedulerid: int) -> list[int]:
    """The objectids under which a scheduler is to gain or to lose something."""
    schedulers, objects = Model.schedulers, Model.objects
    query = (
        sa.select(subscriptions.c.objectid)
        .join(objects, objects.c.id == subscriptions.c.objectid)
        .join(schedulers, schedulers.c.name == objects.c.name)
        .where(schedulers.c.id == schedulerid)
        .distinct()
    )
    return list(conn.execute(query).scalars())


def settle(conn: sa.engine.Connection, objectid: int, bsids: Iterable[int]) -> None:
    """A scheduler's state is now these buildsets: drop what was to be gained or lost."""
    mine = subscriptions.c.objectid == objectid
    there = subscriptions.c.bsid.in_(list(bsids))
    for wanted, settled in ((1, there), (0, sa.not_(there))):
        conn.execute(subscriptions.delete().where(mine, subscriptions.c.wanted == wanted, settled))
