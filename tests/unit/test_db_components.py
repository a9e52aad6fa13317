"""The components in plain SQL and Buildbot's own: the same calls, results and rows.

Each example does a random sequence of calls to a master with either, on databases of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from buildbot.process.results import CANCELLED
from buildbot.process.results import EXCEPTION
from buildbot.process.results import FAILURE
from buildbot.process.results import RETRY
from buildbot.process.results import SKIPPED
from buildbot.process.results import SUCCESS
from buildbot.process.results import WARNINGS
from buildbot.util import epoch2datetime
from hypothesis import HealthCheck
from hypothesis import Phase
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from support.stand_in import EPOCH_S
from support.worlds import Pair
from support.worlds import Raised
from support.worlds import outcome

MakePair = Callable[[], AbstractContextManager[Pair]]

pytestmark = pytest.mark.usefixtures("logged")

quick = settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

RESULTS = [SUCCESS, WARNINGS, FAILURE, SKIPPED, EXCEPTION, CANCELLED]
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
ids = st.sampled_from([1, 1, 1, 2, 2, 3, 4])  # small ones exist, larger ones may not
times = st.integers(0, 2**31)
results = st.sampled_from(RESULTS)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def calls(**arguments: tuple[st.SearchStrategy[Any], ...]) -> st.SearchStrategy[Any]:
    """A sequence of (method, arguments), with pauses between."""
    one = [st.tuples(st.just(name), st.tuples(*given)) for name, given in arguments.items()]
    return st.lists(st.tuples(st.integers(0, 5), st.one_of(one)), min_size=1, max_size=25)


def do(pair: Pair, component: str, sequence: Any) -> None:
    for pause_s, (method, arguments) in sequence:
        pair.advance(pause_s)
        pair.same(f"{component}.{method}", *arguments)


# steps

names = st.sampled_from(["compile", "compile_1", "x" * 50, "x" * 48 + "_1", "ü", ""]) | texts


@quick
@given(
    calls(
        addStep=(ids, names, texts),
        startStep=(ids, times, st.booleans()),
        set_step_locks_acquired_at=(ids, times),
        setStepStateString=(ids, texts),
        addURL=(st.just(1), texts, texts),
        finishStep=(ids, results, st.booleans()),
        getStep=(ids,),
        getSteps=(ids,),
    )
)
def test_steps(pairs: MakePair, sequence: Any) -> None:
    with pairs() as pair:
        pair.same("steps.addStep", 1, "first", "pending")
        do(pair, "steps", sequence)
        for buildid in range(1, 5):
            for step in pair.same("steps.getSteps", buildid):
                pair.same("steps.getStep", buildid=buildid, number=step.number)
                pair.same("steps.getStep", buildid=buildid, name=step.name)
        pair.same_rows("steps")


def test_steps_of_one_name(pairs: MakePair) -> None:
    with pairs() as pair:
        added = [pair.same("steps.addStep", 1, "s" * 50, "")[2] for _ in range(12)]
        assert added[:3] == ["s" * 50, "s" * 48 + "_1", "s" * 48 + "_2"]
        assert added[11] == "s" * 47 + "_11"
        pair.same_rows("steps")


@pytest.mark.parametrize("which", [{}, {"number": 1}, {"buildid": 1}])
def test_a_step_has_to_be_named(pairs: MakePair, which: dict[str, int]) -> None:
    with pairs() as pair:
        assert pair.same("steps.getStep", **which) == Raised("RuntimeError")


# builds


@quick
@given(
    calls(
        addBuild=(ids, ids, ids, st.just(1), texts),
        setBuildStateString=(ids, texts),
        add_build_locks_duration=(ids, st.integers(0, 10**6)),
        finishBuild=(ids, results),
        getBuild=(ids,),
        getBuildByNumber=(ids, ids),
        getBuilds=(ids,),
        setBuildProperty=(ids, st.sampled_from("abc"), json_values, texts),
        getBuildProperties=(ids,),
    )
)
def test_builds(pairs: MakePair, sequence: Any) -> None:
    with pairs() as pair:
        do(pair, "builds", sequence)
        for buildid in range(1, 5):
            pair.same("builds.getBuildProperties", buildid)
        pair.same_rows("builds", "build_properties")


@quick
@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.tuples(json_values, texts))))
def test_all_properties_at_once(pairs: MakePair, sequence: Any) -> None:
    with pairs() as pair:
        have: dict[str, Any] = {}
        for properties in sequence:
            changed = pair.litebots.call(pair.litebots.db.builds.set_properties, 1, properties)
            for name, (value, source) in properties.items():
                pair.buildbots.call(
                    pair.buildbots.db.builds.setBuildProperty, 1, name, value, source
                )
            assert changed.keys() <= properties.keys()
            assert {**have, **properties} == {**have, **changed}
            have |= changed
            pair.same_rows("build_properties")


def test_a_value_that_is_no_json_leaves_the_properties_as_they_were(
    pairs: MakePair, logged: Any
) -> None:
    with pairs() as pair:
        db = pair.litebots.db.builds
        pair.litebots.call(db.set_properties, 1, {"a": (1, "Step")})
        with pytest.raises(TypeError):
            pair.litebots.call(db.set_properties, 1, {"a": (2, "S"), "b": (object(), "S")})
        assert logged.take() == [TypeError]
        assert pair.litebots.call(db.getBuildProperties, 1) == {"a": (1, "Step")}


# buildsets

PLAIN = {"repository": "r", "project": "", "codebase": "", "branch": "b", "revision": None}

plain_stamps = st.fixed_dictionaries(
    {
        "branch": st.sampled_from([None, "main", "ü"]),
        "revision": st.sampled_from([None, "abc"]),
        "repository": st.sampled_from(["", "https://git.example.com/r"]),
        "project": st.sampled_from(["", "p"]),
        "codebase": st.sampled_from(["", "lib"]),
    },
)
patches = st.fixed_dictionaries(
    {
        "patch_body": st.sampled_from([None, b"--- a\n+++ b\n"]),
        "patch_level": st.just(1),
        "patch_author": st.just("me"),
        "patch_comment": st.just(""),
        "patch_subdir": st.none(),
    },
)
stamps = plain_stamps | st.builds(lambda stamp, patch: {**stamp, **patch}, plain_stamps, patches)


def identity(stamp: Any) -> Any:
    """A buildset has no sourcestamp twice."""
    return stamp if stamp == 1 else tuple(stamp[column] for column in PLAIN)


def patched_first(given: list[Any]) -> list[Any]:
    """A patch is stored before the buildset, so in another order ids would differ."""
    return sorted(given, key=lambda stamp: stamp == 1 or not stamp.get("patch_body"))


buildsets = st.fixed_dictionaries(
    {
        "sourcestamps": st.lists(
            stamps | st.just(1), min_size=1, max_size=3, unique_by=identity
        ).map(patched_first),
        "reason": texts,
        "properties": st.dictionaries(texts, st.tuples(json_values, texts), max_size=3),
        "builderids": st.lists(st.integers(1, 3), unique=True, max_size=3),
        "waited_for": st.booleans(),
    },
    optional={
        "external_idstring": texts,
        "submitted_at": st.integers(0, 2**31).map(epoch2datetime),
        "rebuilt_buildid": ids,
        "parent_buildid": ids,
        "parent_relationship": texts,
        "priority": st.integers(-5, 5),
    },
)
BUILDSET_TABLES = (
    "buildsets",
    "buildset_properties",
    "buildset_sourcestamps",
    "buildrequests",
    "sourcestamps",
    "patches",
)


def add(pair: Pair, *builderids: int, priority: int = 0, waited_for: bool = False) -> Any:
    """Add a buildset; its id, and {builderid: brid}."""
    return pair.same(
        "buildsets.addBuildset",
        sourcestamps=[PLAIN],
        reason="",
        properties={},
        builderids=builderids,
        waited_for=waited_for,
        priority=priority,
    )


@quick
@given(st.lists(st.tuples(st.integers(0, 5), buildsets), min_size=1, max_size=8))
def test_buildsets(pairs: MakePair, sequence: Any) -> None:
    with pairs() as pair:
        add(pair, 1)
        for pause_s, arguments in sequence:
            pair.advance(pause_s)
            bsid, _ = pair.same("buildsets.addBuildset", **arguments)
            models = [world.call(world.db.buildsets.getBuildset, bsid) for world in pair.worlds]
            stamps = rows_of(pair, bsid)
            assert models[0].sourcestamps == stamps
            models[1].sourcestamps.sort(key=stamps.index)  # Buildbot's come as they like
            assert models[0] == models[1]
            pair.same("buildsets.getBuildsetProperties", bsid)
            pair.same("buildsets.getBuildsetProperties", bsid, no_cache=1)
        pair.same("buildsets.getBuildset", 99)
        pair.same("buildsets.getBuildsets")
        pair.same_rows(*BUILDSET_TABLES)


def rows_of(pair: Pair, bsid: int) -> list[int]:
    """The ids of a buildset's sourcestamps in the order in which it was given them."""
    rows = pair.litebots.rows("buildset_sourcestamps")
    return [ssid for _, bsid_of_row, ssid in rows if bsid_of_row == bsid]


