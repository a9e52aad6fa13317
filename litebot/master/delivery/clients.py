"""Tells Buildbot's own clients, `sendchange` and `try`, why what they send is refused.

A pb.Error reaches the client with its message, and leaves no traceback in the master's log.
Source: twisted/spread/pb.py
"""

from __future__ import annotations

from typing import Any

from buildbot.changes.pb import PBChangeSource
from buildbot.schedulers.trysched import Try_Userpass
from buildbot.schedulers.trysched import TryBase
from twisted.internet import defer
from twisted.spread import pb

from litebot.master.limits import words
from litebot.master.runtime.subclasses import put_before


class CheckedPerspective:
    """What `sendchange` talks to; refuses words that a command would misunderstand."""

    master: Any

    def perspective_addChange(self, changedict: dict[str, Any]) -> Any:
        """Add a change.  Raises pb.Error with the reason if it is refused."""
        try:
            words.check_stamp(changedict, self.master.config)
        except words.RefusedWord as error:
            self.master.refusals.note(words.REASON, f"a change by sendchange: {error}")
            raise pb.Error(str(error)) from error
        return super().perspective_addChange(changedict)  # type: ignore[misc]


class CheckedPBChangeSource(PBChangeSource):
    """Answers `sendchange`."""

    def getPerspective(self, mind: Any, username: str) -> Any:
        """Return what a client that has logged in talks to."""
        perspective = super().getPerspective(mind, username)
        put_before(perspective, CheckedPerspective)
        return perspective


class CheckedTry(TryBase):
    """Answers `try`, or logs why the file of a job is refused."""

    @defer.inlineCallbacks
    def addBuildsetForSourceStamps(self, *args: Any, **kwargs: Any) -> Any:
        """Add a buildset.  Raises pb.Error with the reason if a client waits for an answer."""
        try:
            return (yield super().addBuildsetForSourceStamps(*args, **kwargs))
        except words.RefusedWord as error:
            self.master.refusals.note(words.REASON, f"a job of {self.name}: {error}")
            if isinstance(self, Try_Userpass):
                raise pb.Error(str(error)) from error
            return None
