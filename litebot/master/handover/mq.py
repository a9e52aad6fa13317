"""Buildbot's message queue, but for what must arrive: changes at schedulers, ends at reporters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from buildbot.mq import simple
from buildbot.util.eventual import eventually
from twisted.internet import defer

from litebot.master.outbox import ENDS

NEW_CHANGE = ("changes", None, "new")


class HandoverMQ(simple.SimpleMQ):
    """Leaves new changes for schedulers to `master.handovers`, and reports to `master.outbox`.

    While it delivers an event of another master, `from_masterid` is that master's id.
    """

    from_masterid: int | None = None

    def invokeQref(self, qref: Any, routingKey: tuple[str, ...], data: Any) -> None:
        is_change = routingKey[0] == NEW_CHANGE[0] and routingKey[-1] == NEW_CHANGE[-1]
        if is_change and self.master.handovers.take(qref):
            return
        if len(routingKey) == 3 and ENDS.get(routingKey[0]) == routingKey[-1]:
            reporter = self.master.outbox.owner(qref)
            if reporter is not None and self.from_masterid is not None:
                return
            if reporter is not None:
                told = self.master.outbox.deliver(reporter, qref, routingKey, data)
                self._deferwaiter.add(defer.ensureDeferred(told))
                return
        super().invokeQref(qref, routingKey, data)

    @contextmanager
    def from_master(self, masterid: int) -> Iterator[None]:
        """Within it, what is delivered is an event of this other master."""
        before, self.from_masterid = self.from_masterid, masterid
        try:
            yield
        finally:
            self.from_masterid = before

    def startConsuming(
        self, callback: Any, filter: tuple[str | None, ...], persistent_name: str | None = None
    ) -> defer.Deferred[Any]:
        if filter == NEW_CHANGE:  # a scheduler may have missed some
            eventually(self.master.handovers.look)
        return super().startConsuming(callback, filter, persistent_name)


MQ_CLASS = {"class": f"{__name__}.{HandoverMQ.__name__}", "keys": {"debug"}}
