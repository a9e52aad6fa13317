"""Kills between a change and its builds: each scheduler acts once on each change."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from support.commands import LITEBOT
from support.commands import begin
from support.commands import is_running
from support.commands import wait_for
from support.killed import Victim
from support.master import SUCCESS
from support.master import on_both

# The revisions of the sourcestamps of a scheduler's buildsets, in the order of the buildsets.
REVISIONS = """
SELECT stamp.revision FROM buildsets s
JOIN buildset_properties p ON p.buildsetid = s.id AND p.property_name = 'scheduler'
JOIN buildset_sourcestamps bs ON bs.buildsetid = s.id
JOIN sourcestamps stamp ON stamp.id = bs.sourcestampid
WHERE p.property_value = :value ORDER BY s.id
"""

CHANGES = """
builder("b", shell("true"))
on_main = util.ChangeFilter(branch="main")
c["schedulers"] += [
    SingleBranch("first", change_filter=on_main, builderNames=["b"]),
    SingleBranch("also", change_filter=on_main, builderNames=["b"]),
    AnyBranch("stable", treeStableTimer=0.3, builderNames=["b"]),
    schedulers.SingleBranchScheduler(
        "other", change_filter=util.ChangeFilter(branch="other"), builderNames=["b"]
    ),
]
"""

DEPENDENT = """
builder("b", shell("true"))
first = schedulers.AnyBranchScheduler("first", treeStableTimer=None, builderNames=["b"])
second = schedulers.Dependent("second", upstream=first, builderNames=["b"])
third = schedulers.Dependent("third", upstream=second, builderNames=["b"])
c["schedulers"] += [first, second, third]
"""

PERIODIC = """
builder("b", shell("true"))
c["schedulers"].append(
    schedulers.Periodic("hourly", periodicBuildTimer=3600, builderNames=["b"])
)
"""

NIGHTLY_TRIGGERABLE = """
from twisted.internet import defer, reactor, task


class Soon(schedulers.NightlyTriggerable):
    # Its hour comes a second after it was triggered, when that build has ended; or at a start.
    def getNextBuildTime(self, lastActuated):
        return defer.succeed(self.now() if self._lastTrigger else None)

    def trigger(self, *args, **kwargs):
        reactor.callLater(1.0, self.scheduleNextBuild)
        return super().trigger(*args, **kwargs)

    @defer.inlineCallbacks
    def activate(self):
        yield super().activate()
        yield self.scheduleNextBuild()


builder("child", shell("true"))
builder("parent", steps.Trigger(schedulerNames=["nightly"], waitForFinish=False))
c["schedulers"].append(Soon("nightly", builderNames=["child"]))
"""

# Each value of N is another configuration of the same schedulers; one of them also changes its
# class.
RECONFIGURED = """
from twisted.internet import reactor, task


def soon(function, *args, **kwargs):
    return task.deferLater(reactor, 0.1, function, *args, **kwargs)


class Slow(SingleBranch):
    # It takes its time for a change, and until it listens again.
    def addBuildsetForChanges(self, **kwargs):
        return soon(super().addBuildsetForChanges, **kwargs)

    def startConsumingChanges(self, **kwargs):
        return soon(super().startConsumingChanges, **kwargs)


class SlowAlso(Slow):
    pass


builder("b", shell("true"))
c["builders"][0].workernames[:] = []
c["schedulers"] += [
    SingleBranch("same", branch="main", builderNames=["b"]),
    Slow("changed", branch="main", reason=str(N), builderNames=["b"]),
    (Slow, SlowAlso)[N % 2]("replaced", branch="main", builderNames=["b"]),
    AnyBranch("stable", treeStableTimer=0.1 + N / 100, builderNames=["b"]),
]
"""

DISABLED = """
builder("b", shell("true"))
c["schedulers"] += [
    SingleBranch("first", branch="main", reason=str(N), builderNames=["b"]),
    SingleBranch("also", branch="main", builderNames=["b"]),
    schedulers.Nightly(
        "hourly", month=1, dayOfMonth=1, reason=str(N), onlyIfChanged=True, builderNames=["b"]
    ),
]
"""

# A reconfig hangs in one part while the file `hang` exists.
HANGING = """
from buildbot.util.service import BuildbotService
from twisted.internet import defer, reactor, task


