"""Trigger steps learn of the end of their children, however soon that comes."""

from __future__ import annotations

import pytest

from support.commands import succeeded
from support.master import Master

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
