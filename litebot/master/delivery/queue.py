"""Buildbot's message queue, except for new changes and for the ends of builds and buildsets.

Those must arrive at schedulers and at reporters, so change delivery and the outbox deliver them.
"""

from __future__ import annotations

import pprint
from typing import Any

from buildbot.mq import simple
from buildbot.util.eventual import eventually
from twisted.internet import defer
from twisted.python import log

from litebot.master.delivery.consumers import Consumers
from litebot.master.delivery.outbox import ENDS

NEW_CHANGE = ("changes", None, "new")
NEW_BUILDSET = ("buildsets", None, "new")
COMPLETE_BUILDSET = ("buildsets", None, "complete")


def is_event(routing_key: tuple[str, ...], pattern: tuple[str | None, ...]) -> bool:
    """Return whether an event matches a pattern such as NEW_CHANGE, whatever its id is."""
    return routing_key[0] == pattern[0] and routing_key[-1] == pattern[-1]


def is_end(routing_key: tuple[str, ...]) -> bool:
    """Return whether an event is the end of a build or a buildset."""
    return len(routing_key) == 3 and ENDS.get(routing_key[0]) == routing_key[-1]


class DeliveryQueue(simple.SimpleMQ):
    """Leaves new changes to `master.change_delivery`, and ends to `master.outbox`.

    So schedulers get changes in order, each once, and reporters get each end at least once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.qrefs = Consumers()

    def produce(self, routingKey: tuple[str, ...], data: Any) -> None:
        """Call the consumers of an event, in the order in which they have come."""
        if self.debug:
            log.msg(f"MSG: {routingKey}\n{pprint.pformat(data)}")
        for qref in self.qrefs.matching(routingKey):
            self.invokeQref(qref, routingKey, data)

    def invokeQref(self, qref: Any, routingKey: tuple[str, ...], data: Any) -> None:
        if is_event(routingKey, NEW_CHANGE) and self.master.change_delivery.notify_change_consumer(
            qref
        ):
            return
        reporter = self.master.outbox.owner(qref) if routingKey[0] in ENDS else None
        only = getattr(reporter, "only_builderid", None)
        if only is not None and data.get("builderid") not in (None, only):
            return
        if reporter is None or not is_end(routingKey):
            super().invokeQref(qref, routingKey, data)
        else:
            delivered = self.master.outbox.deliver(reporter, qref, routingKey, data)
            self._deferwaiter.add(defer.ensureDeferred(delivered))

    def startConsuming(
        self, callback: Any, filter: tuple[str | None, ...], persistent_name: str | None = None
    ) -> defer.Deferred[Any]:
        if filter == NEW_CHANGE:  # a scheduler may have missed some
            eventually(self.master.change_delivery.check_all)
        if filter == COMPLETE_BUILDSET:  # a Dependent scheduler may have missed a new buildset
            eventually(self.master.change_delivery.notify_dependents)
        return super().startConsuming(callback, filter, persistent_name)


QUEUE = {"class": f"{__name__}.{DeliveryQueue.__name__}", "keys": {"debug"}}


def producing_master(queue: Any) -> int | None:
    """Return the id of the other master whose event `queue` is delivering.

    Returns None for an event of this master, and for a queue that does not know.
    """
    masterid: int | None = getattr(queue, "from_masterid", None)
    return masterid
