"""What masters on one database tell each other: rows of litebot_events, in order.

Ids are given and become visible in the same order, as every batch of rows is inserted under one
lock of the server; so a reader that remembers the last id it has seen misses nothing, however long
it was away.  A NOTIFY only wakes the others: what there is to read is in the table.
"""

from __future__ import annotations

import json
import time
from collections import deque
from datetime import UTC
from datetime import datetime
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

from buildbot.util import bytes2unicode
from twisted.python import log

if TYPE_CHECKING:
    import psycopg

# Also as a class of the server's advisory locks, of two numbers each: "lbev".
ORDER_LOCK = 0x6C626576

KEEP_EVENTS_S = 600.0
DELETE_AT_ONCE = 5000
SEND_AT_ONCE = 500
SEND_CHARACTERS = 4_000_000
READ_AT_ONCE = 100
# Of events that wait for a connection; with more the others are told to look for themselves.
WAITING = 100_000

# After this long without a look it has to be asked whether what was missed is still there.
ASK_AGAIN_S = KEEP_EVENTS_S / 4

# What stands for a datetime in JSON.  No text that came through a database has a NUL.
DATETIME = "\0datetime"


class Event(NamedTuple):
    """What a message queue was told to produce, and on which master."""

    masterid: int
    key: tuple[str, ...]
    message: Any


# The key of an event that stands for some that were dropped.
DROPPED = ("litebot", "dropped")


# The lock's row comes before any row of the table, so ids are given under the lock.
INSERT = """
    WITH ordered AS MATERIALIZED (SELECT pg_advisory_xact_lock(%(lock)s, 0)),
    inserted AS (
        INSERT INTO litebot_events (masterid, number, sent_at, key, body)
        SELECT %(masterid)s, number, extract(epoch FROM clock_timestamp()), key, body
        FROM ordered, unnest(%(numbers)s::bigint[], %(keys)s::text[], %(bodies)s::text[])
            AS sent (number, key, body)
        ORDER BY number
        RETURNING 1
    )
    SELECT pg_notify('litebot_events', ''), count(*) FROM inserted
"""

# One's own rows are read for their ids alone.
READ = """
    SELECT id, masterid, key,
        CASE WHEN masterid = %(masterid)s THEN '' ELSE body END
    FROM litebot_events WHERE id > %(position)s ORDER BY id LIMIT %(limit)s
"""

# The newest row stays, so that who was away long can see that it has missed some.
PRUNE = """
    DELETE FROM litebot_events WHERE id < (SELECT max(id) FROM litebot_events) AND id IN (
        SELECT id FROM litebot_events
        WHERE id IN (SELECT id FROM litebot_events ORDER BY id LIMIT %(limit)s)
            AND sent_at < extract(epoch FROM clock_timestamp()) - %(keep_s)s
        FOR UPDATE SKIP LOCKED
    )
"""


