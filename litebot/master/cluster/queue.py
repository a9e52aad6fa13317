"""The message queue of masters that share a Postgres database."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet import defer

from litebot.master.cluster.events import Event
from litebot.master.delivery.queue import NEW_BUILDSET
from litebot.master.delivery.queue import DeliveryQueue
from litebot.master.delivery.queue import is_end
from litebot.master.delivery.queue import is_event
from litebot.master.delivery.queue import producing_master


class SharedQueue(DeliveryQueue):
    """Delivers at once on this master, and by the session of `master.cluster` on the others.

    Consumers get events of other masters in the order in which each of these has produced them.
    While an event of another master is delivered, `from_masterid` is that master's id.
    """

    from_masterid: int | None = None

    @defer.inlineCallbacks
    def startService(self) -> Any:
        yield super().startService()
        self.master.cluster.session.on_events = self._deliver

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        self.master.cluster.session.on_events = None
        yield super().stopService()

    def produce(self, routingKey: tuple[str, ...], data: Any) -> None:
        """Let all consumers have an event, on every master."""
        # A copy, as reporters add to what they get.
        self.master.cluster.session.send(routingKey, copy.copy(data))
        super().produce(routingKey, data)

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            with from_master(self, event.masterid):
                super().produce(event.key, event.message)

    def invokeQref(self, qref: Any, routingKey: tuple[str, ...], data: Any) -> None:
        if is_event(
            routingKey, NEW_BUILDSET
        ) and self.master.change_delivery.notify_buildset_consumer(qref):
            return
        if self.from_masterid is not None:
            outbox = self.master.outbox
            reporter = outbox.owner(qref)
            # Which master reports an end is in the table; all else is reported once, too.
            if reporter is not None and (
                is_end(routingKey) or outbox.is_told_there(reporter, self.from_masterid)
            ):
                return
        super().invokeQref(qref, routingKey, data)


SHARED_QUEUE = {"class": f"{__name__}.{SharedQueue.__name__}", "keys": {"debug"}}


@contextmanager
def from_master(queue: Any, masterid: int) -> Iterator[None]:
    """Within it, what this message queue delivers is an event of that other master."""
    before = producing_master(queue)
    queue.from_masterid = masterid
    try:
        yield
    finally:
        queue.from_masterid = before
