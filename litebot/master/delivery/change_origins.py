"""Where changes come from, recorded in their transaction, so that each is added once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from litebot.master.db.components.changes import STAMP
from litebot.master.db.components.changes import ChangeOrigin
from litebot.master.db.components.changes import Columns
from litebot.master.delivery.states import get_state
from litebot.master.delivery.states import set_state
from litebot.store.sql import Sql

# How long deliveries are remembered.  GitHub can redeliver what is up to three days old.
# Source: https://docs.github.com/en/webhooks/testing-and-troubleshooting-webhooks
KEEP_DELIVERIES_S = 7 * 24 * 3600.0

# What a task calls and awaits sees this value, and no other task does, as in `effects`.
change_origin: ContextVar[ChangeOrigin | None] = ContextVar("origin", default=None)


class IdempotencyKey:
    """The key of a delivery that may come again: names that are the same each time.

    The key covers the changes too: other changes under the same names are another delivery.
    """

    def __init__(self, *names: str) -> None:
        self._names = names

    def write(self, sql: Sql, changes: Sequence[Columns]) -> bool:
        now = time.time()
        stamps = [[change[name] for name in STAMP] for change in changes]
        key = hashlib.sha256(json.dumps([self._names, stamps]).encode()).hexdigest()
        if sql.write("UPDATE litebot_deliveries SET taken_at = ? WHERE id = ?", now, key):
            return False
        # Another master on the same database may be adding the same delivery at this moment.
        query = "INSERT INTO litebot_deliveries (id, taken_at) VALUES (?, ?) ON CONFLICT DO NOTHING"
        if not sql.write(query, key, now):
            return False
        sql.write("DELETE FROM litebot_deliveries WHERE taken_at < ?", now - KEEP_DELIVERIES_S)
        return True

    def written(self, changes: Sequence[Columns]) -> None:
        pass


@dataclass
class BranchProgress:
    """How far a poller has got with a branch; its state `name` maps branches to revisions."""

    objectid: int
    name: str
    branch: str
    reached: str | None = None  # the last revision that is stored

    def write(self, sql: Sql, changes: Sequence[Columns]) -> bool:
        def advance(conn: sa.engine.Connection) -> None:
            revisions = get_state(conn, self.objectid, self.name) or {}
            revisions[self.branch] = changes[-1]["revision"]
            set_state(conn, self.objectid, self.name, revisions)

        sql.with_connection(advance)
        return True

    def written(self, changes: Sequence[Columns]) -> None:
        self.reached = changes[-1]["revision"]


@dataclass
class SeenState:
    """A state that records that a change was seen."""

    name: str
    value: Any
    objectid: int = 0

    def belongs_to(self, objectid: int) -> None:
        """Set the object whose state it is."""
        self.objectid = objectid

    def write(self, sql: Sql, changes: Sequence[Columns]) -> bool:
        sql.with_connection(lambda conn: set_state(conn, self.objectid, self.name, self.value))
        return True

    def written(self, changes: Sequence[Columns]) -> None:
        pass


@dataclass
class UnreadCommit:
    """A commit that could not be read before, by a state that maps branches to such revisions."""

    objectid: int
    name: str
    branch: str
    revision: str
    is_stored: bool = False

    def write(self, sql: Sql, changes: Sequence[Columns]) -> bool:
        def forget(conn: sa.engine.Connection) -> None:
            unread = get_state(conn, self.objectid, self.name) or {}
            left = [each for each in unread.get(self.branch, []) if each != self.revision]
            set_state(conn, self.objectid, self.name, {**unread, self.branch: left})

        sql.with_connection(forget)
        return True

    def written(self, changes: Sequence[Columns]) -> None:
        self.is_stored = True
