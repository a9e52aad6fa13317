"""Subscriptions to events: what a user may hear of, how many there may be, and slow readers."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

from buildbot.data.base import EndpointKind
from buildbot.data.exceptions import InvalidPathError
from buildbot.www.authz import Forbidden
from twisted.internet import defer
from twisted.python import log

# How many times `subscriptions` all anonymous visitors may have together.
PAGES = 16
# How much is kept for a reader who takes nothing; a page that is cut off loads anew.
MOST_UNSENT_BYTES = 256 * 1024
LONGEST_PATH = 1024
MOST_PARTS = 16

Path = tuple[str | None, ...]


def parse(path: str) -> Path:
    """Return a path such as "builds/*/new" as the message queue takes it.  Raises ValueError."""
    parts = path.split("/")
    if len(path) > LONGEST_PATH or len(parts) > MOST_PARTS:
        raise ValueError("the path is too long")
    return tuple(None if part == "*" else part for part in parts)


class EventReader:
    """One connection that reads events; each event is sent once, however many paths it matches.

    `send` gets the key and the message of each event, and `close` ends the connection.
    """

    def __init__(
        self, subscriptions: Subscriptions, address: str, send: Any, close: Callable[[], None]
    ) -> None:
        self._all = subscriptions
        self.address = address
        self.is_anonymous = True
        self._send = send
        self._close = close
        self._paths: dict[str, Path] = {}
        self._last: tuple[Any, Any] | None = None
        self._is_closed = False
        self._unsent = 0
        self._timer: Any = None
        subscriptions.readers.add(self)

    def __len__(self) -> int:
        return len(self._paths)

    def start(self, path: str) -> bool:
        """Subscribe to the events of a path; return False if that is one subscription too many.

        Raises ValueError if the path is too long.
        """
        pattern = parse(path)
        if path in self._paths or self._is_closed:
            return True
        if not self._all.may_add(self):
            return False
        self._paths[path] = pattern
        self._all.add(self, pattern)
        return True

    def stop(self, path: str) -> bool:
        """End a subscription; return False if there is none to this path."""
        if path not in self._paths:
            return False
        self._all.remove(self, self._paths.pop(path))
        return True

    def end(self) -> None:
        """End all subscriptions, because the connection is gone."""
        self._is_closed = True
        for path in list(self._paths):
            self.stop(path)
        self._all.readers.discard(self)
        self.resumeProducing()

    def cut_off(self, reason: str) -> None:
        """Close the connection."""
        if not self._is_closed:
            self._all.master.refusals.note(reason, f"from {self.address}")
            self.end()
            self._close()

    def on_event(self, key: Any, message: Any) -> None:
        """Send an event of a path that the reader has subscribed to."""
        # An event that several paths match comes once for each of them, one after the other.
        last, self._last = self._last, (key, message)
        if last is not None and last[0] == key and last[1] is message:
            return
        if not self._is_closed:
            self._send(key, message)

    # What a connection that is full calls

    def note_sent(self, size: int) -> None:
        """Count what was given to the connection, which keeps it while the reader takes nothing."""
        if self._timer is not None:
            self._unsent += size
            if self._unsent > MOST_UNSENT_BYTES:
                self.cut_off("events that nobody reads")

    def pauseProducing(self) -> None:
        """Begin to count what is sent, and close the connection if it stays full."""
        if self._timer is None and not self._is_closed:
            self._unsent = 0
            master = self._all.master
            self._timer = master.reactor.callLater(
                master.settings.limits.answer_seconds, self._cut_off_slow
            )

    def _cut_off_slow(self) -> None:
        self._timer = None
        self.cut_off("events that nobody reads")

    def resumeProducing(self) -> None:
        """Note that the reader has taken all that was sent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stopProducing(self) -> None:
        """Note that the connection is lost."""
        self.end()


