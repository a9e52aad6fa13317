"""Pages of lists, as requests read them: the same as Buildbot's, however often they begin."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import sqlalchemy as sa
from buildbot.data.resultspec import Filter

from litebot.master.data.connector import Query
from litebot.master.db.components import lists
from litebot.master.db.read_pool import ReadSnapshot
from litebot.master.db.read_pool import may_read_inline
from litebot.master.db.read_pool import read_snapshot
from litebot.master.db.sqlite import read_pool as sqlite_read_pool
from support.worlds import Pair
from support.worlds import World

CHANGES = 12
PAGES: tuple[dict[str, Any], ...] = (
    {"limit": 5},
    {"limit": 5, "offset": 3, "order": ["-changeid"]},
    {"limit": 3, "order": ["changeid"], "filters": [Filter("branch", "eq", ["b1"])]},
    {"limit": 50, "order": ["-when_timestamp", "changeid"]},
    {"order": ["-changeid"]},
)


def patch_one(world: World) -> None:
    """Have one change be of a sourcestamp with a patch."""
    db = world.master.db
    ssid = world.call(
        db.sourcestamps.findSourceStampId,
        **dict.fromkeys(("codebase", "project", "repository", "patch_comment"), ""),
        patch_body=b"--- a\n+++ b\n",
        patch_level=1,
        patch_author="me",
        patch_subdir="sub",
    )

    def thd(conn: sa.engine.Connection) -> None:
        conn.exec_driver_sql(f"UPDATE changes SET sourcestampid = {ssid} WHERE changeid = 2")

    world.call(db.pool.do_with_transaction, thd)


def page(world: World, options: dict[str, Any]) -> Any:
    """What a request gets."""

    def ask() -> Any:
        read_snapshot.set(ReadSnapshot())
        may_read_inline.set(True)
        return world.call(world.master.data.get, ("changes",), **options)

    found = contextvars.copy_context().run(ask)
    return list(found), found.total


@pytest.mark.parametrize("inline_read_s", [60.0, 0.0], ids=["at once", "begun again"])
def test_pages_of_changes(
    pairs: Callable[[], AbstractContextManager[Pair]],
    monkeypatch: pytest.MonkeyPatch,
    inline_read_s: float,
) -> None:
    begun_here: list[bool] = []
    really = lists.List.models

    def begin(*args: Any) -> Any:
        begun_here.append(threading.get_ident() == here)
        return really(*args)

    here = threading.get_ident()
    monkeypatch.setattr(lists.List, "models", begin)
    monkeypatch.setattr(sqlite_read_pool, "INLINE_READ_S", inline_read_s)
    monkeypatch.setattr(sqlite_read_pool, "INLINE_READ_STEPS", 1)
    monkeypatch.setattr(sqlite_read_pool, "INLINE_READ_PAUSE_S", 0.0)
    with pairs() as pair:
        for number in range(CHANGES):
            pair.update(
                "addChange",
                files=[f"f{n}" for n in range(number % 3)],
                author="Ä",
                revision=str(number),
                when_timestamp=number // 2,
                branch=f"b{number % 2}",
                properties={"p": number, "q": ["text", "Change"]},
            )
        for world in pair.worlds:
            patch_one(world)
        for options in PAGES:
            ours, theirs = (page(world, options) for world in pair.worlds)
            assert ours == theirs
    assert begun_here == ([True] if inline_read_s else [True, False]) * len(PAGES)


def test_every_path_and_link_of_buildbots_is_there(
    pairs: Callable[[], AbstractContextManager[Pair]],
) -> None:
    def found(world: World) -> Any:
        data = world.master.data
        return {path for path, _ in data.matcher.iterPatterns()}, data.rootLinks

    with pairs() as pair:
        ours, theirs = (found(world) for world in pair.worlds)
        assert ours[0] >= theirs[0]
        assert all(link in ours[1] for link in theirs[1])


def test_unfinished_rows_are_found_without_the_others(world: World) -> None:
    db = world.master.db
    asked: list[str] = []
    handle = db.pool._handle
    handle.set_profile(lambda sql, _ns: asked.append(sql))
    mine = Query([Filter("masterid", "eq", [1])])
    world.call(db.builds.getBuilds, complete=False, resultSpec=mine)
    world.call(db.builds.getBuilds, builderid=1, complete=False)
    world.call(db.buildrequests.getBuildRequests, complete=False, claimed=1)
    world.call(db.buildrequests.getBuildRequests, builderid=1, complete=False)
    handle.set_profile(None)
    plans = [
        [detail for *_, detail in handle.execute(f"EXPLAIN QUERY PLAN {sql}", (1,))]
        for sql in asked
        if sql.startswith("SELECT")
    ]
    assert len(plans) == 4
    for plan in plans:
        assert any("INDEX litebot_unfinished_" in line for line in plan), plan
