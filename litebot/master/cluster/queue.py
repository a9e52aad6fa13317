"""The message queue of masters that share a Postgres database."""

from __future__ import annotations

import copy
from typing import Any

from twisted.internet import defer

from litebot.master.cluster.events import Event
from litebot.master.delivery.queue import DeliveryQueue
from litebot.master.delivery.queue import from_master


class PostgresMQ(DeliveryQueue):
    """Delivers at once on this master, as ever, and by `master.session` on the others.

    Consumers get events of other masters in the order in which each of these has produced them.
    """

    @defer.inlineCallbacks
    def startService(self) -> Any:
        yield super().startService()
        self.master.session.on_events = self._deliver

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        self.master.session.on_events = None
        yield super().stopService()

    def produce(self, routingKey: tuple[str, ...], data: Any) -> None:
        """Tell all consumers."""
        # A copy, as reporters add to what they get.
        self.master.session.send(routingKey, copy.copy(data))
        super().produce(routingKey, data)

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            with from_master(self, event.masterid):
                super().produce(event.key, event.message)
