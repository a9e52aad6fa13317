"""Builds that can't begin, and workers that are lost at moments which Buildbot does not handle."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.killed import Victim
from support.master import EXCEPTION
from support.master import RETRY
from support.master import SUCCESS
from support.master import on_both
from support.remote import remote_worker
from support.several import errors

# At the moment that `when` names, the worker of the first build disconnects.
CONFIG = """
from buildbot.process.build import Build
from twisted.internet import defer, reactor, task

lost = []


async def lose(workerforbuilder):
    if not lost:
        lost.append(workerforbuilder)
        await workerforbuilder.worker.disconnect()
        while workerforbuilder.worker is not None:
            await task.deferLater(reactor, 0.01)
    return True


@util.renderer
async def locks(props):
    if props.build is not None and {when!r} == "prepared":
        await lose(props.build.workerforbuilder)
    return [util.MasterLock("lock").access("exclusive")]


class Losing(Build):
    def getWorkerName(self):
        if {when!r} == "pinged" and self.workerforbuilder.worker.conn and not lost:
            lost.append(self)
            self.workerforbuilder.worker.disconnect()
        return super().getWorkerName()

    async def buildFinished(self, text, results):
        if {when!r} == "finished" and not lost:
            self.subs.unsubscribe()
            self.conn = None
            await lose(self.workerforbuilder)
        await super().buildFinished(text, results)


def can_start(builder, workerforbuilder, request):
    if {when!r} == "claimed":
        return defer.ensureDeferred(lose(workerforbuilder))
    return True


class Step(steps.BuildStep):
    def run(self):
        if {when!r} == "finished" and not lost:
            raise ValueError("a mistake")
        return util.SUCCESS


c["workers"] = [worker.Worker("remote", "workerpw")]
builder("b", Step(), workernames=["remote"], locks=locks, canStartBuild=can_start)
c["builders"][0].factory.buildClass = Losing
"""


@pytest.fixture
def losing(victim: Victim, tmp_path: Path) -> Iterator[Callable[[str], Victim]]:
    """A function that starts a master whose first build loses its worker at a given moment."""
    with ExitStack() as stack:

        def start(when: str) -> Victim:
            victim.write_config(CONFIG.format(when=when))
            victim.start()
            where = f"127.0.0.1:{victim.ports[1]}"
            stack.enter_context(remote_worker(tmp_path / "remote", where))
            return victim

        yield start


def test_a_build_is_made_when_its_worker_is_back(losing: Callable[[str], Victim]) -> None:
    victim = losing("claimed")
    victim.ask_for("b")
    victim.await_quiet()
    assert victim.rows("SELECT results FROM builds") == [(SUCCESS,)]
    assert errors(victim) == []


@pytest.mark.parametrize("when", ["prepared", "pinged"])
def test_a_build_that_can_not_begin_is_tried_again(
    losing: Callable[[str], Victim], when: str
) -> None:
    victim = losing(when)
    victim.ask_for("b")
    victim.await_quiet()
    assert victim.rows("SELECT results FROM builds ORDER BY id") == [(RETRY,), (SUCCESS,)]
    assert victim.rows("SELECT 1 FROM steps WHERE complete_at IS NULL") == []
    assert errors(victim) == []


def test_a_build_that_fails_at_that_moment_is_complete(losing: Callable[[str], Victim]) -> None:
    victim = losing("finished")
    victim.ask_for("b")
    victim.await_quiet()
    assert victim.rows("SELECT results FROM buildrequests") == [(EXCEPTION,)]
    victim.ask_for("b")  # its worker is connected again and idle
    victim.await_quiet()
    assert victim.rows("SELECT results FROM builds ORDER BY id") == [(EXCEPTION,), (SUCCESS,)]


@on_both
def test_a_mistake_while_a_build_begins_ends_it(victim: Victim) -> None:
    victim.write_config(
        """
        from buildbot.process.build import Build

        def wrong(build):
            raise ValueError("a mistake")

        @util.renderer
        def wrong_locks(props):
            return [] if props.build is None else wrong(props.build)

        class Wrong(Build):
            def __init__(self, requests, builder):
                wrong(self)

        builder("makes", shell("true"))
        c["builders"][0].factory.buildClass = Wrong
        builder("asks", shell("true"), do_build_if=wrong)
        builder("locks", shell("true"), locks=wrong_locks)
        builder("well", shell("true"))
        """
    )
    victim.start()
    for builder in ("makes", "asks", "locks", "well"):
        victim.ask_for(builder)
    victim.await_quiet()
    assert victim.rows("SELECT results FROM buildrequests ORDER BY id") == [
        (EXCEPTION,),
        (EXCEPTION,),
        (EXCEPTION,),
        (SUCCESS,),
    ]
    assert victim.rows("SELECT 1 FROM builds WHERE complete_at IS NULL") == []
    assert victim.rows("SELECT 1 FROM steps WHERE complete_at IS NULL") == []
    assert sum("a mistake" in error for error in errors(victim)) == 3
    query = "SELECT l.name FROM logs l JOIN steps s ON s.id = l.stepid"
    query += " WHERE s.name = 'worker_preparation'"
    assert sorted(victim.rows(query)) == [("err.html",), ("err.text",)]
