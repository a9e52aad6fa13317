"""litebot's classes take their places in a configuration that was loaded.

A class of litebot's is put before the class of an object, whoever wrote that one, and overrides
methods of it.  The class that comes of both has the name and the module of the object's own, since
Buildbot knows states and the services that a reconfig keeps by these.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable
from typing import Any

from buildbot.config.master import MasterConfig
from buildbot.process import build
from buildbot.process import factory
from buildbot.reporters.base import ReporterBase
from buildbot.schedulers.triggerable import Triggerable
from buildbot.steps.master import MasterShellCommand
from buildbot.worker.local import LocalWorker

from litebot.master.builds.build import Build
from litebot.master.builds.environment import StepEnvironment
from litebot.master.delivery.outbox import OutboxReporter
from litebot.master.delivery.triggers import SureTriggerable


def specialize(config: MasterConfig, environment: StepEnvironment) -> None:
    """Put litebot's classes into a configuration, once it has been loaded.

    Steps of a LocalWorker see and log the variables of this environment only.
    """
    for builder in config.builders:
        _specialize_factory(builder.factory)
        _keep_from_logs(getattr(builder.factory, "steps", ()))
    for worker in config.workers:
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
    if config.change_sources:
        from litebot.master.delivery.change_sources import (
            exact_class,  # takes memory: a master may have none
        )

        for source in config.change_sources:
            if (ours := exact_class(type(source))) is not None:
                put_before(source, ours)


def specialized(kind: type, ours: type) -> type:
    """The class that has the methods of `ours`, then those of `kind`, and the name of `kind`.

    It is the same one each time, as long as something has it: a reconfig compares classes.
    """
    if issubclass(kind, ours):
        return kind
    for known in kind.__subclasses__():
        if known.__bases__ == (ours, kind):
            return known
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return types.new_class(kind.__name__, (ours, kind), exec_body=lambda body: body.update(names))


def put_before(thing: Any, ours: type) -> None:
    """Put a class of litebot's before that of an object."""
    thing.__class__ = specialized(type(thing), ours)


def _specialize_factory(made_by: Any) -> None:
    """Have the builds of a factory end as litebot's do."""
    kind = getattr(made_by, "buildClass", None)
    if isinstance(kind, type) and issubclass(kind, build.Build):
        made_by.buildClass = specialized(kind, Build)
    make = getattr(type(made_by), "newBuild", None)
    is_buildbots = make is factory.BuildFactory.newBuild
    can_change = make is not None and hasattr(made_by, "__dict__")
    if can_change and not (is_buildbots and isinstance(kind, type)):
        put_before(made_by, AdoptingFactory)


class AdoptingFactory:
    """A factory that does not go by its `buildClass`, or has what is no class there."""

    def newBuild(self, *args: Any, **kwargs: Any) -> Any:
        """Make a build, and put litebot's class before that of the build."""
        made = super().newBuild(*args, **kwargs)  # type: ignore[misc]
        if isinstance(made, build.Build):
            put_before(made, Build)
        return made


def _keep_from_logs(steps: Iterable[Any]) -> None:
    """Have the master's own commands, which see its whole environment, not log that."""
    for step in steps:
        if getattr(step, "step_class", None) is MasterShellCommand:
            step.kwargs.setdefault("logEnviron", False)
