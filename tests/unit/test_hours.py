"""The hours of timed schedulers, over the beginning and the end of summer time."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from datetime import datetime
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from litebot.master.delivery.hours import next_time

ZONES = {
    "Europe/Berlin": ("2026-03-29", "2026-10-25"),
    "America/New_York": ("2026-03-08", "2026-11-01"),
    "Australia/Lord_Howe": ("2026-10-04", "2026-04-05"),  # by half an hour
    "America/Santiago": ("2026-09-06", "2026-04-05"),  # at midnight
}
DAY_S = 86_400.0


@pytest.fixture(params=ZONES)
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def times(cron: str, day: str, zone: str, days: int = 4, *, is_hourly: bool = False) -> list[float]:
    """The epoch seconds in the days around a day, each found from the one before."""
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).timestamp() - 2 * DAY_S
    found: list[float] = []
    last: float | None = start - 1
    while (last := next_time(cron, last or 0, is_hourly=is_hourly)) is not None:
        if last > start + days * DAY_S:
            return found
        found.append(last)
    return found


def walls(found: list[float], zone: str) -> list[str]:
    return [datetime.fromtimestamp(each, ZoneInfo(zone)).strftime("%d %H:%M") for each in found]


@pytest.mark.parametrize("minute", [0, 45])
@pytest.mark.parametrize("hour", [0, 1, 2, 3, 23])
@pytest.mark.parametrize("season", [0, 1])
def test_each_day_has_an_hour_once(zone: str, hour: int, minute: int, season: int) -> None:
    day = ZONES[zone][season]
    found = times(f"{minute} {hour} * * *", day, zone)
    dates = [datetime.fromtimestamp(each, ZoneInfo(zone)).date() for each in found]
    days = [dates[0] + timedelta(days=number) for number in range(len(dates))]
    tz = ZoneInfo(zone)
    right = [datetime(d.year, d.month, d.day, hour, minute, tzinfo=tz) for d in days]
    assert found == [each.timestamp() for each in right]
    assert len(found) >= 3


@pytest.mark.parametrize("zone", ["Europe/Berlin"], indirect=True)
def test_an_hour_that_is_left_out_comes_due_later(zone: str) -> None:
    found = walls(times("30 2 * * *", "2026-03-29", zone), zone)
    assert found == ["27 02:30", "28 02:30", "29 03:30", "30 02:30"]


@pytest.mark.parametrize("zone", ["Europe/Berlin"], indirect=True)
def test_an_hour_that_there_is_twice_comes_due_the_first_time(zone: str) -> None:
    found = times("30 2 * * *", "2026-10-25", zone)
    assert walls(found, zone) == ["23 02:30", "24 02:30", "25 02:30", "26 02:30"]
    assert [b - a for a, b in itertools.pairwise(found)] == [DAY_S, DAY_S, DAY_S + 3600]


@pytest.mark.parametrize("zone", [name for name in ZONES if "Lord" not in name], indirect=True)
@pytest.mark.parametrize("season", [0, 1])
@pytest.mark.parametrize("minute", ["0", "*/20", "7,59"])
def test_every_hour_is_every_hour(zone: str, season: int, minute: str) -> None:
    found = times(f"{minute} * * * *", ZONES[zone][season], zone, is_hourly=True)
    gaps = {b - a for a, b in itertools.pairwise(found)}
    assert gaps <= {3600, 1200, 52 * 60, 8 * 60}
    assert len(found) == len(set(found))


@pytest.mark.parametrize("season", [0, 1])
def test_a_time_is_found_from_any_moment_before(zone: str, season: int) -> None:
    found = times("30 2 * * *", ZONES[zone][season], zone)
    for before, due in itertools.pairwise(found):
        moment = before
        while moment < due:
            assert next_time("30 2 * * *", moment, is_hourly=False) == due
            moment += 6000


def test_a_day_that_never_comes_is_none() -> None:
    assert next_time("0 0 30 2 *", 0.0, is_hourly=False) is None


def test_days_of_weeks_and_months_count_by_the_wall(zone: str) -> None:
    spring, autumn = ZONES[zone]
    for day in (spring, autumn):
        local = datetime.fromisoformat(day)
        cron = f"30 23 {local.day} {local.month} {(local.weekday() + 1) % 7}"
        start = local.replace(tzinfo=ZoneInfo(zone)).timestamp()
        due = next_time(cron, start, is_hourly=False)
        assert due is not None
        assert walls([due], zone) == [f"{local.day:02} 23:30"]


def test_minutes_of_a_half_hour_that_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = "Australia/Lord_Howe"
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        found = walls(times("10,20,35 2 * * *", "2026-10-04", zone, days=3), zone)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found[-6:] == [f"03 02:{at}" for at in (10, 20, 35)] + [
        f"04 02:{at}" for at in (35, 40, 50)
    ]