def test_a_sourcestamp_is_used_again(pairs: MakePair) -> None:
    with pairs() as pair:
        for _ in range(3):
            add(pair, 1)
        pair.same_rows(*BUILDSET_TABLES)
        assert len(pair.litebots.rows("sourcestamps")) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"sourcestamps": [{**PLAIN, "codebase": None}]},
        {"sourcestamps": [{**PLAIN, "project": None}]},
        {"sourcestamps": [{**PLAIN, "repository": None}]},
        {"sourcestamps": [{**PLAIN, "brunch": "main"}]},
        {"waited_for": 1},
        {"properties": {"a": (object(), "")}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_buildset_that_is_wrong(pairs: MakePair, logged: Any, wrong: dict[str, Any]) -> None:
    arguments = {
        "sourcestamps": [PLAIN],
        "reason": "",
        "properties": {},
        "builderids": [1],
        "waited_for": False,
    }
    with pairs() as pair:
        for world in pair.worlds:
            raised = outcome(world, world.db.buildsets.addBuildset, **{**arguments, **wrong})
            logged.clear()
            assert isinstance(raised, Raised)
        assert pair.litebots.rows("buildsets") == pair.litebots.rows("buildrequests") == []


@quick
@given(st.lists(st.sampled_from(RESULTS), max_size=3))
def test_a_buildset_is_complete_with_its_last_request(pairs: MakePair, each: list[int]) -> None:
    with pairs() as pair:
        bsid, brids = add(pair, *range(1, len(each) + 1))
        for brid, result in zip(brids.values(), each, strict=True):
            assert not pair.same("buildsets.getBuildset", bsid).complete
            assert pair.update("completeBuildRequests", [brid], result) is True
        pair.update("maybeBuildsetComplete", bsid)
        assert pair.same("buildsets.getBuildset", bsid).complete
        pair.same("buildsets.completeBuildset", bsid, SUCCESS)
        pair.same_rows(*BUILDSET_TABLES)


# build requests

some_brids = st.lists(st.integers(1, 7), max_size=3)


@quick
@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 3), unique=True), st.integers(-2, 2), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    calls(
        claimBuildRequests=(some_brids.filter(bool), st.none() | times.map(epoch2datetime)),
        unclaimBuildRequests=(some_brids,),
        completeBuildRequests=(some_brids, results, st.none() | times.map(epoch2datetime)),
        getBuildRequest=(st.integers(1, 7),),
    ),
)
def test_buildrequests(pairs: MakePair, logged: Any, added: Any, sequence: Any) -> None:
    with pairs() as pair:
        for builderids, priority, waited_for in added:
            pair.advance(1)
            add(pair, *builderids, priority=priority, waited_for=waited_for)
        try:
            do(pair, "buildrequests", sequence)
        finally:
            logged.clear()  # NotClaimedError is logged on either side
        for bsid in (1, 2, 7):
            assert_same_set(pair, bsid=bsid)
            assert_same_set(pair, bsid=bsid, complete=False)
            assert_same_set(pair, bsid=bsid, complete=True, builderid=1)
        for claimed in (None, False, True, 1, 2):
            assert_same_set(pair, claimed=claimed)
            assert_same_set(pair, claimed=claimed, bsid=1)
        assert_same_set(pair, bsid=1, branch="b")
        pair.same_rows("buildrequests", "buildrequest_claims")