class Events:
    """One master's part of the table; all but `add` is called in the thread of its connection.

    `position` is the id of the last event that was read.
    """

    def __init__(self, masterid: int) -> None:
        self.masterid = masterid
        self.position: int | None = None
        self.outgoing: deque[tuple[tuple[str, ...], Any]] = deque()
        self._batch: dict[str, list[Any]] | None = None
        self._in_doubt = False
        self._tried_at = 0.0  # to insert the batch
        self._number = 0
        self._looked_at = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether there is something to be sent, for the first time or again."""
        return self._batch is not None or bool(self.outgoing)

    def add(self, key: tuple[str, ...], message: Any) -> None:
        """Have an event sent; may be called in any thread."""
        if len(self.outgoing) == WAITING:
            key, message = DROPPED, None
        if len(self.outgoing) <= WAITING:
            self.outgoing.append((key, message))

    def listen(self, conn: psycopg.Connection[Any]) -> None:
        """Begin on a new connection: with what comes from now on, or where the last one ended."""
        conn.execute("LISTEN litebot_events")
        if self.position is None:
            self.position = _one(conn, "SELECT coalesce(max(id), 0) FROM litebot_events")
            self._number = self._last_number(conn)
            self._looked_at = time.monotonic()
        self._in_doubt = self._batch is not None

    def drop(self, count: int) -> None:
        """Forget the first events that wait: nobody was there to hear them."""
        self._batch = None
        for _ in range(min(count, len(self.outgoing))):
            self.outgoing.popleft()

    def send(self, conn: psycopg.Connection[Any]) -> None:
        """Insert all that waits, in batches; each is there once, whatever becomes of `conn`.

        Where that can't be known after a long time without one, the others are told to look.
        """
        if self._in_doubt and self._batch is not None:
            if self._last_number(conn) >= self._batch["numbers"][-1]:
                self._batch = None  # only the answer was lost
            elif time.monotonic() - self._tried_at > ASK_AGAIN_S:
                self._batch = None  # it may have been there, and be pruned
                self.outgoing.appendleft((DROPPED, None))
            self._in_doubt = False
        while self._batch is not None or self.outgoing:
            if self._batch is None:
                self._batch = self._next_batch()
            if self._batch["numbers"]:
                mine = {"lock": ORDER_LOCK, "masterid": self.masterid}
                self._tried_at = time.monotonic()
                conn.execute(INSERT, mine | self._batch)
            self._batch = None

    def _last_number(self, conn: psycopg.Connection[Any]) -> int:
        query = "SELECT coalesce(max(number), 0) FROM litebot_events WHERE masterid = %s"
        return _one(conn, query, self.masterid)

    def _next_batch(self) -> dict[str, list[Any]]:
        batch: dict[str, list[Any]] = {"numbers": [], "keys": [], "bodies": []}
        characters = 0
        while self.outgoing and len(batch["numbers"]) < SEND_AT_ONCE:
            key, message = self.outgoing.popleft()
            try:
                body = encode(message)
            except (TypeError, ValueError) as error:
                log.err(error, f"the event {key} can't be told to other masters")
                continue
            self._number += 1
            for name, value in zip(batch, (self._number, json.dumps(key), body), strict=True):
                batch[name].append(value)
            characters += len(body)
            if characters > SEND_CHARACTERS:
                break
        return batch

    def read(self, conn: psycopg.Connection[Any]) -> tuple[list[Event], bool]:
        """The next events of other masters, and whether there may be more.

        DROPPED is the key of one where some are not there any more.
        """
        found: list[Event] = []
        now = time.monotonic()
        if now - self._looked_at > ASK_AGAIN_S:
            first = _one(conn, "SELECT coalesce(min(id), 0) FROM litebot_events")
            if first > (self.position or 0) + 1:
                found.append(Event(self.masterid, DROPPED, None))
        values = {"masterid": self.masterid, "position": self.position, "limit": READ_AT_ONCE}
        rows = conn.execute(READ, values).fetchall()
        self._looked_at = now  # and not where it fails: then it is asked again
        for eventid, masterid, key, body in rows:
            self.position = eventid
            if masterid != self.masterid:
                found.append(Event(masterid, tuple(json.loads(key)), decode(body)))
        return found, len(rows) == READ_AT_ONCE

    def prune(self, conn: psycopg.Connection[Any]) -> None:
        """Delete what is older than KEEP_EVENTS_S, whoever has sent it."""
        values = {"limit": DELETE_AT_ONCE, "keep_s": KEEP_EVENTS_S}
        while conn.execute(PRUNE, values).rowcount >= DELETE_AT_ONCE:
            pass


def _one(conn: psycopg.Connection[Any], query: str, *values: Any) -> int:
    row = conn.execute(query.encode(), values).fetchone()
    assert row is not None
    found: int = row[0]
    return found


def encode(message: Any) -> str:
    """A message of Buildbot's as JSON, ASCII only.

    Raises TypeError or ValueError where it has a key that is no text, or a loop.
    """
    return json.dumps(message, default=_encode)


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return {DATETIME: value.timestamp()}
    if isinstance(value, bytes):
        return bytes2unicode(value, errors="replace")
    return None  # as Buildbot's toJson


def decode(body: str) -> Any:
    """What `encode` was given, but lists for tuples."""
    return json.loads(body, object_hook=_decode)


def _decode(value: dict[str, Any]) -> Any:
    epoch = value.get(DATETIME)
    if len(value) == 1 and isinstance(epoch, int | float):
        return datetime.fromtimestamp(epoch, UTC)
    return value
