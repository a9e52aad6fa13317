"""A clock that is set, and one whose time zone begins or ends its summer time."""

from __future__ import annotations

import os
import time
from datetime import UTC
from datetime import datetime

import pytest

from support.commands import wait_for
from support.master import Master
from support.master import on_both

# The reactor's clock is ahead of the machine's by the seconds in a file.
CLOCK = """
import time
from twisted.internet import reactor

def shifted():
    with open(os.path.join(basedir, "shift")) as file:
        return time.time() + float(file.read() or 0)

reactor.seconds = shifted
factory = util.BuildFactory([steps.ShellCommand(command="true")])
c["builders"] = [util.BuilderConfig(name="b", workernames=["local"], factory=factory)]
c["change_source"] = [changes.GitPoller(repository, branch="main", pollInterval=1)]
"""


def set_clock(master: Master, ahead_s: float) -> None:
    new = master.basedir / "new-shift"
    new.write_text(str(ahead_s), encoding="ascii")
    new.rename(master.basedir / "shift")


def count(master: Master, scheduler: str) -> int:
    query = (
        "SELECT count(*) FROM buildset_properties"
        " WHERE property_name = 'scheduler' AND property_value LIKE :name"
    )
    ((found,),) = master.rows(query, name=f'["{scheduler}"%')
    return int(found)


@on_both
def test_intervals_stay_what_they_are_when_the_clock_is_set(master: Master) -> None:
    set_clock(master, 0)
    master.configure(CLOCK)
    master.configure(
        'c["schedulers"] = [schedulers.Periodic("p", periodicBuildTimer=3, builderNames=["b"])]'
    )
    master.start()
    wait_for(lambda: count(master, "p") >= 2, "two builds")
    for ahead_s in (-3600, 7200, 0):
        began_at, before = time.monotonic(), count(master, "p")
        polls = master.log.count("gitpoller: processing changes")
        set_clock(master, ahead_s)
        wait_for(lambda n=before: count(master, "p") >= n + 3, "three more builds", 30)  # type: ignore[misc]
        assert time.monotonic() - began_at > 6
        assert master.log.count("gitpoller: processing changes") >= polls + 3
    master.stop()
    before = count(master, "p")
    set_clock(master, -3600)
    master.start()
    wait_for(lambda: count(master, "p") > before, "a build after a start with an earlier clock", 30)


def seconds_until(moment: str) -> float:
    return datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() - time.time()


NIGHTLY = """
for name, hour in (("one", 1), ("two", 2), ("three", 3), ("each", "*")):
    c["schedulers"].append(schedulers.Nightly(name, hour=hour, minute=0, builderNames=["b"]))
"""
ACTED_ONCE = 3  # the number of the moment when each has
HOURS = ("one", "two", "three", "each")


@pytest.mark.parametrize("is_down", [False, True])
@pytest.mark.parametrize(
    "moments",
    [
        # Each moment in UTC, and which of the schedulers act then.
        [
            ("2026-10-23T22:50", set()),
            ("2026-10-23T23:00", {"one", "each"}),
            ("2026-10-24T00:00", {"two", "each"}),
            ("2026-10-24T01:00", {"three", "each"}),
            ("2026-10-24T23:00", {"one", "each"}),
            ("2026-10-25T00:00", {"two", "each"}),
            ("2026-10-25T01:00", {"each"}),
            ("2026-10-25T02:00", {"three", "each"}),
        ],
        [
            ("2026-03-27T23:50", set()),
            ("2026-03-28T00:00", {"one", "each"}),
            ("2026-03-28T01:00", {"two", "each"}),
            ("2026-03-28T02:00", {"three", "each"}),
            ("2026-03-29T00:00", {"one", "each"}),
            ("2026-03-29T01:00", {"two", "three", "each"}),
            ("2026-03-29T02:00", {"each"}),
        ],
    ],
)
def test_hours_are_those_of_the_wall_clock(
    master: Master, moments: list[tuple[str, set[str]]], is_down: bool
) -> None:
    environment = {**os.environ, "TZ": "Europe/Berlin"}
    set_clock(master, seconds_until(moments[0][0]))
    master.configure(CLOCK)
    master.configure('c["schedulers"] = []\n' + NIGHTLY)
    master.start(env=environment)
    acted = dict.fromkeys(HOURS, 0)
    for number, (moment, acting) in enumerate(moments):
        stops = is_down and number > ACTED_ONCE
        if stops:
            master.stop()
        set_clock(master, seconds_until(moment))
        if stops:
            master.start(env=environment)
        for name in acting:
            acted[name] += 1
        wait_for(
            lambda right=dict(acted): {n: count(master, n) for n in HOURS} == right,  # type: ignore[misc]
            f"what acts at {moment}: {acted}",
            30,
        )
