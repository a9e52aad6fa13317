"""The types of recovery: a question with its repair, a finding, and the scene they work on."""

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

    `id` is the primary key of the row to repair.  `buildid` is the build that a user may want to
    look at.
    """

    kind: str
    id: int
    message: str
    buildid: int | None = None


@dataclass(frozen=True)
class Scene:
    """A database, and the ids of the masters that are known to be `dead`.

    `should_hold` is what its file is known to have held; None if that is not known.  With
    `others_live`, the masters that are not dead are at work meanwhile, and what they have claimed
    is left alone.  `masterid` is the id of the master that asks; None if it has none.
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
        """Return the scene of a start of `master`: the rows of its name are dead masters.

        If it is the `sole` master, all rows are.  The column `active` is not used: Buildbot clears
        it before it cleans up what that master left.
        Source: buildbot/data/masters.py, masterStopped
        """
        masters = Model.masters
        query = sa.select(masters.c.id)
        if not sole:
            query = query.where(masters.c.name == master)
        dead = tuple(conn.execute(query).scalars())
        return cls(conn, master, sole, dead, max_attempts, should_hold, not sole, masterid)

    def of_dead(self, masterid: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
        """Return the condition that the master in this column is not a living one."""
        # The sum keeps SQLite from using the index on masterid, which holds every row ever made.
        return (masterid + 0).in_(self.dead) if self.others_live else sa.true()

    def unclaimed(self, scheduler: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
        """Return the condition that no living master has claimed the scheduler of this name."""
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
    """A question, and the repair of one of its findings; both may be run again at any time.

    If there is no repair, the question's docstring says what becomes of its findings.
    """

    question: Callable[[Scene], Iterator[Finding]]
    repair: Callable[[Scene, Finding], None] | None = None
