"""What builds next: the order of Buildbot's own distributor, from a page of requests at a time."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from buildbot.process import buildrequestdistributor
from buildbot.util import epoch2datetime
from buildbot.util.twisted import async_to_deferred
from hypothesis import HealthCheck
from hypothesis import Phase
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from litebot.master.builds.distributor import PAGE
from support.stand_in import EPOCH_S
from support.worlds import BUILDERS
from support.worlds import Pair
from support.worlds import World

MakePair = Callable[[], AbstractContextManager[Pair]]

pytestmark = pytest.mark.usefixtures("logged")

STAMP = {"repository": "r", "project": "", "codebase": "", "branch": "b", "revision": None}


class Config:
    """As much of a builder's configuration as a chooser asks for."""

    def __init__(self, nextBuild: Any) -> None:
        self.nextBuild = nextBuild
        self.nextWorker = None
        self.collapseRequests = None


class Builder:
    """Buildbot's builder as its distributor sees it; what "builds" stays claimed, and is noted."""

    def __init__(self, world: World, builderid: int, name: str, workers: int) -> None:
        self.master = world.master
        self.builderid = builderid
        self.name = name
        self.workers = [f"worker {n}" for n in range(workers)]
        self.building: list[Any] = []
        self.config = Config(None)
        self.started: list[int] = []
        self.asked: list[int] = []  # requests for which it was asked whether they can start
        self.stuck: set[int] = set()

    def getBuilderId(self) -> Any:
        return self.builderid

    def getAvailableWorkers(self) -> list[str]:
        return list(self.workers)

    def getCollapseRequestsFn(self) -> None:
        return None

    def canStartBuild(self, _worker: str, request: Any) -> bool:
        self.asked.append(request.id)
        return request.id not in self.stuck

    def maybeStartBuild(self, worker: str, requests: list[Any]) -> Any:
        async def start() -> bool:
            self.workers.remove(worker)
            self.started += [request.id for request in requests]
            self.master.order.append((self.name, requests[0].id))
            return True

        return start()

    async def get_highest_priority(self) -> Any:
        models = self._waiting
        return max((model.priority for model in await models()), default=None)

    async def getOldestRequestTime(self) -> Any:
        return min((model.submitted_at for model in await self._waiting()), default=None)

    async def _waiting(self) -> Any:
        requests = self.master.db.buildrequests
        return await requests.getBuildRequests(builderid=self.builderid, claimed=False)


def prepare(world: World, workers: int = 1) -> dict[str, Builder]:
    """Have builders with these many workers each, and the distributor running."""
    world.master.order = []
    builders = {name: Builder(world, n, name, workers) for n, name in enumerate(BUILDERS, start=1)}
    botmaster = world.master.botmaster
    botmaster.builders = builders
    botmaster._builders_byid = {builder.builderid: builder for builder in builders.values()}
    botmaster.brd.running = True
    return builders


def add(world: World, builderid: int, priority: int = 0, submitted_at: int = EPOCH_S) -> int:
    """Add a request without telling the distributor; its id."""
    _, brids = world.call(
        world.db.buildsets.addBuildset,
        sourcestamps=[STAMP],
        reason="",
        properties={},
        builderids=[builderid],
        waited_for=False,
        priority=priority,
        submitted_at=epoch2datetime(submitted_at),
    )
    return int(brids[builderid])


def distribute(world: World) -> list[tuple[str, int]]:
    """Start what can be started; (builder, request) in that order."""
    world.call(world.master.botmaster.brd.maybeStartBuildsOn, list(BUILDERS))
    world.call(world.master.botmaster.brd._waitForFinish)
    return list(world.master.order)


@pytest.fixture
def builders(world: World) -> dict[str, Builder]:
    return prepare(world)


def test_ours_is_what_runs(world: World) -> None:
    stock = buildrequestdistributor.BuildRequestDistributor
    brd = world.master.botmaster.brd
    assert isinstance(brd, stock)
    assert type(brd) is not stock
    assert [child for child in world.master.botmaster if isinstance(child, stock)] == [brd]


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(-1, 1), st.integers(0, 5)), min_size=1, max_size=30
    ),
    st.sets(st.integers(1, 30)),
    st.integers(0, 4),
)
def test_the_same_order_as_buildbots(
    pairs: MakePair, waiting: Any, stuck: set[int], workers: int
) -> None:
    with pairs() as pair:
        orders = []
        for world in pair.worlds:
            builders = prepare(world, workers)
            for builder in builders.values():
                builder.stuck = stuck
            for builderid, priority, submitted_at in waiting:
                add(world, builderid, priority, EPOCH_S + submitted_at)
            orders.append(distribute(world))
        assert orders[0] == orders[1]
        pair.same_rows("buildrequest_claims")


