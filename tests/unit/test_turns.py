"""Turns in a folder, and the steady clock that they and pollers wait by."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import defer
from twisted.internet import task

from litebot.master.delivery.turns import LONGEST_WAIT_S
from litebot.master.delivery.turns import Turns
from litebot.master.runtime.steady_clock import SteadyClock


async def work(turns: Turns, folder: Path, began: list[str], ends: defer.Deferred[None]) -> None:
    async with turns.turn(str(folder)):
        began.append(folder.name)
        await ends


def test_one_at_a_time_works_in_a_folder_whatever_it_is_called(tmp_path: Path) -> None:
    folder, link, other = (tmp_path / name for name in ("folder", "link", "other"))
    folder.mkdir()
    link.symlink_to(folder)
    turns, began = Turns(task.Clock()), list[str]()
    ends: list[defer.Deferred[None]] = [defer.Deferred() for _ in range(3)]
    for each, end in zip((folder, link, other), ends, strict=True):
        defer.ensureDeferred(work(turns, each, began, end))
    assert began == ["folder", "other"]
    ends[0].callback(None)
    assert began == ["folder", "other", "link"]


def test_who_does_not_end_keeps_others_from_their_work_for_a_while_only(tmp_path: Path) -> None:
    clock, began = task.Clock(), list[str]()
    turns = Turns(clock)
    ends: list[defer.Deferred[None]] = [defer.Deferred() for _ in range(3)]
    done = [defer.ensureDeferred(work(turns, tmp_path, began, end)) for end in ends[:2]]
    clock.advance(LONGEST_WAIT_S - 1)
    assert len(began) == 1
    clock.advance(2)
    assert len(began) == 2
    for end in ends:
        end.callback(None)
    done.append(defer.ensureDeferred(work(turns, tmp_path, began, ends[2])))
    assert len(began) == 3
    assert all(each.called for each in done)


class Reactor:
    """Makes calls from threads at once."""

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:
        function(*args)


def test_the_steady_clock_makes_calls_in_order_unless_they_are_cancelled() -> None:
    clock, made, is_done = SteadyClock(Reactor()), list[int](), threading.Event()
    clock.callLater(0.03, made.append, 3)
    clock.callLater(0.01, made.append, 1)
    cancelled = clock.callLater(0.02, made.append, 2)
    last = clock.callLater(0.04, is_done.set)
    cancelled.cancel()
    assert last.active()
    assert not cancelled.active()
    assert is_done.wait(10)
    assert made == [1, 3]
    assert not last.active()
    clock.close()
    clock.callLater(0, made.append, 4)
    assert made == [1, 3]
