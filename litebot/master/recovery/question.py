"""The form of a question, of what it finds and of what it asks about."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.master.db.sqlite.commit_watermark import Content


@dataclass(frozen=True)
class Finding:
    """One thing that was half done; `message` says what it was and what becomes of it.

    `id` is the primary key of the row that the repair is about; `buildid` the build to look at.
    """

    kind: str
    id: int
    message: str
    buildid: int | None = None


@dataclass(frozen=True)
class Scene:
    """A database in which the masters with these ids are known to be dead.

    `should_hold` is what its file was known to hold, if that is known.  With `others_live` the
    masters that are not dead are at work meanwhile: what they hold is left alone.  `masterid` is
    the master that asks, where it is known.
    """

    conn: sa.engine.Connection
    master: str
    sole: bool
    dead: tuple[int, ...]
    max_attempts: int
    should_hold: Content | None = None
    others_live: bool = False
    masterid: int | None = None
    now: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def at_start(
        cls,
        conn: sa.engine.Connection,
        master: str,
        sole: bool,
        max_attempts: int,
        should_hold: Content | None = None,
        masterid: int | None = None,
    ) -> Scene:
        """The former selves of `master`; where it is the `sole` one, all that there ever were.

        Whether a master's row says `active` tells nothing: it is cleared before what that master
        left is cleaned up.  Source: buildbot/data/masters.py, masterStopped
        """
        masters = Model.masters
        query = sa.select(masters.c.id)
        if not sole:
            query = query.where(masters.c.name == master)
        dead = tuple(conn.execute(query).scalars())
        return cls(conn, master, sole, dead, max_attempts, should_hold, not sole, masterid)

    def of_dead(self, masterid: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
        """The condition that no living master works on what this column says is a master's."""
        # The sum keeps SQLite from the index on masterid, which holds all that there ever was.
        return (masterid + 0).in_(self.dead) if self.others_live else sa.true()

    def unclaimed(self, scheduler: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
        """The condition that no living master has the scheduler of this name."""
        if not self.others_live:
            return sa.true()
        claims, schedulers = Model.scheduler_masters, Model.schedulers
        living = (
            sa.select(schedulers.c.name)
            .join_from(schedulers, claims, claims.c.schedulerid == schedulers.c.id)
            .where(claims.c.masterid.not_in(self.dead))
        )
        return scheduler.not_in(living)


@dataclass(frozen=True)
class Pair:
    """A question, and the repair of one thing that it finds; both may be run again at any time.

    Without a repair what is found is left to somebody else, whom the question names.
    """

    question: Callable[[Scene], Iterator[Finding]]
    repair: Callable[[Scene, Finding], None] | None = None
