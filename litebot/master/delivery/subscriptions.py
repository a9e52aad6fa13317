"""The buildsets of its upstream that a Dependent scheduler waits for.

They are in the scheduler's state `upstream_bsids`, but Buildbot writes that after the buildset that
it is about.  So the transaction of a buildset writes into the table litebot_subscriptions what the
state is about to gain or to lose, and the row is deleted when the state has been written.  The
state stays authoritative, also for a stock Buildbot.
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
    """The objectids of the schedulers that a buildset concerns.

    Those in `gain` will wait for it; `lose` has waited for an upstream buildset, and made this one.
    """

    gain: tuple[int, ...] = ()
    lose: int | None = None


def links(master: Any, scheduler: str | None, reason: str) -> Links:
    """Return the links of a buildset that this scheduler adds, also to disabled schedulers."""
    dependents = [s for s in master.allSchedulers() if isinstance(s, Dependent) and s.objectid]
    gain = tuple(s.objectid for s in dependents if scheduler and s.upstream_name == scheduler)
    own = [s.objectid for s in dependents if s.name == scheduler and reason == DOWNSTREAM]
    return Links(gain, own[0] if own else None)


def record(conn: sa.engine.Connection, links: Links, bsid: int, ssids: list[int]) -> None:
    """Record which schedulers gain and which one loses a subscription; commits nothing.

    A disabled scheduler gains none.  `ssids` are the buildset's sourcestamps.
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
    """Return the objectids of those of these schedulers that are disabled."""
    schedulers, objects = Model.schedulers, Model.objects
    query = (
        sa.select(objects.c.id)
        .join(schedulers, schedulers.c.name == objects.c.name)
        .where(objects.c.id.in_(list(objectids)), schedulers.c.enabled == 0)
    )
    return set(conn.execute(query).scalars())


def _upstream_of(conn: sa.engine.Connection, objectid: int, ssids: list[int]) -> int | None:
    """Return the first buildset with these sourcestamps that this scheduler waits for.

    Only buildsets that have succeeded count.  Returns None if there is none.
    """
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
    """Return the ids of the buildsets that are in a scheduler's state."""
    bsids: list[int] = get_state(conn, objectid, STATE) or []
    return bsids


def catch_up(conn: sa.engine.Connection, objectid: int) -> None:
    """Apply the recorded gains and losses to the state of a scheduler that is active nowhere.

    Commits nothing.
    """
    mine = subscriptions.c.objectid == objectid
    rows = conn.execute(sa.select(subscriptions.c.bsid, subscriptions.c.wanted).where(mine)).all()
    gained = {bsid for bsid, wanted in rows if wanted}
    lost = {bsid for bsid, wanted in rows if not wanted}
    bsids = sorted((set(waited_for(conn, objectid)) | gained) - lost)
    set_state(conn, objectid, STATE, bsids)
    conn.execute(subscriptions.delete().where(mine))


def objectids_of(conn: sa.engine.Connection, schedulerid: int) -> list[int]:
    """Return the objectids under which gains or losses of a scheduler are recorded."""
    schedulers, objects = Model.schedulers, Model.objects
    query = (
        sa.select(subscriptions.c.objectid)
        .join(objects, objects.c.id == subscriptions.c.objectid)
        .join(schedulers, schedulers.c.name == objects.c.name)
        .where(schedulers.c.id == schedulerid)
        .distinct()
    )
    return list(conn.execute(query).scalars())


def remove_applied(conn: sa.engine.Connection, objectid: int, bsids: Iterable[int]) -> None:
    """Delete the gains and losses that are part of a scheduler's state, which is now `bsids`.

    Commits nothing.
    """
    mine = subscriptions.c.objectid == objectid
    in_state = subscriptions.c.bsid.in_(list(bsids))
    for wanted, applied in ((1, in_state), (0, sa.not_(in_state))):
        conn.execute(subscriptions.delete().where(mine, subscriptions.c.wanted == wanted, applied))
