"""Managers of services which follow the configuration: they run by the newest one alone.

A reconfig keeps a service where its name and the name of its class are the same.  Buildbot also
keeps the class of the service, so that one that master.cfg defines runs its old code, and compares
the arguments of the next configuration with those of the first.  So a change that is taken back is
not noticed, and the globals of the first configuration live for ever.
Source: buildbot/util/service.py, reconfigServiceWithSibling
"""

from __future__ import annotations

from typing import Any

from buildbot.changes import manager as change_manager
from buildbot.config.master import MasterConfig
from buildbot.machine import manager as machine_manager
from buildbot.util import service
from twisted.internet import defer

from litebot.master.secrets import manager as secret_manager


class Following:
    """Has each service that a reconfig keeps take over the class and the arguments of the new one.

    To be put before a BuildbotServiceManager.
    """

    @defer.inlineCallbacks
    def reconfigServiceWithBuildbotConfig(self, new_config: MasterConfig) -> Any:
        manager: Any = self
        configured = manager.get_service_config(new_config)
        kept = [
            (child, configured[name])
            for name, child in manager.namedServices.items()
            if name in configured and child.canReconfigWithSibling(configured[name])
        ]
        for child, new in kept:
            _follow_class(child, type(new))
        yield super().reconfigServiceWithBuildbotConfig(new_config)  # type: ignore[misc]
        for child, new in kept:
            child._config_args, child._config_kwargs = new._config_args, new._config_kwargs


def _follow_class(child: Any, new: type) -> None:
    if type(child) is new:
        return
    try:
        child.__class__ = new
    except TypeError:
        return  # its instances are built in another way, as with __slots__
    child.configured = False  # so that it is reconfigured even if its arguments are the same


class ChangeManager(Following, change_manager.ChangeManager):
    """`master.change_svc` of a litebot master."""


class MachineManager(Following, machine_manager.MachineManager):
    """`master.machine_manager` of a litebot master."""


class ServiceManager(Following, service.BuildbotServiceManager):
    """`master.service_manager` of a litebot master."""


class SecretManager(Following, secret_manager.SecretManager):
    """`master.secrets_manager` of a litebot master."""
