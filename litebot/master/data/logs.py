"""Logs in the data API: lines are gathered, and events are made from the rows that were written.

Source: buildbot/data/logs.py, whose names these keep.
"""

from __future__ import annotations

from typing import Any

from buildbot.data import base
from buildbot.data import logs as data_logs
from buildbot.db import logs
from buildbot.util import identifiers
from twisted.internet import defer

from litebot.master.data.events import UncopiedMessages


class Log(UncopiedMessages, data_logs.Log):
    """Buildbot's, with gathered lines, and with events from the rows that were written."""

    def __init__(self, master: Any) -> None:
        super().__init__(master)
        master.db.logs.on_append = self._on_append

    def _on_append(self, model: logs.LogModel) -> None:
        self._announce(model, "append")

    def _announce(self, model: logs.LogModel, event: str) -> None:
        self.produceEvent(
            {
                "logid": model.id,
                "name": model.name,
                "slug": model.slug,
                "stepid": model.stepid,
                "complete": model.complete,
                "num_lines": model.num_lines,
                "type": model.type,
            },
            event,
        )

    @base.updateMethod
    @defer.inlineCallbacks
    def addLog(self, stepid: int, name: str, type: str) -> Any:
        """Start a log under a slug that no other log of the step has; return its id."""
        slug = identifiers.forceIdentifier(50, name)
        while True:
            try:
                logid = yield self.master.db.logs.addLog(stepid, name, slug, type)
                break
            except logs.LogSlugExistsError:
                slug = identifiers.incrementIdentifier(50, slug)
        model = logs.LogModel(logid, name, slug, stepid, False, 0, type)
        self.master.db.logs.open(model)
        self._announce(model, "new")
        return logid

    @base.updateMethod
    def appendLog(self, logid: int, content: str) -> Any:
        """Append whole lines; if the log is open, they are stored soon."""
        if self.master.db.logs.is_open(logid):
            return self.master.db.logs.gather(logid, content)
        return super().appendLog(logid, content)

    @base.updateMethod
    @defer.inlineCallbacks
    def finishLog(self, logid: int) -> Any:
        """Store the lines that wait, and mark the log as complete."""
        model = yield self.master.db.logs.finishLog(logid)
        if model is not None:
            self._announce(model, "finished")
