"""Reconfigures the schedulers while no change is being delivered to them."""

from __future__ import annotations

from typing import Any

from buildbot.config.master import MasterConfig
from buildbot.schedulers import manager
from twisted.internet import defer

from litebot.master.runtime.services import Following


class SchedulerManager(Following, manager.SchedulerManager):
    """Buildbot's, but delivers changes to schedulers only when all of them are ready.

    It is reconfigured after the builders and the services such as reporters, and before what may
    take long: a poller that hangs, a worker that is shut down.
    """

    reconfig_priority = 999

    @defer.inlineCallbacks
    def reconfigServiceWithBuildbotConfig(self, new_config: MasterConfig) -> Any:
        change_delivery = self.master.change_delivery
        yield defer.ensureDeferred(change_delivery.pause_and_wait())
        try:
            yield super().reconfigServiceWithBuildbotConfig(new_config)
        finally:
            yield defer.ensureDeferred(self.master.cluster.introduce())
            yield defer.ensureDeferred(change_delivery.resume())
