"""litebot's classes in a loaded configuration, before those of a user, and what a reconfig sees."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from buildbot.changes.base import ChangeSource
from buildbot.changes.gitpoller import GitPoller
from buildbot.config.master import MasterConfig
from buildbot.plugins import steps
from buildbot.plugins import util
from buildbot.process import build
from buildbot.process.factory import BuildFactory
from buildbot.reporters.base import ReporterBase
from buildbot.util import service
from buildbot.worker.local import LocalWorker
from twisted.internet import defer

from litebot.master.builds.build import Build
from litebot.master.builds.environment import StepEnvironment
from litebot.master.builds.local_worker import RemoteLocalWorker
from litebot.master.configuration.specialize import specialize
from litebot.master.delivery.git_poller import ExactGitPoller
from litebot.master.delivery.outbox import OutboxReporter
from litebot.master.delivery.outbox import ReportAttempt
from litebot.master.delivery.outbox import current_attempt
from litebot.master.runtime.subclasses import specialized


class OwnBuild(build.Build):
    """A user's."""

    def __init__(self, *_: Any) -> None:
        self.finished = True

    def allStepsDone(self) -> str:
        return "their own"


class OwnReporter(ReporterBase):
    """A user's."""

    def checkConfig(self, where: str, **kwargs: Any) -> None:
        super().checkConfig(generators=[])

    def reconfigService(self, where: str, **kwargs: Any) -> Any:
        self.sent_to: list[str] = [*getattr(self, "sent_to", []), where]
        return defer.succeed(None)

    def sendMessage(self, reports: Any) -> str:
        return f"{self.name} sends {reports}"


class Service(service.BuildbotService):
    """A service that is no reporter."""


class Sees(BuildFactory):
    """A factory that sees the builds it makes."""

    def newBuild(self, requests: Any, builder: Any) -> Any:
        self.made = super().newBuild(requests, builder)
        return self.made


class MakesOwn(BuildFactory):
    """A factory that does not look at its `buildClass`."""

    def newBuild(self, requests: Any, builder: Any) -> Any:
        return OwnBuild(requests, builder)


class Duck:
    """What makes builds and is no BuildFactory."""

    def newBuild(self, requests: Any, builder: Any) -> Any:
        self.made = OwnBuild(requests, builder)
        return self.made


def configured(**parts: Any) -> MasterConfig:
    """A configuration with these parts, as it is when it has been loaded."""
    config = MasterConfig()
    for name, value in parts.items():
        setattr(config, name, value)
    specialize(config, StepEnvironment())
    return config


def with_factory(factory: Any) -> Any:
    """The factory, once a configuration with it was loaded."""
    builder = util.BuilderConfig(name="b", workernames=["w"], factory=BuildFactory())
    builder.factory = factory
    configured(builders=[builder])
    return factory


def ours_before(kind: type, ours: type) -> bool:
    """Whether a class is one that litebot made of `ours` and another."""
    return kind.__mro__[1] is ours and kind.__name__ == kind.__mro__[2].__name__


def test_the_class_has_the_name_of_the_users_and_their_methods() -> None:
    kind = specialized(OwnBuild, Build)
    assert ours_before(kind, Build)
    assert (kind.__module__, kind.__qualname__) == (OwnBuild.__module__, "OwnBuild")
    assert kind.__doc__ == "A user's."
    made: Any = kind(None, None)
    assert made.allStepsDone() == "their own"
    assert kind is specialized(OwnBuild, Build) is specialized(kind, Build)


def test_a_class_that_nobody_has_any_more_is_forgotten() -> None:
    class Passing(build.Build):
        pass

    specialized(Passing, Build)
    gc.collect()
    assert Passing.__subclasses__() == []


def test_builds_of_a_factory_that_builders_share() -> None:
    shared = BuildFactory([steps.ShellCommand(command="true")])
    builders = [
        util.BuilderConfig(name=name, workernames=["w"], factory=shared) for name in ("a", "b")
    ]
    configured(builders=builders)
    configured(builders=builders)  # an imported module may keep it from one load to the next
    assert ours_before(shared.buildClass, Build)
    assert type(shared) is BuildFactory
    assert BuildFactory.buildClass is build.Build
    same = with_factory(BuildFactory([steps.ShellCommand(command="true")]))
    assert shared == same
    other = BuildFactory([steps.ShellCommand(command="true")])
    other.buildClass = OwnBuild
    assert with_factory(other) != same
    assert other.buildClass is specialized(OwnBuild, Build)


def test_a_build_class_of_a_factory_class_is_not_changed_for_others() -> None:
    class Own(BuildFactory):
        buildClass = OwnBuild

    factory = with_factory(Own())
    assert ours_before(type(factory.newBuild([], None)), Build)
    assert Own.buildClass is OwnBuild


