"""What is to be written in the transaction of the next buildset that the same task adds."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from dataclasses import field

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.master import schema


def mark_seen(conn: sa.engine.Connection, schedulerid: int, changeid: int) -> None:
    """A scheduler has dealt with all changes up to this one; commits nothing."""
    table = schema.handovers
    older = sa.and_(table.c.schedulerid == schedulerid, table.c.changeid < changeid)
    conn.execute(table.update().where(older).values(changeid=changeid))


def begin_after(conn: sa.engine.Connection, schedulerid: int, changeid: int) -> None:
    """A scheduler is to be given the changes after this one; commits nothing."""
    table = schema.handovers
    conn.execute(table.delete().where(table.c.schedulerid == schedulerid))
    conn.execute(table.insert().values(schedulerid=schedulerid, changeid=changeid))


@dataclass
class Handover:
    """A change that a scheduler is being given; `done` once that is committed."""

    schedulerid: int
    changeid: int
    done: bool = False

    def write(self, conn: sa.engine.Connection, bsid: int | None = None) -> None:
        """Write it down, with the buildset that came of it; commits nothing."""
        mark_seen(conn, self.schedulerid, self.changeid)
        if bsid is not None:
            _note_built(conn, self.schedulerid, [self.changeid], bsid)


@dataclass
class Taken:
    """The classified changes that a scheduler makes a buildset of; `done` once it is committed."""

    schedulerid: int
    changeids: list[int] = field(default_factory=list)
    done: bool = False

    def write(self, conn: sa.engine.Connection, bsid: int) -> None:
        """They are in this buildset: forget them and no others; commits nothing."""
        forget_changes(conn, self.schedulerid, self.changeids)
        _note_built(conn, self.schedulerid, self.changeids, bsid)


def forget_changes(conn: sa.engine.Connection, schedulerid: int, changeids: Iterable[int]) -> None:
    """A scheduler needs to keep these changes no longer."""
    table = Model.scheduler_changes
    for changeid in changeids:
        conn.execute(
            table.delete().where(table.c.schedulerid == schedulerid, table.c.changeid == changeid)
        )


def _note_built(
    conn: sa.engine.Connection, schedulerid: int, changeids: Iterable[int], bsid: int
) -> None:
    for changeid in changeids:
        row = {"schedulerid": schedulerid, "changeid": changeid, "bsid": bsid}
        conn.execute(schema.built.insert().values(row))


# Both are seen by what a task calls and awaits, and by no other task: Twisted's inlineCallbacks
# and ensureDeferred run each coroutine in a copy of its caller's context.
handing_over: ContextVar[Handover | None] = ContextVar("handing_over", default=None)
taken: ContextVar[Taken | None] = ContextVar("taken", default=None)


def set_state(conn: sa.engine.Connection, objectid: int, name: str, value: str) -> None:
    """Set a state of an object to a value in JSON; commits nothing."""
    table = Model.object_state
    mine = sa.and_(table.c.objectid == objectid, table.c.name == name)
    if conn.execute(table.update().where(mine).values(value_json=value)).rowcount == 0:
        conn.execute(table.insert().values(objectid=objectid, name=name, value_json=value))
