"""Logs in the data API: lines are gathered, and events are made from the rows that were written.

Source: buildbot/data/logs.py, whose names these keep.
"""

from __future__ import annotations

from typing import Any

from buildbot.data import base
from buildbot.data import logs as data_logs
from buildbot.db import logs
from buildbot.db.model import Model
from buildbot.util import identifiers
from twisted.internet import defer
from twisted.internet import threads

from litebot.master.data.events import UncopiedMessages
from litebot.master.db.components.values import fit_text
from litebot.master.runtime.deferreds import when_fired
from litebot.master.secrets.lines import mask_lines
from litebot.master.secrets.masker import masker

# What is longer is masked in a thread: it takes about 10 ms a million.
LARGE_CHARS = 1_000_000


class Log(UncopiedMessages, data_logs.Log):
    """Buildbot's, with gathered lines, and with events from the rows that were written."""

    def __init__(self, master: Any) -> None:
        super().__init__(master)
        self._held: dict[int, str] = {}  # by the id of a log, a line that may go on in the next
        self._masking: dict[int, defer.Deferred[Any]] = {}  # by the id of a log, for a large text
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
        name = fit_text(self.master.db, Model.logs.c.name, name)
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
        """Append whole lines, without secrets; if the log is open, they are stored soon.

        A last line that may have been cut within a secret is stored with what follows.
        """
        if not content.endswith("\n"):
            return self._append(logid, content)  # it will be refused
        if (masking := self._masking.get(logid)) is not None:
            return when_fired(masking).addCallback(lambda _: self.appendLog(logid, content))
        before = self._held.pop(logid, "")
        has_streams = self.master.db.logs.type_of(logid) == "s"

        def mask() -> tuple[str, str]:
            return mask_lines(masker, before + content, has_streams=has_streams)

        if len(before) + len(content) < LARGE_CHARS:
            return self._append_masked(logid, *mask())
        # The cancellation of `done`, with that of a step, loses nothing.
        done: defer.Deferred[Any] = defer.Deferred()
        self._masking[logid] = d = threads.deferToThread(mask)
        d.addCallback(lambda found: self._append_masked(logid, *found))
        d.addBoth(self._has_masked, logid, done)
        return done

    def _has_masked(self, result: Any, logid: int, done: defer.Deferred[Any]) -> None:
        del self._masking[logid]
        done.callback(result)

    def _append_masked(self, logid: int, content: str, held: str) -> Any:
        if held and self.master.db.logs.is_open(logid):
            self._held[logid] = held
        else:
            content += held
        return self._append(logid, content) if content else defer.succeed(None)

    def _append(self, logid: int, content: str) -> Any:
        if self.master.db.logs.is_open(logid):
            return self.master.db.logs.gather(logid, content)
        return super().appendLog(logid, content)

    @base.updateMethod
    @defer.inlineCallbacks
    def finishLog(self, logid: int) -> Any:
        """Store the lines that wait, and mark the log as complete."""
        while (masking := self._masking.get(logid)) is not None:
            yield when_fired(masking)
        held = self._held.pop(logid, "")
        if held:
            yield self._append(logid, held)
        model = yield self.master.db.logs.finishLog(logid)
        if model is not None:
            self._announce(model, "finished")
