"""What is to be written in the transaction of the next buildset that the same task adds."""

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
    """A scheduler has dealt with a change, and before with all that are older; commits nothing.

    Where one of those waits, this one is given to the scheduler again after it.
    """
    table, changes = tables.scheduler_positions, Model.changes
    older = sa.and_(table.c.schedulerid == schedulerid, table.c.changeid < changeid)
    between = sa.and_(changes.c.changeid > table.c.changeid, changes.c.changeid < changeid)
    waiting = sa.exists().where(between).correlate(table)
    conn.execute(table.update().where(older, sa.not_(waiting)).values(changeid=changeid))


def begin_after(conn: sa.engine.Connection, schedulerid: int, changeid: int) -> None:
    """A scheduler is to be given the changes after this one; commits nothing."""
    table = tables.scheduler_positions
    conn.execute(table.delete().where(table.c.schedulerid == schedulerid))
    conn.execute(table.insert().values(schedulerid=schedulerid, changeid=changeid))


def require_scheduler(conn: sa.engine.Connection, schedulerid: int, masterid: int) -> None:
    """Keep a scheduler on this master until the transaction ends.  Raises NotOurs.

    Buildbot's stop of a master gives its schedulers away before they have come to rest.
    """
    claims = Model.scheduler_masters
    mine = sa.and_(claims.c.schedulerid == schedulerid, claims.c.masterid == masterid)
    # A lock that lets others look at the row, but not delete it.
    query = sa.select(claims.c.masterid).where(mine).with_for_update(read=True, key_share=True)
    if conn.execute(query).first() is None:
        raise NotOurs


@dataclass
class SchedulerDelivery:
    """A change that a scheduler is being given; `done` once that is committed."""

    schedulerid: int
    changeid: int
    cluster: Alone
    done: bool = False

    def write(self, conn: sa.engine.Connection, bsid: int | None = None) -> None:
        """Write it down, with the buildset that came of it; commits nothing.  Raises NotOurs."""
        self.cluster.require_scheduler(conn, self.schedulerid)
        mark_seen(conn, self.schedulerid, self.changeid)
        if bsid is not None:
            _note_built(conn, self.schedulerid, [self.changeid], bsid)


@dataclass
class ClassifiedChanges:
    """The classified changes that a scheduler makes a buildset of; `done` once it is committed."""

    schedulerid: int
    cluster: Alone
    changeids: list[int] = field(default_factory=list)
    done: bool = False

    def write(self, conn: sa.engine.Connection, bsid: int) -> None:
        """They are in this buildset: forget them and no others; commits nothing.

        Raises NotOurs.
        """
        self.cluster.require_scheduler(conn, self.schedulerid)
        forget_changes(conn, self.schedulerid, self.changeids)
        _note_built(conn, self.schedulerid, self.changeids, bsid)


def forget_changes(conn: sa.engine.Connection, schedulerid: int, changeids: Iterable[int]) -> None:
    """A scheduler needs to keep these changes no longer."""
    table = Model.scheduler_changes
    for changeid in changeids:
        conn.execute(
            table.delete().where(table.c.schedulerid == schedulerid, table.c.changeid == changeid)
        )


def built(conn: sa.engine.Connection, schedulerid: int, changeids: Iterable[int]) -> set[int]:
    """Those of these changes that are in a buildset of this scheduler."""
    table = tables.built
    mine = sa.and_(table.c.schedulerid == schedulerid, table.c.changeid.in_(list(changeids)))
    return set(conn.execute(sa.select(table.c.changeid).where(mine)).scalars())


def _note_built(
    conn: sa.engine.Connection, schedulerid: int, changeids: Iterable[int], bsid: int
) -> None:
    for changeid in changeids:
        row = {"schedulerid": schedulerid, "changeid": changeid, "bsid": bsid}
        conn.execute(tables.built.insert().values(row))


# Both are seen by what a task calls and awaits, and by no other task: Twisted's inlineCallbacks
# and ensureDeferred run each coroutine in a copy of its caller's context.
scheduler_delivery: ContextVar[SchedulerDelivery | None] = ContextVar(
    "scheduler_delivery", default=None
)
classified_changes: ContextVar[ClassifiedChanges | None] = ContextVar(
    "classified_changes", default=None
)
