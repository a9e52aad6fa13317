"""Buildbot's message queue, but for new changes that are meant for a scheduler."""

from __future__ import annotations

from typing import Any

from buildbot.mq import simple
from buildbot.util.eventual import eventually
from twisted.internet import defer

NEW_CHANGE = ("changes", None, "new")


class HandoverMQ(simple.SimpleMQ):
    """Leaves new changes for schedulers to `master.handovers`."""

    def invokeQref(self, qref: Any, routingKey: tuple[str, ...], data: Any) -> None:
        is_change = routingKey[0] == NEW_CHANGE[0] and routingKey[-1] == NEW_CHANGE[-1]
        if not (is_change and self.master.handovers.take(qref)):
            super().invokeQref(qref, routingKey, data)

    def startConsuming(
        self, callback: Any, filter: tuple[str | None, ...], persistent_name: str | None = None
    ) -> defer.Deferred[Any]:
        if filter == NEW_CHANGE:  # a scheduler may have missed some
            eventually(self.master.handovers.look)
        return super().startConsuming(callback, filter, persistent_name)


MQ_CLASS = {"class": f"{__name__}.{HandoverMQ.__name__}", "keys": {"debug"}}