@defer.inlineCallbacks
def hang():
    while os.path.exists(os.path.join(basedir, "hang")):
        open(os.path.join(basedir, "hanging"), "w").close()
        yield task.deferLater(reactor, 0.05)


class Poller(changes.GitPoller):
    def reconfigService(self, *args, **kwargs):
        return hang().addCallback(lambda _: super(Poller, self).reconfigService(*args, **kwargs))


class Service(BuildbotService):
    def reconfigService(self, n):
        return hang()


builder(f"b{N}", shell("true"))
c["schedulers"].append(
    SingleBranch("first", branch="main", reason=str(N), builderNames=[f"b{N}"])
)
"""

HANGING_POLLER = """
project = os.path.join(basedir, "project")
c["change_source"] = Poller(project, branches=["main"], pollInterval=900 + N)
"""

HANGING_SERVICE = """
c["services"] = [Service(name="service", n=N)]
"""


def revisions(victim: Victim, scheduler: str) -> list[str]:
    found = victim.rows(REVISIONS, value=f'["{scheduler}", "Scheduler"]')
    return [row[0] for row in found]


def await_revision(victim: Victim, revision: str, *schedulers: str) -> None:
    """Wait until each of these schedulers has made a buildset of a revision."""
    wait_for(
        lambda: all(revision in revisions(victim, scheduler) for scheduler in schedulers),
        f"{', '.join(schedulers)} to build revision {revision}",
    )


def send(victim: Victim, **fields: str) -> None:
    """Send a change to a master that may die before it answers."""
    with suppress(OSError):
        victim.change(**fields)


@on_both
@pytest.mark.parametrize(
    "point",
    [
        "db.changes.addChanges:1",  # stored, but not delivered to any scheduler
        "db.schedulers.classifyChanges:1",  # one scheduler waits for its timer
        "db.buildsets.addBuildset:1",  # one scheduler has made its buildset, the next has not
        "db.buildsets.addBuildset:3",  # the timer has made its buildset
    ],
)
def test_each_scheduler_acts_once_on_a_change(victim: Victim, point: str) -> None:
    victim.write_config(CHANGES)
    victim.start_to_die(point)
    send(victim, branch="main", revision="1")
    victim.await_death()
    victim.start()
    await_revision(victim, "1", "first", "also", "stable")
    assert victim.change(branch="main", revision="2") == 200
    await_revision(victim, "2", "first", "also", "stable")
    victim.await_quiet()
    for scheduler in ("first", "also", "stable"):
        assert victim.covered(scheduler) == [1, 2], scheduler
    assert revisions(victim, "other") == []
    assert {row[0] for row in victim.rows("SELECT results FROM buildrequests")} == {SUCCESS}


@on_both
@pytest.mark.parametrize(
    "point",
    [
        "db.buildsets.addBuildset:1",  # upstream's; the Dependent scheduler does not know it yet
        "db.buildsets.addBuildset:2",  # its own; its state does not have that yet
    ],
)
def test_a_dependent_scheduler_acts_once(victim: Victim, point: str) -> None:
    victim.write_config(DEPENDENT)
    victim.start_to_die(point)
    send(victim, branch="main", revision="1")
    victim.await_death()
    victim.start()
    assert "dependent scheduler" in victim.repairs()
    assert victim.change(branch="main", revision="2") == 200
    await_revision(victim, "1", "third")
    await_revision(victim, "2", "third")
    victim.await_quiet()
    for scheduler in ("first", "second", "third"):
        assert revisions(victim, scheduler) == ["1", "2"], scheduler
    assert victim.rows("SELECT * FROM litebot_subscriptions") == []


@on_both
@pytest.mark.parametrize(
    "point",
    [
        "db.state.setState:1",  # its hour has come, but it has not made its buildset
        "db.buildsets.addBuildset:1",
    ],
)
def test_a_timed_scheduler_acts_once_at_its_hour(victim: Victim, point: str) -> None:
    victim.write_config(PERIODIC)
    victim.start_to_die(point)
    wait_for(lambda: not victim.pids or not is_running(victim.pid), "the master to die")
    victim.start()
    wait_for(lambda: revisions(victim, "hourly"), "the scheduler to act")
    victim.await_quiet()
    victim.stop()
    victim.start()
    assert victim.change(branch="main", revision="1") == 200
    victim.await_quiet()
    assert len(revisions(victim, "hourly")) == 1


@on_both
@pytest.mark.parametrize(
    "point",
    [
        "db.state.setState:3",  # its hour has come and is recorded, but it has made no buildset
        "db.buildsets.addBuildset:2",  # its own; the first one is the parent's
    ],
)
def test_a_triggered_scheduler_acts_once_at_its_hour(victim: Victim, point: str) -> None:
    victim.write_config(NIGHTLY_TRIGGERABLE)
    victim.start_to_die(point)
    victim.ask_for("parent")
    victim.await_death()
    victim.start()
    wait_for(lambda: "nightly" in victim.schedulers().values(), "the scheduler to act")
    victim.await_quiet()
    victim.stop()
    victim.start()
    victim.ask_for("child")
    victim.await_quiet()
    assert list(victim.schedulers().values()) == ["force-parent", "nightly", "force-child"]


BRANCHES = 80


def test_a_burst_on_many_branches_is_built_to_the_last_change(victim: Victim) -> None:
    victim.write_config(
        """
        c["caches"] = {"Changes": 1, "chdicts": 1}
        builder("b", shell("true"))
        c["builders"][0].workernames[:] = []
        c["schedulers"].append(
            schedulers.AnyBranchScheduler("stable", treeStableTimer=0.2, builderNames=["b"])
        )
        """
    )
    victim.start()
    sent = [str(n) for n in range(BRANCHES)]
    with ThreadPoolExecutor(4) as clients:
        codes = clients.map(lambda n: victim.change(branch=f"branch-{n}", revision=n), sent)
        assert set(codes) == {200}
    wait_for(lambda: len(revisions(victim, "stable")) >= BRANCHES, "all to be built")
    victim.kill()
    victim.start()
    assert victim.change(branch="branch-0", revision="last") == 200
    await_revision(victim, "last", "stable")
    assert sorted(revisions(victim, "stable")[:-1], key=int) == sent
    assert victim.rows("SELECT * FROM scheduler_changes") == []


@on_both
def test_a_change_that_waits_while_its_timer_fires_is_built(victim: Victim) -> None:
    victim.write_config(
        """
        from twisted.internet import reactor, task


        class Slow(AnyBranch):
            # A buildset that takes a second keeps changes of other branches waiting.
            def addBuildsetForChanges(self, **kwargs):
                add = super().addBuildsetForChanges
                return task.deferLater(reactor, 1.0, lambda: add(**kwargs))


        builder("b", shell("true"))
        c["schedulers"].append(Slow("stable", treeStableTimer=1.0, builderNames=["b"]))
        """
    )
    victim.start()
    assert victim.change(branch="a", revision="1") == 200
    # Nothing happens between the timers that could be waited for.
    time.sleep(0.6)
    assert victim.change(branch="b", revision="2") == 200
    time.sleep(0.7)  # the buildset of a is being made, and the timer of b has not fired
    assert victim.change(branch="b", revision="3") == 200
    await_revision(victim, "3", "stable")
    assert sorted(victim.covered("stable")) == [1, 2, 3]
    assert "AlreadyCalled" in victim.log
    victim.stop()


# While the scheduler deals with the first change, others wait, and one more comes during the stop.
STOPPED = """
from twisted.internet import defer, reactor, task

