"""A listener of a master's session that keeps what the session has reported."""

from __future__ import annotations

from twisted.internet import defer

from litebot.errors import StoreError
from litebot.master.cluster.events import Event
from litebot.master.db.pool import Outage


class Heard:
    """See litebot.master.cluster.session.Listener.  `heard` has the numbers in events."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.dead: list[int] = []
        self.gaps = 0
        self.taking = defer.succeed(None)
        self.failures: list[StoreError] = []
        self.outages: list[str] = []

    def on_events(self, events: list[Event]) -> None:
        self.heard += [event.message["number"] for event in events]

    def on_gap(self) -> None:
        self.gaps += 1

    def on_dead(self, masterid: int, holder: int) -> defer.Deferred[None]:
        self.dead.append(masterid)
        return self.taking

    def on_failure(self, error: StoreError) -> None:
        self.failures.append(error)

    def on_outage(self, outage: Outage | None) -> None:
        self.outages.append(outage.words if outage else "over")
