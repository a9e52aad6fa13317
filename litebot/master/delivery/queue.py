"""Buildbot's message queue, but for what must arrive: changes at schedulers, ends at reporters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from buildbot.mq import simple
from buildbot.util.eventual import eventually
from twisted.internet import defer

from litebot.master.delivery.outbox import ENDS

NEW_CHANGE = ("changes", None, "new")
NEW_BUILDSET = ("buildsets", None, "new")
COMPLETE_BUILDSET = ("buildsets", None, "complete")


class DeliveryQueue(simple.SimpleMQ):
    """Leaves new changes for schedulers to `master.handovers`, and reports to `master.outbox`.

    While it delivers an event of another master, `from_masterid` is that master's id.
    """

    from_masterid: int | None = None

    def invokeQref(self, qref: Any, routingKey: tuple[str, ...], data: Any) -> None:
        outbox = self.master.outbox
        is_change = routingKey[0] == NEW_CHANGE[0] and routingKey[-1] == NEW_CHANGE[-1]
        if is_change and self.master.change_delivery.take(qref):
            return
        is_buildset = routingKey[0] == NEW_BUILDSET[0] and routingKey[-1] == NEW_BUILDSET[-1]
        if is_buildset and self.master.change_delivery.take_buildset(qref):
            return
        is_end = len(routingKey) == 3 and ENDS.get(routingKey[0]) == routingKey[-1]
        producing_master = self.from_masterid
        reporter = outbox.owner(qref) if is_end or producing_master is not None else None
        if reporter is not None and producing_master is not None:
            # Who is to tell of an end is in the table; what else there is, is told once too.
            if is_end or outbox.is_told_there(reporter, producing_master):
                return
        elif reporter is not None:
            told = outbox.deliver(reporter, qref, routingKey, data)
            self._deferwaiter.add(defer.ensureDeferred(told))
            return
        super().invokeQref(qref, routingKey, data)

    def startConsuming(
        self, callback: Any, filter: tuple[str | None, ...], persistent_name: str | None = None
    ) -> defer.Deferred[Any]:
        if filter == NEW_CHANGE:  # a scheduler may have missed some
            eventually(self.master.change_delivery.wake_all)
        if filter == COMPLETE_BUILDSET:  # a Dependent one may have missed what it is to wait for
            eventually(self.master.change_delivery.tell_dependents)
        return super().startConsuming(callback, filter, persistent_name)


@contextmanager
def from_master(queue: Any, masterid: int) -> Iterator[None]:
    """Within it, what this message queue delivers is an event of that other master."""
    before = producing_master(queue)
    queue.from_masterid = masterid
    try:
        yield
    finally:
        queue.from_masterid = before


def producing_master(queue: Any) -> int | None:
    """The master of which an event is being delivered; None: this one, or it is not known."""
    masterid: int | None = getattr(queue, "from_masterid", None)
    return masterid


MQ_CLASS = {"class": f"{__name__}.{DeliveryQueue.__name__}", "keys": {"debug"}}