def assert_same_set(pair: Pair, **what: Any) -> None:
    """Buildbot's component does not say in which order it finds requests."""
    found = [
        sorted(
            world.call(world.db.buildrequests.getBuildRequests, **what),
            key=lambda model: model.buildrequestid,
        )
        for world in pair.worlds
    ]
    assert found[0] == found[1]


def test_claims_are_all_or_none(pairs: MakePair) -> None:
    with pairs() as pair:
        add(pair, 1, 2, 3)
        claimed = pair.same("buildrequests.claimBuildRequests", [2])
        assert [model.claimed_by_masterid for model in claimed] == [1]
        for world in pair.worlds:
            world.master.masterid = 2
        taken = pair.same("buildrequests.claimBuildRequests", [1, 2, 3])
        assert taken == Raised("AlreadyClaimedError")
        pair.same("buildrequests.unclaimBuildRequests", [2])  # it is the other master's
        pair.same_rows("buildrequest_claims")
        assert [row[0] for row in pair.litebots.rows("buildrequest_claims")] == [2]


def test_completions_are_all_or_none(pairs: MakePair, logged: Any) -> None:
    with pairs() as pair:
        add(pair, 1, 2, 3)
        pair.same("buildrequests.completeBuildRequests", [2], SUCCESS)
        for brids in ([1, 2, 3], [1, 1], [1, 99]):
            raised = pair.same("buildrequests.completeBuildRequests", brids, FAILURE)
            assert raised == Raised("NotClaimedError")
        raised = pair.same("buildrequests.completeBuildRequests", [1], RETRY)
        assert raised == Raised("AssertionError")
        logged.clear()
        pair.same_rows("buildrequests")


