"""The message queue of masters that share a Postgres database."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from litebot.master.cluster.events import Event
from litebot.master.delivery.queue import NEW_BUILDSET
from litebot.master.delivery.queue import DeliveryQueue
from litebot.master.delivery.queue import is_end
from litebot.master.delivery.queue import is_event
from litebot.master.delivery.queue import producing_master


class SharedQueue(DeliveryQueue):
    """Delivers an event at once on this master, and through the cluster's session on the others.

    Consumers get the events of another master in the order in which it has produced them.  While an
    event of another master is delivered, `from_masterid` is that master's id.
    """

    from_masterid: int | None = None

    def produce(self, routingKey: tuple[str, ...], data: Any) -> None:
        """Deliver an event to all consumers on every master."""
        # The session gets a copy, as reporters add to the data that they get.
        self.master.cluster.session.send(routingKey, copy.copy(data))
        super().produce(routingKey, data)

    def deliver(self, events: list[Event]) -> None:
        """Deliver events of other masters, in order; does nothing unless the queue runs."""
        if not self.running:
            return
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
            # The outbox says which master reports an end; other events are reported once, too.
            if reporter is not None and (
                is_end(routingKey) or outbox.is_told_there(reporter, self.from_masterid)
            ):
                return
        super().invokeQref(qref, routingKey, data)


SHARED_QUEUE = {"class": f"{__name__}.{SharedQueue.__name__}", "keys": {"debug"}}


@contextmanager
def from_master(queue: Any, masterid: int) -> Iterator[None]:
    """Return a context in which what `queue` delivers counts as an event of another master."""
    before = producing_master(queue)
    queue.from_masterid = masterid
    try:
        yield
    finally:
        queue.from_masterid = before
