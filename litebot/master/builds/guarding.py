"""Steps that end, and say why, whatever goes wrong in their bookkeeping.

Buildbot handles what a step's `run` raises.  Around it, an exception leaves the step, its locks and
its build without an end: in its name, its summary, its properties, its logs or its results.
Source: buildbot/process/buildstep.py, startStep
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from buildbot.interfaces import WorkerSetupError
from buildbot.process.log import StreamLog
from buildbot.process.remotecommand import RemoteException
from buildbot.process.results import ALL_RESULTS
from buildbot.process.results import EXCEPTION
from buildbot.process.results import RETRY
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure
from twisted.python.reflect import accumulateClassList

from litebot.errors import StoreFailed
from litebot.master.builds.whole_lines import LINE_STARTS
from litebot.master.limits.refusals import printable

# A summary that is still not made by then counts as one that can't be made.
SUMMARY_WITHIN_S = 10.0
LONGEST_REASON = 300


class WrongBookkeeping(Exception):
    """A step gives what Buildbot can't use; the message says what, and what is needed."""


class GuardedStep:
    """Put before the class of each step.

    What goes wrong around `run` ends the step as EXCEPTION, with a log of it.
    """

    _fault: BaseException | None = None
    _given_up: str | None = None
    _started: defer.Deferred[Any]

    @defer.inlineCallbacks
    def startStep(self, remote: Any) -> Any:
        """Do as Buildbot does, but always end the step.  Raises StoreFailed."""
        self._started = super().startStep(remote)  # type: ignore[misc]
        try:
            return (yield self._started)
        except StoreFailed:
            raise  # the master stops
        except Exception:
            return (yield self._end(Failure()))

    @defer.inlineCallbacks
    def addLog(self, *args: Any, **kwargs: Any) -> Any:
        """Do as Buildbot does; what is added to the log takes little time, whatever its size."""
        added: Any = yield super().addLog(*args, **kwargs)  # type: ignore[misc]
        if isinstance(added, StreamLog):
            added.pat = LINE_STARTS
        return added

    def give_up(self, reason: str) -> None:
        """Have the step end as a stop of its build has asked, and its log say why."""
        self._given_up = self._given_up or reason

    def cancel(self) -> None:
        """Raise CancelledError where the step waits, or have it not wait for a lock any more."""
        if not self._stop_waiting():
            self._started.cancel()

    def _stop_waiting(self) -> bool:
        """Leave the queues of locks, where others wait behind the step; return whether it waited.

        The step then goes on, and ends as one that was stopped.
        """
        step: Any = self
        step.stopped = True
        waiting, step._acquiringLocks = step._acquiringLocks, []
        has_waited = False
        for lock, access, event in waiting:
            if (place := lock._find_waiting(step)) is not None:
                has_waited = True
                lock.stopWaitingUntilAvailable(step, access, lock.waiting[place][2] or event)
        return has_waited

    def let_go(self) -> None:
        """Release the locks of a step that does not do so itself."""
        step: Any = self
        self._stop_waiting()
        for lock, access in step._locks_to_acquire:
            if lock.isOwner(step, access):
                lock.release(step, access)

    def _results_of_stop(self) -> int:
        asked = self.build.asked_results  # type: ignore[attr-defined]
        return RETRY if asked is None else int(asked)

    @defer.inlineCallbacks
    def _cleanup_logs(self) -> Any:
        """Finish the logs, check what the step leaves, and say what is wrong.

        Returns whether all is right.  Buildbot calls this when `run` has ended.
        """
        step: Any = self
        if self._given_up is not None:
            step.results = self._results_of_stop()
            yield step.addCompleteLog("stopped", f"{self._given_up}\n")
        problems = yield self._finish_logs()
        finished = yield super()._cleanup_logs()  # type: ignore[misc]
        if not (finished or problems):
            problems.append(Failure(WrongBookkeeping("an observer of a log raised an exception")))
        for check in (self._check_results, self._store_properties, step.getBuildResultSummary):
            try:
                yield check()
            except StoreFailed:
                raise
            except Exception:
                problems.append(Failure())
        if self._fault is not None:
            problems.append(Failure(self._fault))
        for problem in problems:
            log.err(problem, f"while {step.build} ended its step {step.name!r}")
            yield step.addLogWithFailure(problem)
            step.descriptionDone = brief(problem.value)
        return not problems or self._given_up is not None

    @defer.inlineCallbacks
    def _render_renderables(self) -> Any:
        """Render as Buildbot does, but refuse a Deferred: who iterates over one never ends."""
        yield super()._render_renderables()  # type: ignore[misc]
        names: list[str] = []
        accumulateClassList(type(self), "renderables", names)
        for name in names:
            if isinstance(getattr(self, name), defer.Deferred):
                raise WrongBookkeeping(
                    f"the argument {name} of the step {type(self).__name__} is a Deferred; use an"
                    " async function and util.renderer for what takes time"
                )

    @defer.inlineCallbacks
    def _finish_logs(self) -> Any:
        """Finish the logs that are open; return the failures of that and of their observers."""
        step: Any = self
        problems = []
        yield step._interrupt_deferwaiter.wait()  # it may add logs
        for each in [each for each in step.logs.values() if not each.finished]:
            observers_failed = each.subPoint._got_exceptions or []
            try:
                yield each.finish()
            except StoreFailed:
                raise
            except Exception:
                problems.append(Failure())
                yield self._attempt(step.master.data.updates.finishLog, each.logid)
            problems += [e if isinstance(e, Failure) else Failure(e) for e in observers_failed]
        return problems

    def _check_results(self) -> None:
        step: Any = self
        results = step.results
        if not isinstance(results, int) or results not in ALL_RESULTS:
            step.results = EXCEPTION
            raise WrongBookkeeping(
                f"run() of the step {type(self).__name__} returned {results!r:.200}, which is no"
                " result; return SUCCESS, FAILURE or another one of util's"
            )
        step.results = int(results)  # it may be a bool, or of an Enum

    def _store_properties(self) -> Any:
        build = self.build  # type: ignore[attr-defined]
        return build.master.data.updates.setBuildProperties(build.buildid, build)

    @defer.inlineCallbacks
    def _end(self, failure: Failure) -> Any:
        """End a step that Buildbot leaves without an end; returns its results."""
        step: Any = self
        log.err(failure, f"while {step.build} ran its step {step.name!r}")
        updates = step.master.data.updates
        results = EXCEPTION if self._given_up is None else self._results_of_stop()
        step.results, step._running = results, False
        if step.stepid is None:  # its name can't be used
            step.name = type(step).__name__
            yield step.addStep()
            yield updates.startStep(step.stepid)
        yield step.addLogWithFailure(failure)
        for each in [each for each in step.logs.values() if not each.finished]:
            yield self._attempt(each.finish)
        yield self._attempt(self.let_go)
        yield self._attempt(updates.setStepStateString, step.stepid, brief(failure.value))
        yield updates.finishStep(step.stepid, results, False)
        return results

    @defer.inlineCallbacks
    def _attempt(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call a method, and only log its exception."""
        try:
            yield method(*args)
        except StoreFailed:
            raise
        except Exception:
            log.err(None, f"while {self.build} ended a step")  # type: ignore[attr-defined]

    def addLogWithFailure(self, why: Failure, logprefix: str = "") -> Any:
        """Do as Buildbot does, and note whether the worker itself has failed.

        Where one of several things failed that were done at once, it is the failure of that one.
        """
        if self._given_up is not None:
            return defer.succeed(None)  # a log says that
        while isinstance(why.value, defer.FirstError):
            why = why.value.subFailure
        if why.check(RemoteException, WorkerSetupError):
            self.build.is_workers_fault = True  # type: ignore[attr-defined]
        return super().addLogWithFailure(why, logprefix)  # type: ignore[misc]

    # summaries: what is wrong with one is its text

    def getCurrentSummary(self) -> Any:
        """Do as Buildbot does; may return a Deferred."""
        return self._checked_summary(super().getCurrentSummary)  # type: ignore[misc]

    def getResultSummary(self) -> Any:
        """Do as Buildbot does; may return a Deferred."""
        return self._checked_summary(super().getResultSummary)  # type: ignore[misc]

    def getBuildResultSummary(self) -> Any:
        """Do as Buildbot does; returns a Deferred."""
        made = self._checked_summary(super().getBuildResultSummary)  # type: ignore[misc]
        return defer.maybeDeferred(lambda: made)

    def _checked_summary(self, make: Callable[[], Any]) -> Any:
        if self._fault is not None:
            return self._replaced_summary(Failure(self._fault))
        try:
            summary = make()
        except Exception:
            return self._replaced_summary(Failure())
        if inspect.iscoroutine(summary):
            summary = defer.ensureDeferred(summary)
        if isinstance(summary, defer.Deferred):
            summary.addTimeout(SUMMARY_WITHIN_S, self.master.reactor)  # type: ignore[attr-defined]
            summary.addCallback(self._check_summary)
            return summary.addErrback(self._replaced_summary)
        try:
            return self._check_summary(summary)
        except WrongBookkeeping:
            return self._replaced_summary(Failure())

    def _check_summary(self, summary: Any) -> Any:
        if isinstance(summary, dict) and not isinstance(summary.get("step", ""), str):
            # Buildbot only logs that; such a list is often `descriptionDone`.
            summary = {**summary, "step": _as_text(summary["step"])}
        is_right = (
            isinstance(summary, dict)
            and isinstance(summary.get("step", ""), str)
            and isinstance(summary.get("build") or "", str)
        )
        if is_right:
            return summary
        raise WrongBookkeeping(
            f"the summary of the step {type(self).__name__} is {summary!r:.200}; it must be a dict"
            " of texts, as {'step': 'compiled', 'build': '3 warnings'}"
        )

    def _replaced_summary(self, failure: Failure) -> dict[str, str]:
        if failure.check(StoreFailed):
            failure.raiseException()
        step: Any = self
        if step.results is not None and not step._running:
            self._fault = self._fault or failure.value
        return {"step": brief(failure.value), "build": brief(failure.value)}


def brief(error: BaseException | None) -> str:
    """Return what went wrong as a line for a state string."""
    return printable(f"{type(error).__name__}: {error}", LONGEST_REASON)


def _as_text(words: Any) -> Any:
    """Return texts of a list in one, none for None, and anything else as it is."""
    if words is None:
        return ""
    is_list = isinstance(words, (list, tuple)) and all(isinstance(word, str) for word in words)
    return " ".join(words) if is_list else words
