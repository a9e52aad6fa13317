"""Events that masters on one database send to each other, as rows of litebot_events, in order.

Every batch of rows is inserted under one lock of the server, so ids become visible in the order in
which they are assigned.  A reader that remembers the last id it has seen therefore misses nothing,
however long it was disconnected.  A NOTIFY only wakes the others: the events are in the table.
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

# The first of the two numbers of an advisory lock: "lbev".
ORDER_LOCK = 0x6C626576

KEEP_EVENTS_S = 600.0
DELETE_AT_ONCE = 5000
SEND_AT_ONCE = 500
SEND_CHARACTERS = 4_000_000
READ_AT_ONCE = 100
# The most events that wait for a connection.  If there are more, the others get a DROPPED event,
# and read the database instead.
MAX_WAITING = 100_000

# After this long without a read, events that were not read yet may have been pruned.
RECHECK_AFTER_S = KEEP_EVENTS_S / 4

# The key that marks a datetime in JSON.  No text from a database contains a NUL.
DATETIME = "\0datetime"


class Event(NamedTuple):
    """A message that was produced on the message queue of a master."""

    masterid: int
    key: tuple[str, ...]
    message: Any


# The key of an event that stands for others that were dropped.
DROPPED = ("litebot", "dropped")


# The query joins the lock's row with the rows to insert, so ids are assigned under the lock.
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

# Of the master's own rows only the ids are needed.
READ = """
    SELECT id, masterid, key,
        CASE WHEN masterid = %(masterid)s THEN '' ELSE body END
    FROM litebot_events WHERE id > %(position)s ORDER BY id LIMIT %(limit)s
"""

# The newest row stays, so that a master that was disconnected for long can see that it missed some.
PRUNE = """
    DELETE FROM litebot_events WHERE id < (SELECT max(id) FROM litebot_events) AND id IN (
        SELECT id FROM litebot_events
        WHERE id IN (SELECT id FROM litebot_events ORDER BY id LIMIT %(limit)s)
            AND sent_at < extract(epoch FROM clock_timestamp()) - %(keep_s)s
        FOR UPDATE SKIP LOCKED
    )
"""


class Events:
    """Sends and reads the events of one master.

    All methods but `add` must be called in the thread of the connection.  `position` is the id of
    the last event that was read.
    """

    def __init__(self, masterid: int) -> None:
        self.masterid = masterid
        self.position: int | None = None
        self.outgoing: deque[tuple[tuple[str, ...], Any]] = deque()
        self._batch: dict[str, list[Any]] | None = None
        self._in_doubt = False
        self._tried_at = 0.0  # when it last tried to insert the batch
        self._number = 0
        self._read_at = 0.0

    @property
    def has_unsent(self) -> bool:
        """Whether there are events to send, for the first time or again."""
        return self._batch is not None or bool(self.outgoing)

    def add(self, key: tuple[str, ...], message: Any) -> None:
        """Queue an event to be sent.  May be called in any thread."""
        if len(self.outgoing) == MAX_WAITING:
            key, message = DROPPED, None
        if len(self.outgoing) <= MAX_WAITING:
            self.outgoing.append((key, message))

    def listen(self, conn: psycopg.Connection[Any]) -> None:
        """Listen on a new connection: for events from now on, or where the last one ended."""
        conn.execute("LISTEN litebot_events")
        if self.position is None:
            self.position = _scalar(conn, "SELECT coalesce(max(id), 0) FROM litebot_events")
            self._number = self._last_number(conn)
            self._read_at = time.monotonic()
        self._in_doubt = self._batch is not None

    def drop(self, count: int) -> None:
        """Drop the batch and the next `count` events: nobody was there to receive them."""
        self._batch = None
        for _ in range(min(count, len(self.outgoing))):
            self.outgoing.popleft()

    def send(self, conn: psycopg.Connection[Any]) -> None:
        """Insert all events that wait, in batches; each is inserted once, even if `conn` is lost.

        After a long time without a connection nobody can know that; then a DROPPED event makes the
        others read the database.
        """
        if self._in_doubt and self._batch is not None:
            if self._last_number(conn) >= self._batch["numbers"][-1]:
                self._batch = None  # only the answer was lost
            elif time.monotonic() - self._tried_at > RECHECK_AFTER_S:
                self._batch = None  # it may have been inserted, and pruned since
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
        return _scalar(conn, query, self.masterid)

    def _next_batch(self) -> dict[str, list[Any]]:
        batch: dict[str, list[Any]] = {"numbers": [], "keys": [], "bodies": []}
        characters = 0
        while self.outgoing and len(batch["numbers"]) < SEND_AT_ONCE:
            key, message = self.outgoing.popleft()
            try:
                body = encode(message)
            except (TypeError, ValueError) as error:
                log.err(error, f"the event {key} can't be sent to other masters")
                continue
            self._number += 1
            for name, value in zip(batch, (self._number, json.dumps(key), body), strict=True):
                batch[name].append(value)
            characters += len(body)
            if characters > SEND_CHARACTERS:
                break
        return batch

    def read(self, conn: psycopg.Connection[Any]) -> tuple[list[Event], bool]:
        """Return the next events of other masters, and whether there may be more.

        An event with the key DROPPED comes first if some have been pruned before they were read.
        """
        found: list[Event] = []
        now = time.monotonic()
        if now - self._read_at > RECHECK_AFTER_S:
            first = _scalar(conn, "SELECT coalesce(min(id), 0) FROM litebot_events")
            if first > (self.position or 0) + 1:
                found.append(Event(self.masterid, DROPPED, None))
        values = {"masterid": self.masterid, "position": self.position, "limit": READ_AT_ONCE}
        rows = conn.execute(READ, values).fetchall()
        self._read_at = now  # only after the query succeeded, so that a retry checks again
        for eventid, masterid, key, body in rows:
            self.position = eventid
            if masterid != self.masterid:
                found.append(Event(masterid, tuple(json.loads(key)), decode(body)))
        return found, len(rows) == READ_AT_ONCE

    def prune(self, conn: psycopg.Connection[Any]) -> None:
        """Delete the events of all masters that are older than KEEP_EVENTS_S."""
        values = {"limit": DELETE_AT_ONCE, "keep_s": KEEP_EVENTS_S}
        while conn.execute(PRUNE, values).rowcount >= DELETE_AT_ONCE:
            pass


def _scalar(conn: psycopg.Connection[Any], query: str, *values: Any) -> int:
    row = conn.execute(query.encode(), values).fetchone()
    assert row is not None
    found: int = row[0]
    return found


def encode(message: Any) -> str:
    """Encode a message of Buildbot's as ASCII-only JSON.

    Raises TypeError or ValueError if it has a key that is not text, or contains itself.
    """
    return json.dumps(message, default=_encode)


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return {DATETIME: value.timestamp()}
    if isinstance(value, bytes):
        return bytes2unicode(value, errors="replace")
    return None  # like Buildbot's toJson


def decode(body: str) -> Any:
    """Return the message that `encode` was given, with lists in place of tuples."""
    return json.loads(body, object_hook=_decode)


def _decode(value: dict[str, Any]) -> Any:
    epoch = value.get(DATETIME)
    if len(value) == 1 and isinstance(epoch, int | float):
        return datetime.fromtimestamp(epoch, UTC)
    return value
