"""The geometry of plots, which templates draw as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import Protocol

# The size of the chart of last results; a bar is never shorter than a mouse or an eye can find.
BAR_WIDTH, BAR_GAP, BAR_HEIGHT, SHORTEST_BAR = 6, 2, 28, 4
PLOT_WIDTH, PLOT_HEIGHT, PLOT_LEFT, PLOT_BOTTOM, PLOT_TOP = 640, 180, 56, 24, 8


class Shown(Protocol):
    """A build as a plot needs it; a build that runs has neither results nor a duration."""

    number: int
    results: int | None
    duration_s: float | None


@dataclass(frozen=True)
class Bars:
    """A chart of last results: its size, and for each result the path of its bars."""

    width: int
    height: int
    paths: tuple[tuple[int | None, str], ...]


@dataclass(frozen=True)
class Plot:
    """The durations of builds, the newest at the right."""

    width: int
    height: int
    left: int
    bottom: int  # where the axis is
    line: str  # the points of a polyline
    points: tuple[tuple[float, float, Any], ...]
    ticks: tuple[tuple[float, float], ...]  # the y of a line, and its duration


def bars(builds: Sequence[Shown], room: int = 20) -> Bars:
    """Return the chart of builds, oldest first; it is as wide as one of `room` builds.

    A bar for each build would make an overview several times as large, and as slow.
    """
    longest = max((build.duration_s or 0 for build in builds), default=0) or 1
    paths: dict[int | None, str] = {}
    for index, build in enumerate(builds, start=room - len(builds)):
        share = 1.0 if build.duration_s is None else build.duration_s / longest
        height = max(SHORTEST_BAR, round(share * BAR_HEIGHT))
        bar = f"M{index * (BAR_WIDTH + BAR_GAP)} {BAR_HEIGHT}v-{height}h{BAR_WIDTH}v{height}z"
        paths[build.results] = paths.get(build.results, "") + bar
    return Bars(room * (BAR_WIDTH + BAR_GAP) - BAR_GAP, BAR_HEIGHT, tuple(paths.items()))


def duration_plot(builds: Sequence[Shown]) -> Plot:
    """Return the plot of the durations of finished builds, oldest first."""
    ended = [build for build in builds if build.duration_s is not None]
    top = nice(max((build.duration_s or 0 for build in ended), default=1))
    space = PLOT_HEIGHT - PLOT_TOP - PLOT_BOTTOM
    step = (PLOT_WIDTH - PLOT_LEFT - 10) / max(1, len(ended) - 1)

    def y_of(seconds: float) -> float:
        return round(PLOT_TOP + space * (1 - seconds / top), 1)

    points = tuple(
        (round(PLOT_LEFT + index * step, 1), y_of(build.duration_s or 0), build)
        for index, build in enumerate(ended)
    )
    line = " ".join(f"{x},{y}" for x, y, _ in points)
    ticks = tuple((y_of(top * share), top * share) for share in (0, 0.5, 1))
    return Plot(PLOT_WIDTH, PLOT_HEIGHT, PLOT_LEFT, PLOT_HEIGHT - PLOT_BOTTOM, line, points, ticks)


def nice(seconds: float) -> float:
    """Return the next larger duration that looks well at the end of an axis."""
    unit = 3600 if seconds > 3600 else 60 if seconds > 60 else 1
    steps = (1, 2, 4, 6, 10, 20, 30, 40, 60, 100, 200, 500, 1000)
    return next((unit * step for step in steps if unit * step >= seconds), seconds)
