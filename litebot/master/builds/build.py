"""Builds that end: also if they fail to begin, are stopped, or lose their worker at any moment.

Buildbot handles the loss of a worker while steps run.  Before the first step it assumes that the
worker is still connected.  If it is not, or if the configuration is wrong, an exception leaves the
build without an end, and its request waits for ever.  The same happens when a build ends as
EXCEPTION after its worker was lost.
Source: buildbot/process/build.py, startBuild and buildFinished

Steps are adopted where they are made, as a build may add some that no configuration has.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from buildbot.process import build
from buildbot.process.buildrequest import BuildRequest
from buildbot.process.buildrequest import TempChange
from buildbot.process.buildrequest import TempSourceStamp
from buildbot.process.results import CANCELLED
from buildbot.process.results import EXCEPTION
from buildbot.process.results import RETRY
from buildbot.process.results import worst_status
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure

from litebot.errors import StoreFailed
from litebot.master.builds.adoption import adopt
from litebot.master.builds.guarding import brief
from litebot.master.builds.quarantine import ending
from litebot.master.builds.stopping import see_to_end
from litebot.master.runtime.subclasses import put_before


class BuildProperties:
    """Put before the class of the properties of a build.

    `stored` is what was stored last: {name: (JSON, source)}.  `checked` has the properties that can
    be stored and can't change in place: {name: (value, source)};
    `checked_masked` has them without secrets.
    """

    stored: dict[str, tuple[str, str]] | None = None
    checked: Mapping[str, tuple[Any, str]] = MappingProxyType({})
    checked_masked: Mapping[str, tuple[Any, str]] = MappingProxyType({})

    def setProperty(self, name: Any, value: Any, source: Any, runtime: bool = False) -> None:
        """Do as Buildbot does, but an error says which property it is about."""
        try:
            super().setProperty(name, value, source, runtime)  # type: ignore[misc]
        except Exception as error:
            what = f"the property {name!a:.300} can't be stored: its value is {value!r:.200}"
            raise UnstorableProperty(f"{what}: {error}") from error


class UnstorableProperty(TypeError, ValueError):
    """A property can't be stored; has the types that Buildbot raises."""


