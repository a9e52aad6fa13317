"""Builds a project each night, at the time of day that its file says."""

from __future__ import annotations

from typing import Any

from buildbot.schedulers.timed import Nightly
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer

from litebot.master.delivery.hours import WallClock
from litebot.master.projects.building.unchanged import Unchanged
from litebot.projects.build_file import TimeOfDay

# The state with the time of day, such as "03:00", or "".
TIME = "nightly"


class ProjectNightly(Unchanged, WallClock, Nightly):
    """A Nightly whose time is in its state; the builds of the project's branch put it there."""

    @async_to_deferred
    async def getNextBuildTime(self, lastActuated: float | None) -> float | None:
        """Return when to build next, in epoch seconds, or None."""
        hour, colon, minute = (await self.getState(TIME, "")).partition(":")
        if not colon:
            return None
        # One that was not to build for some time has missed nothing.
        since: float | None = await self.getState(f"{TIME} since", None)
        after = max(filter(None, (lastActuated, since)), default=None)
        return self.next_due(f"{int(minute)} {int(hour)} * * *", after)

    @async_to_deferred
    async def set_time(self, time: TimeOfDay | None) -> bool:
        """Keep the time of day, or that there is none; return whether it is a new one."""
        text = "" if time is None else str(time)
        if text == await self.getState(TIME, ""):
            return False
        await self.setState(f"{TIME} since", self.now())
        await self.setState(TIME, text)
        return True

    def take_time(self) -> Any:
        """Go by the time that is kept now, if this master has the scheduler."""
        return self.scheduleNextBuild() if self.active else defer.succeed(None)