GO = os.path.join(basedir, "go")


class Slow(AnyBranch):
    @defer.inlineCallbacks
    def gotChange(self, change, important):
        while not os.path.exists(GO):
            yield task.deferLater(reactor, 0.05)
        yield super().gotChange(change, important)

    @defer.inlineCallbacks
    def deactivate(self):
        deactivated = super().deactivate()
        yield self.master.data.updates.addChange(files=["a"], branch="main", revision="4")
        open(GO, "w").close()
        yield deactivated


builder("b", shell("true"))
c["schedulers"].append(Slow("slow", treeStableTimer=TIMER, builderNames=["b"]))
"""


@on_both
@pytest.mark.parametrize("timer", [None, 0.3])
def test_what_waits_for_a_scheduler_at_a_stop_is_built(victim: Victim, timer: float | None) -> None:
    victim.write_config(f"TIMER = {timer}\n{STOPPED}")
    victim.start()
    for revision in ("1", "2", "3"):
        assert victim.change(branch="main", revision=revision) == 200
    victim.stop()
    assert (victim.basedir / "go").exists()
    victim.start()
    await_revision(victim, "4", "slow")
    assert sorted(victim.covered("slow")) == [1, 2, 3, 4]


RESUMED = """
from twisted.internet import reactor, task


class Slow(AnyBranch):
    def gotChange(self, *args):
        return task.deferLater(reactor, PAUSE, super().gotChange, *args)