def test_priority_and_age_over_many_pages(world: World) -> None:
    fast = prepare(world, workers=1000)["fast"]
    expected = []
    for n in range(PAGE * 2 + 5):
        priority = (n * 7) % 3
        expected.append((-priority, add(world, 1, priority)))
    distribute(world)
    assert fast.started == [brid for _, brid in sorted(expected)]


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
def test_requests_that_can_t_start_do_not_block_later_ones(
    world: World, builders: dict[str, Builder], count: int
) -> None:
    fast = builders["fast"]
    fast.stuck = {add(world, 1, priority=5) for _ in range(count)}
    startable = add(world, 1)
    distribute(world)
    assert fast.started == [startable]
    assert len(fast.asked) == count + 1  # each once


def test_no_more_is_read_than_is_needed(
    world: World, builders: dict[str, Builder], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3 * PAGE):
        add(world, 1)
    read = []
    requests = world.db.buildrequests
    real = requests.get_unclaimed

    async def counting(*args: Any) -> Any:
        models = await real(*args)
        read.append(len(models))
        return models

    monkeypatch.setattr(requests, "get_unclaimed", async_to_deferred(counting))
    distribute(world)
    assert len(builders["fast"].started) == 1
    assert read == [PAGE]


def test_a_builder_without_workers_is_left_out(world: World, builders: dict[str, Builder]) -> None:
    builders["fast"].workers = []
    add(world, 1, priority=9)
    brid = add(world, 2)
    assert distribute(world) == [("slow", brid)]


def test_the_builder_with_the_most_urgent_request_is_first(
    world: World, builders: dict[str, Builder]
) -> None:
    old = add(world, 1, submitted_at=EPOCH_S - 9)
    urgent = add(world, 2, priority=1)
    first = add(world, 3, submitted_at=EPOCH_S - 5)
    assert distribute(world) == [("slow", urgent), ("fast", old), ("docs", first)]


def test_builders_of_one_urgency_go_by_name(world: World, builders: dict[str, Builder]) -> None:
    for builderid in (1, 2, 3):
        add(world, builderid)
    assert [name for name, _ in distribute(world)] == ["docs", "fast", "slow"]


def test_next_build_of_a_configuration_sees_all_requests(
    world: World, builders: dict[str, Builder]
) -> None:
    seen: list[list[int]] = []

    def last(builder: Any, requests: list[Any]) -> Any:
        assert builder is builders["fast"]
        seen.append(sorted(request.id for request in requests))
        return max(requests, key=lambda request: request.id)

    builders["fast"].config = Config(last)
    brids = [add(world, 1) for _ in range(2 * PAGE)]
    distribute(world)
    assert seen[0] == brids
    assert builders["fast"].started == [brids[-1]]


def test_next_build_may_decline(world: World, builders: dict[str, Builder]) -> None:
    builders["fast"].config = Config(lambda _builder, _requests: None)
    add(world, 1)
    other = add(world, 2)
    assert distribute(world) == [("slow", other)]


def test_prioritize_builders_of_a_configuration_is_asked(
    world: World, builders: dict[str, Builder]
) -> None:
    def by_length(master: Any, listed: list[Any]) -> list[Any]:
        assert master is world.master
        return sorted(listed, key=lambda builder: builder.name, reverse=True)

    world.master.config.prioritizeBuilders = by_length
    for builderid in (1, 2, 3):
        add(world, builderid)
    assert [name for name, _ in distribute(world)] == ["slow", "fast", "docs"]


@pytest.fixture
def listening(world: World, builders: dict[str, Builder]) -> Iterator[World]:
    """A master whose botmaster hears of new requests."""
    botmaster = world.master.botmaster

    def produce(key: tuple[str, ...], message: Any) -> None:
        if key[0] == "buildrequests" and key[-1] in ("new", "unclaimed"):
            botmaster._buildrequest_added(key, message)

    world.master.mq.produce = produce
    yield world
    world.call(botmaster._flush_pending_builders.stop)


def add_and_tell(world: World, *builderids: int) -> None:
    world.call(
        world.updates.addBuildset,
        waited_for=False,
        sourcestamps=[STAMP],
        builderids=list(builderids),
    )


def test_a_new_request_starts_at_once(listening: World, builders: dict[str, Builder]) -> None:
    add_and_tell(listening, 1)
    listening.reactor.run_until(lambda: bool(builders["fast"].started))
    assert listening.reactor.now < 0.001  # Buildbot's botmaster waits for 0.1 s


def test_requests_that_keep_coming_put_nothing_off(
    listening: World, builders: dict[str, Builder]
) -> None:
    for _ in range(10):
        add_and_tell(listening, 1)
        listening.reactor.advance(0.05)
        for _ in range(20):
            listening.reactor.turn()
        assert builders["fast"].started == [1]


def test_the_requests_of_a_buildset_are_taken_as_a_whole(
    listening: World, builders: dict[str, Builder]
) -> None:
    for n in range(3):
        add(listening, 3 - n, priority=n)
    add_and_tell(listening, 1, 2, 3)
    listening.reactor.run_until(lambda: len(listening.master.order) == 3)
    assert [name for name, _ in listening.master.order] == ["fast", "slow", "docs"]
