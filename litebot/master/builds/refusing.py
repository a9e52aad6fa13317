"""A step that refuses what is dangerous: it ends as FAILURE and says why."""

from __future__ import annotations

from typing import Any
from typing import NoReturn

from buildbot.process.buildstep import BuildStepFailed
from buildbot.process.results import FAILURE
from twisted.internet import defer

from litebot.master.limits.refusals import printable

LONGEST_SUMMARY = 400


class RefusingStep:
    """Put before the class of a step.

    `configured` has the attributes of the step as the configuration made them, before they are
    rendered: Build sets it.
    """

    configured: dict[str, Any]
    refused_as: str  # the reason under which `litebot status` counts it
    refusal: str | None = None

    def refuse(self, reason: str) -> NoReturn:
        """Have the step end as FAILURE, and its log and its summary say why."""
        self.refusal = reason
        raise BuildStepFailed(reason)

    def check(self) -> Any:
        """Refuse what is known to be dangerous before anything is done; may return a Deferred."""

    @defer.inlineCallbacks
    def run(self) -> Any:
        """Do as the step's own class, and say why if something was refused."""
        step: Any = self
        try:
            yield self.check()
            return (yield super().run())  # type: ignore[misc]
        except BuildStepFailed:
            if self.refusal is None:
                raise
        text = f"refused: {self.refusal}\n"
        stdio = getattr(step, "stdio_log", None)
        if stdio is None or stdio.finished:
            yield step.addCompleteLog("refused", text)
        else:
            yield stdio.addStderr(text)
        step.descriptionDone = printable(text.rstrip(), LONGEST_SUMMARY)
        step.descriptionSuffix = None
        step.master.refusals.note(self.refused_as, f"{step.build}: {self.refusal}")
        return FAILURE