@quick
@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(-2, 2), times), max_size=30),
    st.lists(st.integers(1, 30)),
    st.integers(1, 7),
)
def test_the_order_of_what_waits(
    pairs: MakePair, waiting: Any, claimed: list[int], page: int
) -> None:
    """Highest priority first, then in the order of their ids, page by page."""
    with pairs() as pair:
        world = pair.litebots
        for builderid, priority, submitted in waiting:
            world.call(
                world.db.buildsets.addBuildset,
                sourcestamps=[PLAIN],
                reason="",
                properties={},
                builderids=[builderid],
                waited_for=False,
                priority=priority,
                submitted_at=epoch2datetime(submitted),
            )
        for brid in claimed:
            if brid % 2 and brid <= len(waiting):
                world.call(world.updates.claimBuildRequests, [brid])
            elif brid <= len(waiting):
                world.call(world.updates.completeBuildRequests, [brid], SUCCESS)
        urgency = world.call(world.db.buildrequests.get_urgency)
        assert 3 not in urgency
        for builderid in (1, 2):
            all_models = world.call(
                world.db.buildrequests.getBuildRequests, builderid=builderid, claimed=False
            )
            # as BasicBuildChooser sorts: by id, and then (which keeps that) by priority
            expected = sorted(all_models, key=lambda model: model.buildrequestid)
            expected.sort(key=lambda model: model.priority, reverse=True)
            found: list[Any] = []
            while True:
                after = found[-1] if found else None
                models = world.call(world.db.buildrequests.get_unclaimed, builderid, after, page)
                found += models
                if len(models) < page:
                    break
            assert found == expected
            if expected:
                oldest = min(int(model.submitted_at.timestamp()) for model in expected)
                assert urgency[builderid] == (expected[0].priority, oldest)
            else:
                assert builderid not in urgency


def test_some_requests_in_the_order_asked_for(pairs: MakePair) -> None:
    with pairs() as pair:
        add(pair, 1, 2, 3)
        world = pair.litebots
        found = world.call(world.db.buildrequests.get_some, iter([3, 99, 1]))
        assert [model.buildrequestid for model in found] == [3, 1]


def test_now_is_the_reactors(pairs: MakePair) -> None:
    with pairs() as pair:
        pair.advance(7.9)
        _, brids = add(pair, 1)
        pair.same("buildrequests.completeBuildRequests", [brids[1]], SUCCESS)
        model = pair.same("buildrequests.getBuildRequest", brids[1])
        assert model.submitted_at == model.complete_at == epoch2datetime(EPOCH_S + 7)
