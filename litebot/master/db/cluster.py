"""What the master of a state file answers where several masters on one database have to agree.

A master is given its cluster when it is made: `Alone`, as here, or on Postgres `Shared` (see
litebot.master.cluster.shared), which answers the same questions for several masters.  Code asks the
question that it has, such as `lock_build_numbers`, and never whether there are other masters.
"""

from __future__ import annotations

import sqlalchemy as sa
from buildbot.util import service

from litebot.master.db.pool import Outage
from litebot.store.sql import Sql


class Alone(service.AsyncService):
    """The only master on its database: nothing to lock, nobody to ask and nobody to inform.

    `master.cluster`.  Methods that take `sql` or `conn` are called inside a transaction, which
    keeps their locks until it ends; they commit nothing.
    """

    name: str | None = "cluster"

    # Whether a report may be due on a master other than the one on which a build ends.
    others_may_report = False

    # Since when the connection on which this master proves that it is alive has failed.
    outage: Outage | None = None

    # questions inside a transaction

    def lock_build_numbers(self, sql: Sql, builderid: int) -> None:
        """Let nobody else number builds of this builder until the transaction ends."""

    def lock_buildset(self, sql: Sql, bsid: int) -> None:
        """Let nobody else complete this buildset until the transaction ends."""

    def order_changes(self, sql: Sql) -> None:
        """Have changes become visible in the order of their ids.

        A scheduler remembers the last change that it has seen, so it would miss one with a lower
        id that another master commits later.
        """

    def require_scheduler(self, conn: sa.engine.Connection, schedulerid: int) -> None:
        """Keep a scheduler on this master until the transaction ends.

        Raises NotOurs where another master has it.
        """

    def require_scheduler_named(self, conn: sa.engine.Connection, name: str | None) -> None:
        """As require_scheduler, by the scheduler's name; nothing happens where none has it."""

    def has_scheduler_of_state(self, conn: sa.engine.Connection, objectid: int) -> bool:
        """Whether the scheduler that keeps its state under this object is on this master."""
        return True

    def configured_elsewhere(self, schedulerid: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
        """The condition that some master has the scheduler with this id in its configuration."""
        return sa.false()

    def reporters_elsewhere(
        self, conn: sa.engine.Connection, kind: str, here: list[str]
    ) -> list[tuple[str, int]]:
        """The reporters that want the end of a kind ("builds", "buildsets") and are not `here`.

        Each comes with the id of the first master that has it.
        """
        return []

    # the life of a master

    async def enter(self) -> None:
        """Begin on the database, before its tables are touched.  Raises StoreError."""

    def refuse_upgrade(self, conn: sa.engine.Connection) -> None:
        """Raise StoreError where the tables may not be changed now."""

    async def join(self) -> None:
        """Become a master that others know to be alive.  Raises StoreError."""

    def started_as(self, startid: int) -> None:
        """Remember the row of this start in litebot_starts, by which others may stop it."""

    async def take_part(self) -> None:
        """Take over from others from now on: the start of this master is complete."""

    async def introduce(self) -> None:
        """Write down what this master has configured, for the others to know."""

    async def leave(self) -> None:
        """Let others have, at once, what only one master at a time does."""

    async def close(self) -> None:
        """Cease to be alive for the others, as the last thing of a stop."""

    def own_reports(self) -> tuple[int, ...] | None:
        """The ids of masters whose reports are this one's to make; None means all of them."""
        return None

    async def reporters_of_others(self) -> dict[int, set[str]]:
        """The names of the reporters of each other master, by its id."""
        return {}

    async def masters_with_locks(self) -> set[str]:
        """The names of masters that prove by a lock, not by a heartbeat, that they are alive."""
        return set()
