"""Steps in the data API: their events are made from the rows that were written.

Source: buildbot/data/steps.py, whose names these keep.
"""

from __future__ import annotations

from typing import Any

from buildbot.data import base
from buildbot.data import steps as data_steps
from buildbot.db import steps
from twisted.internet import defer

from litebot.master.data.events import UncopiedMessages
from litebot.master.secrets.masker import mask_urls
from litebot.master.secrets.masker import masker


class Step(UncopiedMessages, data_steps.Step):
    """Buildbot's, with events from the rows that were written."""

    def _announce(self, step: steps.StepModel | None, event: str) -> None:
        if step is not None:
            self.produceEvent(data_steps._db2data(step), event)

    @base.updateMethod
    @defer.inlineCallbacks
    def addStep(self, buildid: int, name: str) -> Any:
        """Add a step; return its id, number and name."""
        step = yield self.master.db.steps.add(buildid, name, "pending")
        self._announce(step, "new")
        return step.id, step.number, step.name

    @base.updateMethod
    def startStep(
        self, stepid: int, started_at: int | None = None, locks_acquired: bool = False
    ) -> Any:
        """Record when a step started, in seconds since the epoch; the default is now."""
        if started_at is None:
            started_at = int(self.master.reactor.seconds())
        d = self.master.db.steps.startStep(stepid, started_at, locks_acquired)
        return d.addCallback(self._announce, "started")

    @base.updateMethod
    def set_step_locks_acquired_at(self, stepid: int, locks_acquired_at: int | None = None) -> Any:
        """Record when a step got its locks, in seconds since the epoch; the default is now."""
        if locks_acquired_at is None:
            locks_acquired_at = int(self.master.reactor.seconds())
        d = self.master.db.steps.set_step_locks_acquired_at(stepid, locks_acquired_at)
        return d.addCallback(self._announce, "updated")

    @base.updateMethod
    def setStepStateString(self, stepid: int, state_string: str) -> Any:
        """Set the text that says what a step is doing."""
        d = self.master.db.steps.setStepStateString(stepid, masker.mask(state_string))
        return d.addCallback(self._announce, "updated")

    @base.updateMethod
    def addStepURL(self, stepid: int, name: str, url: str) -> Any:
        """Add a link to a step, without secrets."""
        return super().addStepURL(stepid, masker.mask(name), mask_urls(masker.mask(url)))

    @base.updateMethod
    def finishStep(self, stepid: int, results: int, hidden: bool) -> Any:
        """Mark a step as finished."""
        d = self.master.db.steps.finishStep(stepid, results, hidden)
        return d.addCallback(self._announce, "finished")