class _Topic:
    """All readers of one pattern.  The message queue calls it once, however many they are."""

    def __init__(self) -> None:
        self.readers: dict[EventReader, None] = {}  # in order
        self._qref: Any = None
        self._is_over = False

    def on_event(self, key: Any, message: Any) -> None:
        for reader in list(self.readers):
            reader.on_event(key, message)

    def begun(self, qref: Any) -> None:
        self._qref = qref
        if self._is_over:
            qref.stopConsuming()

    def end(self) -> None:
        """Leave the queue."""
        self._is_over = True
        if self._qref is not None:
            self._qref.stopConsuming()


class Subscriptions:
    """All readers of events; anonymous visitors may have so many subscriptions together."""

    def __init__(self, master: Any) -> None:
        self.master = master
        self.readers: set[EventReader] = set()
        self._topics: dict[Path, _Topic] = {}

    def add(self, reader: EventReader, pattern: Path) -> None:
        """Send a reader the events that match a pattern."""
        if (topic := self._topics.get(pattern)) is None:
            topic = self._topics[pattern] = _Topic()
            d = defer.maybeDeferred(self.master.mq.startConsuming, topic.on_event, pattern)
            d.addCallbacks(topic.begun, log.err)
        topic.readers[reader] = None

    def remove(self, reader: EventReader, pattern: Path) -> None:
        """Send a reader no more events that match a pattern."""
        topic = self._topics[pattern]
        del topic.readers[reader]
        if not topic.readers:
            del self._topics[pattern]
            topic.end()

    def may_add(self, reader: EventReader) -> bool:
        """Return whether a reader may have one more subscription.

        Where all anonymous visitors have too many, the reader who has most is cut off, of the
        address that has most.
        """
        most = self.master.settings.limits.subscriptions
        if len(reader) >= most:
            self.master.refusals.note("too many subscriptions", f"from {reader.address}")
            return False
        anonymous = [other for other in self.readers if other.is_anonymous]
        if reader.is_anonymous and sum(map(len, anonymous)) >= PAGES * most:
            by_address: Counter[str] = Counter()
            for other in anonymous:
                by_address[other.address] += len(other)
            ((address, _),) = by_address.most_common(1)
            largest = max((o for o in anonymous if o.address == address), key=len)
            largest.cut_off("too many subscriptions of all visitors")
            return largest is not reader
        return True

    async def require_allowed(self, path: str, user_info: dict[str, Any]) -> None:
        """Raise Forbidden unless a user may GET what the events of a path are about.

        Raises ValueError if the path is too long.
        """
        for endpoint in self._endpoints(parse(path)):
            # An authz from master.cfg may answer without a Deferred.
            check = self.master.www.authz.assertUserAllowed
            try:
                await defer.maybeDeferred(check, endpoint, "GET", {}, user_info)
            except Forbidden:
                raise
            except Exception as error:
                # A rule that looks at a build, say, may fail where a path is about all of them.
                self.master.refusals.note("a rule on reading that fails", f"{endpoint}: {error!r}")
                raise Forbidden(b"you may not read this") from error

    def _endpoints(self, path: Path) -> set[tuple[str, ...]]:
        """Return the endpoints of REST where the content of a path's events can be read.

        A path with `*` has the content of a list.  What is at no endpoint may be heard by who may
        see the masters, as in Buildbot.
        """
        if path[:1] == (None,):
            return self._all_endpoints
        filled = tuple("0" if part is None else part for part in path)
        lists = [filled[:i] for i, part in enumerate(path) if part is None]
        if found := {e for e in lists if self._kind(e) == EndpointKind.COLLECTION}:
            return found
        prefixes = (filled[:length] for length in range(len(filled), 0, -1))
        return {next((e for e in prefixes if self._kind(e) is not None), ("masters",))}

    @functools.cached_property
    def _all_endpoints(self) -> set[tuple[str, ...]]:
        """The endpoints where the content of any event can be read."""
        found = set()
        for rtype in vars(self.master.data.rtypes).values():
            for pattern in rtype.eventPaths:
                parts = (None if part.startswith("{") else part for part in pattern.split("/"))
                found |= self._endpoints((*parts, None))
        return found

    def _kind(self, endpoint: tuple[str, ...]) -> EndpointKind | None:
        try:
            found, _ = self.master.data.getEndpoint(endpoint)
        except InvalidPathError:
            return None
        kind: EndpointKind = found.kind
        return kind
