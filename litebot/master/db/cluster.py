"""The cluster of a master that is alone on its database.

A master gets its cluster when it is made: `Alone` on a state file, or on Postgres `Shared` (see
litebot.master.cluster.shared), which has the same methods for several masters.  Code calls the
method for what it does, such as `lock_build_numbers`, and never asks whether there are other
masters.
"""

from __future__ import annotations

import sqlalchemy as sa
from buildbot.util import service

from litebot.master.db.pool import Outage
from litebot.store.sql import Sql


class Alone(service.AsyncService):
    """`master.cluster` of the only master on a database, where no method has anything to do.

    Methods that take `sql` or `conn` are called inside a transaction, which keeps their locks until
    it ends; they commit nothing.
    """

    name: str | None = "cluster"

    # Whether another master may have to report a build that ends on this one.
    others_may_report = False

    # The outage of the connection by which this master proves that it is alive.
    outage: Outage | None = None

    # questions inside a transaction

    def lock_build_numbers(self, sql: Sql, builderid: int) -> None:
        """Let no other master number builds of this builder until the transaction ends."""

    def lock_buildset(self, sql: Sql, bsid: int) -> None:
        """Let no other master complete this buildset until the transaction ends."""

    def order_changes(self, sql: Sql) -> None:
        """Make changes become visible in the order of their ids.

        Change delivery records the last change that a scheduler has seen, so it would miss a change
        with a lower id that another master commits later.
        """

    def require_scheduler(self, conn: sa.engine.Connection, schedulerid: int) -> None:
        """Keep a scheduler on this master until the transaction ends.

        Raises NotOurs if this master does not have it.
        """

    def require_scheduler_named(self, conn: sa.engine.Connection, name: str | None) -> None:
        """Do as require_scheduler, by a name; does nothing if no scheduler has that name."""

    def has_scheduler_of_state(self, conn: sa.engine.Connection, objectid: int) -> bool:
        """Return whether this master has the scheduler that keeps its state under this object."""
        return True

    def configured_elsewhere(self, schedulerid: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
        """Return the condition that a master has the scheduler with this id configured."""
        return sa.false()

    def reporters_elsewhere(
        self, conn: sa.engine.Connection, kind: str, here: list[str]
    ) -> list[tuple[str, int]]:
        """Return the reporters that want the ends of a kind and that are not among those `here`.

        The kind is "builds" or "buildsets".  Each reporter comes with the id of the first master
        that has it.
        """
        return []

    # the life of a master

    async def enter(self) -> None:
        """Begin to use the database, before its tables are touched.  Raises StoreError."""

    def refuse_upgrade(self, conn: sa.engine.Connection) -> None:
        """Raise StoreError if the tables may not be changed now."""

    async def join(self) -> None:
        """Begin to prove to other masters that this one is alive.  Raises StoreError."""

    def started_as(self, startid: int) -> None:
        """Set the id of this start in litebot_starts, where others may record a takeover."""

    async def take_part(self) -> None:
        """Take over from dead masters from now on, as the start of this master is complete."""

    async def introduce(self) -> None:
        """Record what this master has configured, and announce it to the others."""

    async def leave(self) -> None:
        """Let others claim at once what only one master at a time may have."""

    async def close(self) -> None:
        """Stop proving that this master is alive, as the last part of a stop."""

    def own_reports(self) -> tuple[int, ...] | None:
        """Return the ids of the masters whose reports this one has to make; None means all."""
        return None

    async def reporters_of_others(self) -> dict[int, set[str]]:
        """Return the names of the reporters of each other master, by its id."""
        return {}

    async def masters_with_locks(self) -> set[str]:
        """Return the names of masters that prove by a lock, not a heartbeat, that they live."""
        return set()