builder("b", shell("true"))
c["schedulers"].append(Slow("stable", treeStableTimer=TIMER, builderNames=["b"]))
"""


@on_both
def test_one_whose_timer_fires_while_it_resumes_builds_once(victim: Victim) -> None:
    victim.write_config(f"TIMER, PAUSE = 60, 0\n{RESUMED}")
    victim.start()
    for revision, branch in (("1", "a"), ("2", "b"), ("3", "a")):
        assert victim.change(branch=branch, revision=revision) == 200
    waiting = "SELECT changeid FROM scheduler_changes"
    wait_for(lambda: len(victim.rows(waiting)) == 3, "the scheduler to wait for its timers")
    victim.kill()
    # The timer of branch a fires before change 3 is delivered.
    victim.write_config(f"TIMER, PAUSE = 0.6, 1\n{RESUMED}")
    victim.start()
    await_revision(victim, "2", "stable")
    assert victim.change(branch="b", revision="4") == 200
    await_revision(victim, "4", "stable")
    assert sorted(victim.covered("stable")) == [1, 2, 3, 4]
    assert victim.rows(waiting) == []


def test_a_buildset_of_one_branch_takes_no_changes_of_another_along(victim: Victim) -> None:
    victim.write_config(
        """
        builder("b", shell("true"))
        c["schedulers"].append(AnyBranch("stable", treeStableTimer=1.0, builderNames=["b"]))
        """
    )
    victim.start()
    assert victim.change(branch="a", revision="1") == 200
    assert victim.change(branch="b", revision="2") == 200
    time.sleep(0.5)  # so that the timer of b fires before that of a
    assert victim.change(branch="a", revision="3") == 200
    await_revision(victim, "3", "stable")
    assert victim.covered("stable") == [2, 1, 3]


def test_what_comes_while_a_scheduler_is_disabled_is_not_for_it(victim: Victim) -> None:
    victim.write_config(CHANGES)
    victim.start()
    admin = victim.login()
    ids = {s["name"]: s["schedulerid"] for s in victim.rest("schedulers")["schedulers"]}
    path = f"schedulers/{ids['first']}"
    assert admin.control(path, "enable", enabled=False).status == 200
    assert victim.change(branch="main", revision="1") == 200
    await_revision(victim, "1", "also")
    assert admin.control(path, "enable", enabled=True).status == 200
    assert victim.change(branch="main", revision="2") == 200
    await_revision(victim, "2", "first", "also")
    assert revisions(victim, "first") == ["2"]
    assert revisions(victim, "also") == ["1", "2"]


def test_a_disabled_scheduler_stays_so_over_a_reconfig(victim: Victim) -> None:
    victim.write_config("N = 1" + DISABLED)
    victim.start()
    admin = victim.login()
    ids = {s["name"]: s["schedulerid"] for s in victim.rest("schedulers")["schedulers"]}
    for scheduler in ("first", "hourly"):
        path = f"schedulers/{ids[scheduler]}"
        assert admin.control(path, "enable", enabled=False).status == 200
    assert victim.change(branch="main", revision="1") == 200
    await_revision(victim, "1", "also")
    victim.write_config("N = 2" + DISABLED)
    victim.reconfig()
    assert victim.change(branch="main", revision="2") == 200
    await_revision(victim, "2", "also")
    for scheduler in ("first", "hourly"):
        path = f"schedulers/{ids[scheduler]}"
        assert admin.control(path, "enable", enabled=True).status == 200
    assert victim.change(branch="main", revision="3") == 200
    await_revision(victim, "3", "first", "also")
    assert revisions(victim, "first") == ["3"]
    assert revisions(victim, "also") == ["1", "2", "3"]
    waiting = "SELECT changeid FROM scheduler_changes WHERE schedulerid = :hourly"
    wait_for(lambda: victim.rows(waiting, hourly=ids["hourly"]) == [(3,)], "change 3 to wait")
    assert "AssertionError" not in victim.log


@on_both
def test_each_scheduler_acts_once_on_what_comes_while_it_is_changed(victim: Victim) -> None:
    victim.write_config("N = 0" + RECONFIGURED)
    victim.start()
    sent = [str(n) for n in range(1, 61)]

    def send_all() -> set[int]:
        return {victim.change(branch="main", revision=revision) for revision in sent}

    with ThreadPoolExecutor(1) as client:
        codes = client.submit(send_all)
        n = 0
        while not codes.done() or n < 3:
            n += 1
            victim.write_config(f"N = {n}" + RECONFIGURED)
            victim.reconfig()
    assert codes.result() == {200}
    await_revision(victim, sent[-1], "same", "changed", "replaced", "stable")
    for scheduler in ("same", "changed", "replaced", "stable"):
        assert victim.covered(scheduler) == [int(revision) for revision in sent], scheduler


@pytest.fixture
def hanging(victim: Victim) -> Callable[[str], subprocess.Popen[str]]:
    """A function that starts a reconfig which hangs in this part of the configuration."""

    def start(part: str) -> subprocess.Popen[str]:
        victim.write_config("N = 1" + HANGING + part)
        victim.start()
        (victim.basedir / "hang").touch()
        victim.write_config("N = 2" + HANGING + part)
        reconfig = begin(LITEBOT, "reconfig", victim.basedir, text=True)
        wait_for((victim.basedir / "hanging").exists, "the reconfig to hang")
        return reconfig

    return start


def go_on(victim: Victim, reconfig: subprocess.Popen[str]) -> None:
    """Let a reconfig that hangs go on, and wait for its end."""
    (victim.basedir / "hang").unlink()
    assert reconfig.wait(30) == 0


BUILDERS = """
SELECT b.name FROM buildrequests r JOIN builders b ON b.id = r.builderid ORDER BY r.id
"""


def test_a_poller_that_hangs_in_a_reconfig_keeps_no_change_back(
    victim: Victim, hanging: Callable[[str], subprocess.Popen[str]]
) -> None:
    reconfig = hanging(HANGING_POLLER)
    assert victim.change(branch="main", revision="1") == 200
    await_revision(victim, "1", "first")
    assert reconfig.poll() is None
    go_on(victim, reconfig)
    assert victim.rows(BUILDERS) == [("b2",)]


def test_a_change_waits_for_the_new_builders(
    victim: Victim, hanging: Callable[[str], subprocess.Popen[str]]
) -> None:
    reconfig = hanging(HANGING_SERVICE)
    assert victim.change(branch="main", revision="1") == 200
    time.sleep(1)  # nothing must happen
    assert revisions(victim, "first") == []
    go_on(victim, reconfig)
    await_revision(victim, "1", "first")
    assert victim.rows(BUILDERS) == [("b2",)]


def test_a_change_waits_for_no_service_that_hangs(
    victim: Victim, hanging: Callable[[str], subprocess.Popen[str]]
) -> None:
    reconfig = hanging(HANGING_SERVICE)
    assert victim.change(branch="main", revision="1") == 200
    await_revision(victim, "1", "first")
    assert reconfig.poll() is None
    go_on(victim, reconfig)
    assert victim.change(branch="main", revision="2") == 200
    await_revision(victim, "2", "first")
    assert revisions(victim, "first") == ["1", "2"]
