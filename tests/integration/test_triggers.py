"""Trigger steps learn of the end of their children, however soon that comes."""

from __future__ import annotations

import pytest

from support.commands import succeeded
from support.commands import wait_for
from support.master import CANCELLED
from support.master import SUCCESS
from support.master import Master
from support.master import on_both

# Adding a buildset is answered when it is on disk.  On a slow one its builds may be over by then.
SLOW_DISK = """
from litebot.master.database import Database
from twisted.internet import reactor
from twisted.internet import task

def on_disk(self):
    return task.deferLater(reactor, 1.5, self.pool.on_disk)

Database.on_disk = on_disk
"""
CONFIG = """
c["builders"].append(
    util.BuilderConfig(
        name="parent",
        workernames=["local"],
        factory=util.BuildFactory(
            [steps.Trigger(schedulerNames=["triggered"], waitForFinish=True)]
        ),
    )
)
c["schedulers"] += [
    schedulers.ForceScheduler(name="force-parent", builderNames=["parent"]),
    schedulers.Triggerable(name="triggered", builderNames=["child"]),
]
"""


@pytest.mark.parametrize("disk", ["", SLOW_DISK], ids=["usual", "slow"])
def test_a_child_may_end_before_its_parent_waits_for_it(master: Master, disk: str) -> None:
    master.define_builder("child", "true")
    master.configure(CONFIG)
    master.configure(disk)
    master.start()
    for number in (1, 2):
        succeeded(master.force("parent"))
        assert master.finished_build("child", number)["results"] == 0
    succeeded(master.reconfig())
    succeeded(master.force("parent"))


WAITING = """
class Other(schedulers.Triggerable):
    pass


c["builders"].append(
    util.BuilderConfig(
        name="child",
        workernames=["local"],
        factory=util.BuildFactory(
            [steps.ShellCommand(command="while [ ! -e %s/go ]; do sleep 0.1; done" % basedir)]
        ),
    )
)
"""
REPLACED = """
c["schedulers"][-1] = Other(name="triggered", builderNames=["child"])
"""
RENAMED = """
c["schedulers"][-1] = schedulers.Triggerable(name="other", builderNames=["child"])
c["builders"] = [b for b in c["builders"] if b.name != "parent"] + [
    util.BuilderConfig(
        name="parent",
        workernames=["local"],
        factory=util.BuildFactory([steps.Trigger(schedulerNames=["other"], waitForFinish=True)]),
    )
]
"""
NOBODY = """
c["workers"].append(worker.Worker("absent", "absentpw"))
c["builders"][-2].workernames = ["absent"]
"""
REMOVED = """
c["schedulers"][-1] = schedulers.Triggerable(name="other", builderNames=["hello"])
c["builders"] = [b for b in c["builders"] if b.name != "child"]
"""


@on_both
@pytest.mark.parametrize("change", [REPLACED, RENAMED], ids=["replaced", "renamed"])
def test_a_step_waits_on_when_its_triggerable_is_replaced(master: Master, change: str) -> None:
    master.configure(WAITING + CONFIG)
    master.start()
    master.force("parent", "--no-wait")
    wait_for(lambda: master.builds("child"), "the child")
    master.configure(change)
    succeeded(master.reconfig())
    assert not master.builds("parent")[0]["complete"]
    (master.basedir / "go").touch()
    assert master.finished_build("child")["results"] == SUCCESS
    assert master.finished_build("parent")["results"] == SUCCESS


@on_both
def test_a_step_ends_when_the_builder_that_it_waits_for_is_removed(master: Master) -> None:
    master.configure(WAITING + CONFIG + NOBODY)
    master.start()
    master.force("parent", "--no-wait")
    waiting = "SELECT 1 FROM buildrequests WHERE waited_for = 1 AND complete = 0"
    wait_for(lambda: master.rows(waiting), "the child's request")
    master.configure(REMOVED)
    succeeded(master.reconfig())
    assert master.finished_build("parent")["results"] == CANCELLED
    assert master.rows(waiting) == []
