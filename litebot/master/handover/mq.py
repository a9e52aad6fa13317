"""Buildbot's message queue, but for what must arrive: changes at schedulers, ends at reporters."""

from __future__ import annotations

from typing import Any

from buildbot.mq import simple
from buildbot.util.eventual import eventually
from twisted.internet import defer

from litebot.master.outbox import ENDS

NEW_CHANGE = ("changes", None, "new")


class HandoverMQ(simple.SimpleMQ):
    """Leaves new changes for schedulers to `master.handovers`, and reports to `master.outbox`."""

    def invokeQref(self, qref: Any, routingKey: tuple[str, ...], data: Any) -> None:
        is_change = routingKey[0] == NEW_CHANGE[0] and routingKey[-1] == NEW_CHANGE[-1]
        if is_change and self.master.handovers.take(qref):
            return
        if len(routingKey) == 3 and ENDS.get(routingKey[0]) == routingKey[-1]:
            reporter = self.master.outbox.owner(qref)
            if reporter is not None:
                told = self.master.outbox.deliver(reporter, qref, routingKey, data)
                self._deferwaiter.add(defer.ensureDeferred(told))
                return
        super().invokeQref(qref, routingKey, data)

    def startConsuming(
        self, callback: Any, filter: tuple[str | None, ...], persistent_name: str | None = None
    ) -> defer.Deferred[Any]:
        if filter == NEW_CHANGE:  # a scheduler may have missed some
            eventually(self.master.handovers.look)
        return super().startConsuming(callback, filter, persistent_name)


MQ_CLASS = {"class": f"{__name__}.{HandoverMQ.__name__}", "keys": {"debug"}}
