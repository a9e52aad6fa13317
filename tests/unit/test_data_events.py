"""The data API's events: for the same calls the same as Buildbot's, but for what is listed here.

Lines that were appended within a moment make one event; the event of one property names it, where
Buildbot's names the property "name"; a value that only changes from a list to a tuple makes none.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from buildbot.process.properties import Properties
from buildbot.process.results import FAILURE
from buildbot.process.results import RETRY
from buildbot.process.results import SUCCESS
from buildbot.process.results import WARNINGS
from buildbot.util import epoch2datetime
from hypothesis import HealthCheck
from hypothesis import Phase
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from litebot.master.db.components.logs import GATHER_S
from support.worlds import Event
from support.worlds import Pair
from support.worlds import Raised
from support.worlds import World
from support.worlds import outcome

MakePair = Callable[[], AbstractContextManager[Pair]]

pytestmark = pytest.mark.usefixtures("logged")

STAMP = {"repository": "r", "project": "", "codebase": "", "branch": "b", "revision": None}
OTHER = {**STAMP, "codebase": "lib", "revision": "abc"}


@pytest.fixture
def pair(pairs: MakePair) -> Any:
    with pairs() as pair:
        yield pair


def events(world: World) -> list[Event]:
    """What was produced since the last look."""
    taken = list(world.events)
    world.events.clear()
    return taken


def same_events(pair: Pair) -> list[Event]:
    """The events of both since the last look, which must be the same."""
    ours, theirs = (events(world) for world in pair.worlds)
    assert ours == theirs
    return ours


def do(pair: Pair, name: str, *args: Any, **kwargs: Any) -> Any:
    """An update on both, with the same events; what it returns."""
    result = pair.update(name, *args, **kwargs)
    same_events(pair)
    return result


def kinds(found: list[Event]) -> list[str]:
    """What happened to what, such as "steps new", each once per event."""
    return [f"{key[0]} {key[-1]}" for key, _ in found]


def add_buildset(pair: Pair, *builderids: int, **more: Any) -> Any:
    return pair.update(
        "addBuildset",
        waited_for=False,
        scheduler="s",
        sourcestamps=[STAMP, OTHER],
        reason="because",
        properties={"a": (1, "Scheduler")},
        builderids=list(builderids),
        **more,
    )


def test_a_build_from_its_buildset_to_its_end(pair: Pair) -> None:
    bsid, brids = add_buildset(pair, 1, 2, external_idstring="x", priority=3)
    found = same_events(pair)
    assert kinds(found).count("buildsets new") == 3  # two requests by their buildset, and itself
    assert do(pair, "claimBuildRequests", [brids[1]]) is True
    buildid, _ = do(pair, "addBuild", 1, brids[1], 1)
    pair.advance(1)
    for world in pair.worlds:
        properties = Properties(a=1, b="ü", c=[1, {"d": None}])
        properties.setProperty("e", True, "Step")
        world.call(world.updates.setBuildProperties, buildid, properties)
    assert kinds(same_events(pair)) == ["builds update"]
    do(pair, "generateNewBuildEvent", buildid)
    do(pair, "setBuildStateString", buildid, "starting")
    do(pair, "add_build_locks_duration", buildid, 5)
    stepid, _, name = do(pair, "addStep", buildid, "compile")
    assert do(pair, "addStep", buildid, "compile")[2] == f"{name}_1"
    do(pair, "startStep", stepid, locks_acquired=True)
    do(pair, "startStep", stepid + 1, started_at=1_600_000_000)
    do(pair, "set_step_locks_acquired_at", stepid + 1)
    do(pair, "setStepStateString", stepid, "compiling")
    do(pair, "addStepURL", stepid, "page", "http://example.com/")
    logid = do(pair, "addLog", stepid, "stdio", "s")
    for content in ("oone\n", "etwo\nothree\n"):
        do(pair, "appendLog", logid, content)
    do(pair, "finishLog", logid)
    do(pair, "compressLog", logid)
    pair.advance(2)
    do(pair, "finishStep", stepid, WARNINGS, False)
    do(pair, "finishStep", stepid + 1, FAILURE, True)
    do(pair, "finishBuild", buildid, FAILURE)
    pair.update("completeBuildRequests", [brids[1]], FAILURE)
    assert "buildsets complete" not in [
        f"{k[0]} {k[-1]}" for k, _ in same_events(pair) if len(k) < 4
    ]
    do(pair, "claimBuildRequests", [brids[2]])
    pair.update("completeBuildRequests", [brids[2]], SUCCESS)
    (complete,) = [m for k, m in same_events(pair) if k == ("buildsets", str(bsid), "complete")]
    assert complete["results"] == FAILURE
    assert len(complete["sourcestamps"]) == 2
    pair.same_rows("builds", "steps", "logs", "build_properties", "buildrequests", "buildsets")


def test_a_buildset_without_builders_is_complete_at_once(pair: Pair) -> None:
    bsid, brids = add_buildset(pair)
    assert brids == {}
    keys = [key for key, _ in same_events(pair)]
    assert keys == [("buildsets", str(bsid), "new"), ("buildsets", str(bsid), "complete")]


def test_requests_of_two_buildsets_completed_at_once(pair: Pair) -> None:
    brids = [brid for _ in range(2) for brid in add_buildset(pair, 1, 2)[1].values()]
    same_events(pair)
    do(pair, "claimBuildRequests", brids)
    do(pair, "completeBuildRequests", brids, WARNINGS, complete_at=epoch2datetime(1_700_000_009))
    pair.same_rows("buildrequests", "buildsets")


def test_what_fails_produces_nothing(pair: Pair, logged: Any) -> None:
    _, brids = add_buildset(pair, 1, 2)
    both = list(brids.values())
    do(pair, "claimBuildRequests", both[:1])
    same_events(pair)
    assert do(pair, "claimBuildRequests", both) is False
    assert do(pair, "claimBuildRequests", []) is True
    do(pair, "completeBuildRequests", both[:1], SUCCESS)
    same_events(pair)
    assert pair.update("completeBuildRequests", both, SUCCESS) is False
    logged.clear()
    assert pair.update("completeBuildRequests", [], SUCCESS) is True
    for world in pair.worlds:
        raised = outcome(world, world.updates.completeBuildRequests, both, RETRY)
        assert raised == Raised("AssertionError")
    logged.clear()
    do(pair, "finishStep", 99, SUCCESS, False)
    do(pair, "finishBuild", 99, SUCCESS)
    do(pair, "setStepStateString", 99, "")
    do(pair, "generateNewBuildEvent", 99)
    do(pair, "finishLog", 99)
    assert same_events(pair) == []


def test_unclaiming(pair: Pair) -> None:
    _, brids = add_buildset(pair, 1)
    do_events = list(brids.values())
    same_events(pair)
    do(pair, "claimBuildRequests", do_events)
    pair.update("unclaimBuildRequests", do_events)
    assert "buildrequests unclaimed" in kinds(same_events(pair))


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abcd"),
            st.tuples(
                st.text() | st.none() | st.integers(2, 9) | st.lists(st.text()),
                st.sampled_from(["Step", "Build"]),
            ),
        ),
        max_size=6,
    )
)
def test_properties_that_change_and_that_do_not(pairs: MakePair, sequence: Any) -> None:
    with pairs() as pair:
        for properties in sequence:
            for world in pair.worlds:
                given = Properties()
                for name, (value, source) in properties.items():
                    given.setProperty(name, value, source)
                world.call(world.updates.setBuildProperties, 1, given)
            same_events(pair)
        pair.same_rows("build_properties")


# where they differ


def test_appends_within_a_moment_make_one_event(pair: Pair) -> None:
    logid = do(pair, "addLog", 1, "stdio", "s")
    for world in pair.worlds:
        for n in range(5):
            world.call(world.updates.appendLog, logid, f"o{n}\n")
            world.reactor.advance(GATHER_S / 10)
        world.reactor.settle()
    ours, theirs = (events(world) for world in pair.worlds)
    assert ours == theirs[-2:]  # a log's events go out under two keys
    assert [message["num_lines"] for _, message in ours] == [5, 5]


def test_the_event_of_one_property_names_it(pair: Pair) -> None:
    for world in pair.worlds:
        world.call(world.updates.setBuildProperty, 1, "branch", "main", "Step")
    ours, theirs = (events(world) for world in pair.worlds)
    key = ("builds", "1", "properties", "update")
    assert ours == [(key, {"branch": ("main", "Step")})]
    assert theirs == [(key, {"name": ("main", "Step")})]
    pair.same_rows("build_properties")


def test_a_tuple_is_no_change_of_a_list(pair: Pair) -> None:
    world = pair.litebots
    for value in ([1, 2], (1, 2)):
        given = Properties()
        given.setProperty("a", value, "Step")
        world.call(world.updates.setBuildProperties, 1, given)
    assert len(events(world)) == 1


# messages are each consumer's own


def test_an_event_is_not_changed_by_what_follows(pair: Pair) -> None:
    world = pair.litebots
    logid = world.call(world.updates.addLog, 1, "stdio", "s")
    world.call(world.updates.appendLog, logid, "oone\n")
    world.call(world.updates.finishLog, logid)
    logs = [m for key, m in events(world) if key[0] == "logs"]
    assert [(m["num_lines"], m["complete"]) for m in logs] == [(0, False), (1, False), (1, True)]


# the same data API


def test_the_same_updates_and_paths(pair: Pair) -> None:
    """Nothing that Buildbot's offers is lost by taking other modules; one update is our own."""

    def offers(world: World) -> Any:
        data = world.master.data
        paths = {pattern for pattern, _ in data.matcher.iterPatterns()}
        rtypes = {
            name: (rtype.plural, rtype.eventPaths) for name, rtype in vars(data.rtypes).items()
        }
        return set(vars(data.updates)) - {"addChanges"}, paths, rtypes, data.rootLinks

    ours, theirs = offers(pair.litebots), offers(pair.buildbots)
    assert ours == theirs


def test_paths_are_compiled_once(world: World) -> None:
    matcher = world.master.data.matcher
    assert world.call(world.master.data.get, ("builders", 1))["builderid"] == 1
    patterns = matcher._by_length
    world.call(world.master.data.get, ("builders", 2))
    assert matcher._by_length is patterns
    matcher["a", "new", "path"] = "found"
    assert matcher["a", "new", "path"][0] == "found"