class Build(build.Build):
    """A build that always ends, even if its worker is lost or the configuration is wrong.

    When a configuration is loaded, this class is put before that of the builds of each factory.  A
    stop of the master sets `retries_when_stopped`; the build then ends as RETRY once it is stopped.
    """

    retries_when_stopped = False
    sources: list[Any]
    _other_owners: frozenset[str] = frozenset()  # of requests that were collapsed
    # What a stop asked for, once there was one.
    asked_results: int | None = None
    subs: Any
    # Whether a step has ended because the worker itself failed, rather than what it ran.
    is_workers_fault = False

    def setupBuildSteps(self, step_factories: Any) -> Any:
        """Make steps as Buildbot does, and have them refuse what is dangerous."""
        made: list[Any] = super().setupBuildSteps(step_factories)
        for step in made:
            adopt(step)
        return made

    @defer.inlineCallbacks
    def startBuild(self, workerforbuilder: Any) -> Any:
        """Begin as Buildbot does, but end the build after an exception.

        Raises StoreFailed, as the master then stops.
        """
        self.workerforbuilder = workerforbuilder
        put_before(self.properties, BuildProperties)
        was_connected = workerforbuilder.worker.conn is not None  # not so for a latent worker
        try:
            yield self._gather_changes()
            yield super().startBuild(workerforbuilder)
        except StoreFailed:
            raise  # the master stops
        except Exception:
            yield self._end_beginning(Failure(), was_connected)

    @defer.inlineCallbacks
    def _gather_changes(self) -> Any:
        """Add what collapsed requests, and changes that a scheduler gathered, say to the build."""
        ids: set[int] = set()
        for request in self.requests:
            ids.update((yield self.master.db.changes.get_ids_of_request(request.id)))
            for model in (yield self.master.db.buildrequests.get_collapsed(request.id)):
                other = yield BuildRequest.fromBrdict(self.master, model)
                self._other_owners |= _owners(other)
        ids -= {change.changeid for change in self.allChanges()}
        more = []
        for changeid in sorted(ids):
            shown = yield self.master.data.get(("changes", changeid))
            more += [TempChange(shown)] if shown is not None else []
        if more:
            self.sources = [_with_changes(source, more) for source in self.sources]

    def setupBuild(self) -> None:
        """Set up as Buildbot does, and name also the owners of collapsed requests."""
        super().setupBuild()
        if self._other_owners:
            owners = self._other_owners | set(self.getProperty("owners") or ())
            self.setProperty("owners", sorted(owners), "Build")

    @defer.inlineCallbacks
    def _end_beginning(self, failure: Failure, was_connected: bool) -> Any:
        """End the build, which could not begin: as RETRY if its worker was lost, or EXCEPTION."""
        preparation: Any = self._preparation_step
        is_preparing = yield self._is_open(preparation)
        is_prepared = preparation is not None and not is_preparing
        worker: Any = self.workerforbuilder.worker
        if worker is None or (worker.conn is None and (was_connected or is_prepared)):
            log.msg(f"the worker {self.workername} was lost while {self} began")
            results, text = RETRY, ["worker", "not", "available"]
        else:
            log.err(failure, f"while {self} began")
            results, text = EXCEPTION, ["build", "could", "not", "begin"]
        if self.finished:
            return  # a stop or a reconfig has ended it meanwhile
        if is_preparing and results == EXCEPTION:
            yield preparation.addLogWithFailure(failure)
        for step in (preparation, self._locks_acquire_step):
            if (yield self._is_open(step)):
                yield self.master.data.updates.finishStep(step.stepid, results, False)
        if self.subs is None:
            self.conn = None
        if self.buildid is not None:
            yield self.buildFinished(text, results)
        else:  # the database has only the request yet
            self.results = results
            self._let_go()

    @defer.inlineCallbacks
    def _is_open(self, step: Any) -> Any:
        """Return whether a step has been added and has not ended."""
        if step is None or step.stepid is None:
            return False
        model = yield self.master.db.steps.getStep(step.stepid)
        return model is not None and model.complete_at is None

    @defer.inlineCallbacks
    def _start_next_step_impl(self, step: Any) -> Any:
        """Do as Buildbot does, but end the build also if its handler of exceptions raises one."""
        try:
            yield super()._start_next_step_impl(step)
        except StoreFailed:
            raise  # the master stops
        except Exception as error:
            log.err(None, f"while {self} ended the step {step.name!r}")
            yield self.buildFinished([brief(error)], EXCEPTION)

    @defer.inlineCallbacks
    def stepDone(self, results: Any, step: Any) -> Any:
        """Do as Buildbot does, but keep RETRY as the result of a build that a stop interrupted.

        Otherwise the CANCELLED of the interrupted step would replace it.  An exception ends the
        build as EXCEPTION, and its text says why.
        Source: buildbot/process/build.py, stopBuild
        """
        try:
            terminate = yield super().stepDone(results, step)
        except StoreFailed:
            raise
        except Exception as error:
            log.err(None, f"while {self} dealt with the result of its step {step.name!r}")
            self.text.append(brief(error))
            self.results, terminate = worst_status(self.results, EXCEPTION), True
        if self.stopped and self.asked_results is not None and not self.conn:
            self.results = self.asked_results  # Buildbot sets RETRY
        if self.stopped and self.retries_when_stopped:
            self.results = RETRY
        return terminate

    @property
    def results_of_stop(self) -> int | None:
        """What a build that was stopped ends as; None if it was not."""
        is_asked = self.asked_results is not None
        return RETRY if is_asked and self.retries_when_stopped else self.asked_results

    @defer.inlineCallbacks
    def stopBuild(self, reason: str = "<no reason given>", results: int = CANCELLED) -> Any:
        """Stop as Buildbot does, and see to it that the build ends soon: see stopping."""
        if self.finished:
            return
        self.asked_results = results
        defer.ensureDeferred(see_to_end(self)).addErrback(
            lambda failure: log.err(failure, f"while {self} was stopped")
        )
        yield super().stopBuild(reason, results)

    def lostRemote(self, conn: Any = None) -> None:
        """Do as Buildbot does, and say why if the worker was taken for lost."""
        because = getattr(self.conn, "lost_because", None)
        super().lostRemote(conn)
        if because is not None:
            self.text = [because]

    def abandon_worker(self) -> None:
        """Go on as if the worker was lost; its other builds and its connection stay."""
        if self.subs is not None:
            self.subs.unsubscribe()
            self.subs = None
        self.lostRemote()
        self.text = [f"the worker {self.workername} did not answer"]
        if self.results_of_stop is not None:  # Buildbot sets RETRY
            self.results = self.results_of_stop
        step = self.currentStep
        if step is not None:
            step.give_up(self.text[0])

    @defer.inlineCallbacks
    def end_as_asked(self) -> Any:
        """End the build as its stop has asked, without waiting for its step."""
        results = self.results_of_stop
        assert results is not None
        for step in (self._preparation_step, self._locks_acquire_step, self.currentStep):
            if (yield self._is_open(step)):
                yield self.master.data.updates.finishStep(step.stepid, results, False)
        if self.currentStep is not None:
            self.currentStep.let_go()
        if self.finished or self.buildid is None:
            return
        self.results = results
        yield self.buildFinished(["stopped", f"({self.stopped_reason})"], results)

    @defer.inlineCallbacks
    def buildPreparationFailure(self, why: Any, state_string: str) -> Any:
        """Do as Buildbot does; that steps can't be made is no fault of the worker."""
        self.is_workers_fault = state_string != "setupBuild"
        ending.set(self)
        yield super().buildPreparationFailure(why, state_string)

    @defer.inlineCallbacks
    def buildFinished(self, text: list[str], results: int) -> Any:
        """End as Buildbot does, but only once, and whatever goes wrong.

        Buildbot only logs an exception, such as that its worker is gone, and the build goes on.
        """
        if self.finished:
            return
        ending.set(self)
        yield super().buildFinished([str(each) for each in text], results)
        if self not in self.builder.building:
            return
        model = yield self.master.db.builds.getBuild(self.buildid)
        if model is not None and model.complete_at is None:
            self.results = worst_status(self.results, EXCEPTION)
            yield self.master.data.updates.finishBuild(self.buildid, self.results)
        if self in self.builder.building:
            self._let_go()

    def _let_go(self) -> None:
        """Release the worker and the builder, as Buildbot's `buildFinished` does last."""
        self.workerforbuilder.buildFinished()
        self.builder.buildFinished(self, self.workerforbuilder)


def _owners(request: Any) -> set[str]:
    """Return who asked for a request: its property `owner`, and the authors of its patches."""
    owner = request.properties.getProperty("owner")
    authors = [source.patch_info[0] for source in request.sources.values() if source.patch]
    return {str(each) for each in (owner, *authors) if each}


def _with_changes(source: Any, more: list[Any]) -> Any:
    """Return a copy of a source with more changes, those of its codebase; other builds share it."""
    copied = TempSourceStamp(source.asSSDict())
    mine = [change for change in more if change.codebase == source.codebase]
    copied.changes = sorted([*source.changes, *mine], key=lambda change: change.changeid)
    return copied
