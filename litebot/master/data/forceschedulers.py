"""Force schedulers in the data API: whether one is enabled is read from the database.

Buildbot's endpoints show what is in memory, but only the master that has a scheduler learns when it
is enabled or disabled.  Source: buildbot/data/forceschedulers.py, whose endpoints these keep.
"""

from __future__ import annotations

from typing import Any
from typing import ClassVar

from buildbot.data import forceschedulers as data_forceschedulers
from twisted.internet import defer


class ForceSchedulerEndpoint(data_forceschedulers.ForceSchedulerEndpoint):
    """Buildbot's, with `enabled` from the database."""

    pathPatterns: ClassVar[list[str]] = data_forceschedulers.ForceSchedulerEndpoint.pathPatterns

    @defer.inlineCallbacks
    def get(self, resultSpec: Any, kwargs: Any) -> Any:
        """Return the force scheduler of this name, or None."""
        found = yield super().get(resultSpec, kwargs)
        if found is not None:
            yield _set_enabled(self.master, [found])
        return found


class ForceSchedulersEndpoint(data_forceschedulers.ForceSchedulersEndpoint):
    """Buildbot's, with `enabled` from the database."""

    pathPatterns: ClassVar[list[str]] = data_forceschedulers.ForceSchedulersEndpoint.pathPatterns
    rootLinkName = data_forceschedulers.ForceSchedulersEndpoint.rootLinkName

    @defer.inlineCallbacks
    def get(self, resultSpec: Any, kwargs: Any) -> Any:
        """Return the force schedulers of this master, or those of a builder."""
        found = yield super().get(resultSpec, kwargs)
        yield _set_enabled(self.master, found)
        return found


@defer.inlineCallbacks
def _set_enabled(master: Any, found: list[dict[str, Any]]) -> Any:
    known = yield master.db.schedulers.getSchedulers()
    enabled = {scheduler.name: scheduler.enabled for scheduler in known}
    for each in found:
        each["enabled"] = enabled.get(each["name"], each["enabled"])


class ForceScheduler(data_forceschedulers.ForceScheduler):
    """Buildbot's, with these endpoints."""

    endpoints: ClassVar[list[Any]] = [ForceSchedulerEndpoint, ForceSchedulersEndpoint]
