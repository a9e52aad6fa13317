"""What is written in the transaction of the next buildset that the same task adds."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from dataclasses import field

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.master.db import tables
from litebot.master.db.cluster import Alone
from litebot.master.db.pool import NotOurs


def mark_seen(conn: sa.engine.Connection, schedulerid: int, changeid: int) -> None:
    """Note that a scheduler has dealt with a change and with all older ones; commits nothing.

    Does nothing while an older change waits: this change is then delivered again after that one.
    """
    table, changes = tables.scheduler_positions, Model.changes
    older = sa.and_(table.c.schedulerid == schedulerid, table.c.changeid < changeid)
    between = sa.and_(changes.c.changeid > table.c.changeid, changes.c.changeid < changeid)
    waiting = sa.exists().where(between).correlate(table)
    conn.execute(table.update().where(older, sa.not_(waiting)).values(changeid=changeid))


def begin_after(conn: sa.engine.Connection, schedulerid: int, changeid: int) -> None:
    """Let a scheduler's deliveries begin with the changes after this one; commits nothing."""
    table = tables.scheduler_positions
    conn.execute(table.delete().where(table.c.schedulerid == schedulerid))
    conn.execute(table.insert().values(schedulerid=schedulerid, changeid=changeid))


def require_scheduler(conn: sa.engine.Connection, schedulerid: int, masterid: int) -> None:
    """Keep a scheduler on this master until the transaction ends.  Raises NotOurs.

    When a master stops, Buildbot lets other masters claim its schedulers while these still work.
    """
    claims = Model.scheduler_masters
    mine = sa.and_(claims.c.schedulerid == schedulerid, claims.c.masterid == masterid)
    # This lock lets others read the row, but not delete it.
    query = sa.select(claims.c.masterid).where(mine).with_for_update(read=True, key_share=True)
    if conn.execute(query).first() is None:
        raise NotOurs


@dataclass
class SchedulerDelivery:
    """A change that is being delivered to a scheduler; `done` once the delivery is committed."""

    schedulerid: int
    changeid: int
    cluster: Alone
    done: bool = False

    def write(self, conn: sa.engine.Connection, bsid: int | None = None) -> None:
        """Record the delivery, and the buildset that was made of it.

        Commits nothing.  Raises NotOurs.
        """
        self.cluster.require_scheduler(conn, self.schedulerid)
        mark_seen(conn, self.schedulerid, self.changeid)
        if bsid is not None:
            _record_built(conn, self.schedulerid, [self.changeid], bsid)


@dataclass
class ClassifiedChanges:
    """The changes of which a scheduler makes a buildset; `done` once the buildset is committed."""

    schedulerid: int
    cluster: Alone
    changeids: list[int] = field(default_factory=list)
    done: bool = False

    def write(self, conn: sa.engine.Connection, bsid: int) -> None:
        """Record that the changes are in this buildset, and delete their classifications.

        Commits nothing.  Raises NotOurs.
        """
        self.cluster.require_scheduler(conn, self.schedulerid)
        forget_changes(conn, self.schedulerid, self.changeids)
        _record_built(conn, self.schedulerid, self.changeids, bsid)


def forget_changes(conn: sa.engine.Connection, schedulerid: int, changeids: Iterable[int]) -> None:
    """Delete a scheduler's classifications of these changes; commits nothing."""
    table = Model.scheduler_changes
    for changeid in changeids:
        conn.execute(
            table.delete().where(table.c.schedulerid == schedulerid, table.c.changeid == changeid)
        )


def built(conn: sa.engine.Connection, schedulerid: int, changeids: Iterable[int]) -> set[int]:
    """Return which of these changes are in a buildset of this scheduler."""
    table = tables.built
    mine = sa.and_(table.c.schedulerid == schedulerid, table.c.changeid.in_(list(changeids)))
    return set(conn.execute(sa.select(table.c.changeid).where(mine)).scalars())


def _record_built(
    conn: sa.engine.Connection, schedulerid: int, changeids: Iterable[int], bsid: int
) -> None:
    for changeid in changeids:
        row = {"schedulerid": schedulerid, "changeid": changeid, "bsid": bsid}
        conn.execute(tables.built.insert().values(row))


# What a task calls and awaits sees these values, and no other task does: Twisted's inlineCallbacks
# and ensureDeferred run each coroutine in a copy of its caller's context.
scheduler_delivery: ContextVar[SchedulerDelivery | None] = ContextVar(
    "scheduler_delivery", default=None
)
classified_changes: ContextVar[ClassifiedChanges | None] = ContextVar(
    "classified_changes", default=None
)
