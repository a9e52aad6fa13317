"""Puts litebot's classes into a configuration that was loaded: see runtime.subclasses."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from typing import Any

from buildbot.changes.base import ChangeSource
from buildbot.config.master import MasterConfig
from buildbot.process import build
from buildbot.process import factory
from buildbot.reporters.base import ReporterBase
from buildbot.schedulers.timed import NightlyBase
from buildbot.schedulers.timed import Periodic
from buildbot.schedulers.triggerable import Triggerable
from buildbot.steps.master import MasterShellCommand
from buildbot.worker.local import LocalWorker
from buildbot.www.auth import TwistedICredAuthBase

from litebot.master.builds.build import Build
from litebot.master.builds.environment import StepEnvironment
from litebot.master.builds.quarantine import FairWorker
from litebot.master.delivery.hours import SteadyPeriodic
from litebot.master.delivery.hours import WallClock
from litebot.master.delivery.outbox import OutboxReporter
from litebot.master.delivery.triggers import SureTriggerable
from litebot.master.runtime.subclasses import put_before
from litebot.master.runtime.subclasses import specialized
from litebot.master.web.logins import LimitedLogins


def specialize(config: MasterConfig, environment: StepEnvironment) -> None:
    """Put litebot's classes into a configuration that was loaded.

    Steps of a LocalWorker see and log only the variables of `environment`.
    """
    for builder in config.builders:
        _specialize_factory(builder.factory)
        _keep_from_logs(getattr(builder.factory, "steps", ()))
    for worker in config.workers:
        put_before(worker, FairWorker)
        if isinstance(worker, LocalWorker):
            from litebot.master.builds.local_worker import (
                RemoteLocalWorker,  # as Buildbot does, for its memory
            )

            worker.LocalWorkerFactory = functools.partial(RemoteLocalWorker, environment)
    for service in config.services.values():
        if isinstance(service, ReporterBase):
            put_before(service, OutboxReporter)
    for scheduler in config.schedulers.values():
        if isinstance(scheduler, Triggerable):
            put_before(scheduler, SureTriggerable)
        elif isinstance(scheduler, NightlyBase):
            put_before(scheduler, WallClock)
        elif isinstance(scheduler, Periodic):
            put_before(scheduler, SteadyPeriodic)
    _answer_clients(config)
    if config.change_sources:
        # It takes memory, and a master may have none.
        from litebot.master.delivery.change_sources import make_exact

        for source in config.change_sources:
            make_exact(source)
    _limit_logins(config.www.get("auth"))


def _limit_logins(configured: Any) -> None:
    """Limit the wrong logins of an auth; one that answers logins by itself stays as it is."""
    answers = getattr(type(configured), "getLoginResource", None)
    if answers is TwistedICredAuthBase.getLoginResource:
        put_before(configured, LimitedLogins)
    elif "buildbot.www.oauth2" in sys.modules:  # it takes memory, and few masters need it
        from buildbot.www.oauth2 import OAuth2Auth

        from litebot.master.web.oauth import LimitedOAuth

        if isinstance(configured, OAuth2Auth):
            put_before(configured, LimitedOAuth)


def _answer_clients(config: MasterConfig) -> None:
    """Have `sendchange` and `try` told what is refused, where a configuration lets them in."""
    doors = [(each, "buildbot.schedulers.trysched") for each in config.schedulers.values()]
    doors += [(each, "buildbot.changes.pb") for each in config.change_sources]
    for door, module in doors:
        if any(base.__module__ == module for base in type(door).__mro__):
            from litebot.master.delivery import clients  # takes memory

            is_pb = isinstance(door, ChangeSource)
            put_before(door, clients.CheckedPBChangeSource if is_pb else clients.CheckedTry)


def _specialize_factory(made_by: Any) -> None:
    """Give the builds of a factory litebot's class Build."""
    kind = getattr(made_by, "buildClass", None)
    if isinstance(kind, type) and issubclass(kind, build.Build):
        made_by.buildClass = specialized(kind, Build)
    make = getattr(type(made_by), "newBuild", None)
    is_buildbots = make is factory.BuildFactory.newBuild
    can_change = make is not None and hasattr(made_by, "__dict__")
    if can_change and not (is_buildbots and isinstance(kind, type)):
        put_before(made_by, AdoptingFactory)


class AdoptingFactory:
    """A factory that does not use its `buildClass`, or whose `buildClass` is not a class."""

    def newBuild(self, *args: Any, **kwargs: Any) -> Any:
        """Make a build, and put litebot's class Build before its class."""
        made = super().newBuild(*args, **kwargs)  # type: ignore[misc]
        if isinstance(made, build.Build):
            put_before(made, Build)
        return made


def _keep_from_logs(steps: Iterable[Any]) -> None:
    """Keep the environment out of the logs of commands that the master itself runs.

    These commands see the master's whole environment.  A step that sets `logEnviron` keeps it.
    """
    for step in steps:
        if getattr(step, "step_class", None) is MasterShellCommand:
            step.kwargs.setdefault("logEnviron", False)