@pytest.mark.parametrize("kind", [Sees, MakesOwn, Duck])
def test_builds_that_a_factory_makes_in_its_own_way(kind: type) -> None:
    factory = with_factory(kind())
    if kind is Sees:
        factory.buildClass = OwnBuild
    made = factory.newBuild([], None)
    assert ours_before(type(made), Build)
    assert isinstance(made, OwnBuild)
    assert type(factory).__name__ == kind.__name__
    assert getattr(factory, "made", made) is made
    assert with_factory(factory) is factory
    assert type(factory) is type(with_factory(kind()))


def test_builds_that_a_function_makes() -> None:
    factory = BuildFactory()
    factory.buildClass = lambda requests, builder: OwnBuild(requests, builder)
    assert ours_before(type(with_factory(factory).newBuild([], None)), Build)


def test_what_makes_no_builds_is_left_alone() -> None:
    class Slotted:
        __slots__ = ()

        def newBuild(self, requests: Any, builder: Any) -> str:
            return "a build of another kind"

    assert type(with_factory(object())) is object
    assert type(with_factory(Slotted())) is Slotted


def test_a_reporter_says_when_it_begins_to_send() -> None:
    (reporter,) = configured(services={"r": OwnReporter("here", name="r")}).services.values()
    assert isinstance(reporter, OutboxReporter)
    attempt = ReportAttempt()
    assert reporter.sendMessage("it") == "r sends it"
    current_attempt.set(attempt)
    try:
        assert reporter.sendMessage("it") == "r sends it"
    finally:
        current_attempt.set(None)
    assert attempt.is_sending


class Manager(service.BuildbotServiceManager):
    """The services of a master that has nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.states = self.state = self.db = self
        self.running = 1

    @property
    def master(self) -> Any:
        return self

    def getObjectId(self, name: str, kind: str) -> Any:
        return defer.succeed(hash((name, kind)))

    def go_over_to(self, *services: Any) -> None:
        """Load a configuration with these and apply it."""
        config = configured(services={each.name: each for each in services})
        failures: list[Any] = []
        self.reconfigServiceWithBuildbotConfig(config).addErrback(failures.append)
        assert failures == []


def test_a_reconfig_keeps_changes_and_removes_reporters() -> None:
    manager = Manager()
    manager.go_over_to(OwnReporter("a", name="kept"), OwnReporter("a", name="changed"))
    kept, changed = (manager.namedServices[name] for name in ("kept", "changed"))
    assert kept.objectid == hash(("kept", f"{OwnReporter.__module__}.OwnReporter"))
    manager.go_over_to(OwnReporter("a", name="kept"), OwnReporter("b", name="changed"))
    assert manager.namedServices == {"kept": kept, "changed": changed}
    assert (kept.sent_to, changed.sent_to) == (["a"], ["a", "b"])
    manager.go_over_to(OwnReporter("a", name="kept"), Service(name="changed"))
    assert manager.namedServices["kept"] is kept
    assert type(manager.namedServices["changed"]) is Service
    manager.go_over_to()
    assert manager.namedServices == {}
    assert not kept.running


def test_a_reconfig_replaces_a_reporter_whose_class_has_another_name() -> None:
    class Another(OwnReporter):
        pass

    manager = Manager()
    manager.go_over_to(OwnReporter("a", name="r"))
    manager.go_over_to(Another("a", name="r"))
    assert type(manager.namedServices["r"]).__name__ == "Another"


def test_change_sources_are_compared_by_their_own_classes() -> None:
    class Other(ChangeSource):
        pass

    def poller() -> GitPoller:
        return GitPoller("https://example.org/r.git", branches=["main"], workdir="w")

    other = Other(name="o")
    first, second = (
        configured(change_sources=[poller(), other]).change_sources[0] for _ in range(2)
    )
    assert isinstance(first, ExactGitPoller)
    assert type(other) is Other
    assert type(first) is type(second)
    assert first.canReconfigWithSibling(second)
    assert second.canReconfigWithSibling(poller())


def test_local_workers_and_the_masters_own_commands() -> None:
    local = LocalWorker("w")
    factory = BuildFactory(
        [
            steps.MasterShellCommand(command="true"),
            steps.MasterShellCommand(command="true", logEnviron=True),
            steps.ShellCommand(command="true"),
        ]
    )
    builder = util.BuilderConfig(name="b", workernames=["w"], factory=factory)
    configured(workers=[local], builders=[builder])
    assert local.LocalWorkerFactory.func is RemoteLocalWorker
    logs = [step.kwargs.get("logEnviron") for step in factory.steps]
    assert logs == [False, True, None]
