"""When timed schedulers act: by the wall clock of the time zone, or by an interval.

Buildbot takes the offset of the time zone at the last build for that at the next one, and waits by
a clock that can be set.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import croniter  # type: ignore[import-untyped]
from buildbot.schedulers.timed import NightlyBase
from buildbot.schedulers.timed import Periodic
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer

# What a change of a time zone's offset is at most, as far as it matters here.
LARGEST_SHIFT_S = 3 * 3600.0
# A last build that is further in the future is of a clock that was wrong.
FUTURE_S = 25 * 3600.0
# How late a scheduler may act without that the clock was set meanwhile.
LATE_S = 60.0


def next_time(cron: str, after: float, *, is_hourly: bool) -> float | None:
    """Return the first time after `after` at which a line of cron comes due, in epoch seconds.

    An hour that the beginning of summer time leaves out comes due that much later.  One that there
    is twice at its end comes due the first time, if `is_hourly` both times.  None if there is none.
    """
    # Cron goes by the dates and hours of the wall clock, which are given to it as if in UTC.
    wall = datetime.datetime.fromtimestamp(after)
    start = wall.replace(tzinfo=datetime.UTC, fold=0)
    offsets = [_offset(after + shift) for shift in (-LARGEST_SHIFT_S, 0, LARGEST_SHIFT_S)]
    start -= max(offsets) - min(offsets)  # it may show what it has shown before
    found: float | None = None
    try:
        for due in croniter.croniter(cron, start).all_next(datetime.datetime):
            times = list(_times(due.replace(tzinfo=None), is_hourly=is_hourly))
            later = [time for time in times if time > after]
            found = min([*later, *([] if found is None else [found])], default=None)
            is_left_out = datetime.datetime.fromtimestamp(times[0]) != due.replace(tzinfo=None)
            if found is not None and times[0] > found and not is_left_out:
                return found
    except croniter.CroniterBadDateError:
        pass
    return found


def _offset(epoch: float) -> datetime.timedelta:
    offset = datetime.datetime.fromtimestamp(epoch, datetime.UTC).astimezone().utcoffset()
    assert offset is not None
    return offset


def _times(wall: datetime.datetime, *, is_hourly: bool) -> Iterator[float]:
    """Yield the epoch seconds at which the wall clock shows a time."""
    first = wall.timestamp()  # of one that is left out, by the offset before
    yield first
    again = wall.replace(fold=1).timestamp()
    if is_hourly and again > first:
        yield again


class WallClock(NightlyBase):
    """A scheduler such as Nightly that acts at its hours of the wall clock, each once.

    When a configuration is loaded, this class is put before that of each such scheduler.
    """

    def getNextBuildTime(self, lastActuated: float | None) -> defer.Deferred[float | None]:
        """Return when to build next, by the time zone at that moment."""
        inherited = super().getNextBuildTime
        if inherited.__func__ is not NightlyBase.getNextBuildTime:
            return inherited(lastActuated)  # a user's own
        cron = self._times_to_cron_line(
            self.minute, self.hour, self.dayOfMonth, self.month, self.dayOfWeek
        )
        return defer.succeed(self.next_due(cron, lastActuated))

    def next_due(self, cron: str, last: float | None) -> float | None:
        """Return when a line of cron comes due first after `last`, in epoch seconds; see above."""
        now = self.now()
        after = last or now
        if after > now + FUTURE_S:
            after = now
        is_hourly = croniter.croniter.expand(cron)[0][1] == ["*"]  # however it is written
        return next_time(cron, after, is_hourly=is_hourly)

    def _actuate(self) -> Any:
        """Do as Buildbot does; what came due in hours that the clock was set over is one build."""
        now = self.now()
        if self.actuateAt is not None and now - self.actuateAt > LATE_S:
            self.actuateAt: float | None = now
        return super()._actuate()


class SteadyPeriodic(Periodic):
    """A Periodic whose interval does not change when the machine's clock is set.

    When a configuration is loaded, this class is put before that of each Periodic.
    """

    _due: float | None = None  # when it acted last or is to act, by the master's steady clock
    _has_acted = False

    def activate(self) -> Any:
        """Do as Buildbot does; another master may have acted since."""
        self._due, self._has_acted = None, False
        return super().activate()

    @async_to_deferred
    async def _scheduleNextBuild_locked(self) -> None:
        inherited = super()._scheduleNextBuild_locked
        if self.getNextBuildTime.__func__ is not Periodic.getNextBuildTime:
            await inherited()
            return
        if (timer := vars(self).get("actuateAtTimer")) is not None:
            timer.cancel()
        clock, now = self.master.steady_clock, self.now()
        if self._due is not None and self._has_acted:
            wait_s = self._due + self.periodicBuildTimer - clock.seconds()
        else:
            due = await self.getNextBuildTime(self.lastActuated)
            wait_s = min(due - now, self.periodicBuildTimer)
        wait_s = max(wait_s, 0)
        self.actuateAt = now + wait_s
        next_due = clock.seconds() + wait_s
        self.actuateAtTimer: Any = clock.callLater(wait_s, self._act, next_due)

    def _act(self, due: float) -> Any:
        self._due, self._has_acted = due, True
        self.actuateAt = self.now()
        return self._actuate()
