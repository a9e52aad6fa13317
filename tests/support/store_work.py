"""A program that writes what a master writes: `store_work.py BASEDIR DURABILITY SEED BUILDS`.

It writes changes, and builds with steps and logs, as the parts of a master do.  The turn queue,
syncs and checkpoints are real, and the clock is one that the program advances.  If the process is
recorded (disk_trace.c), it marks in the record when it begins to wait for the disk ("asked"), and
when that wait ends ("acknowledged").
"""

from __future__ import annotations

import ctypes
import random
import sys
from pathlib import Path
from typing import Any

import apsw
from buildbot.process.properties import Properties
from buildbot.process.results import SUCCESS

from litebot.master.db.sqlite import checkpointer
from support.worlds import World
from support.worlds import litebots

STAMP = {"repository": "r", "project": "", "codebase": "", "branch": "b", "revision": None}
LIVES = 2  # in how many runs of the store; the log is removed between them


def mark(text: str) -> None:
    """Put a mark into the record, if the process is recorded."""
    recorder = ctypes.CDLL(None)
    if hasattr(recorder, "disk_mark"):
        recorder.disk_mark(text.encode())


class Work:
    """Makes builds, one after the other, and sometimes waits for the disk, as an answer does."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.acknowledged: list[str] = []  # the revisions that were acknowledged
        self._rng = rng
        self._asked = 0

    def ask(self, *revisions: str) -> None:
        """Begin to wait for the disk, as an answer to a user does; returns at once."""
        self._asked += 1
        number, promised = self._asked, self.world.db.on_disk()
        mark(f"asked {number}")

        def tell(_: None) -> None:
            mark(f"acknowledged {number}")
            self.acknowledged += revisions

        promised.addCallbacks(tell, lambda _failure: None)

    def do(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call an update method of the data API, after which a turn may end."""
        result = self.world.call(getattr(self.world.updates, name), *args, **kwargs)
        if self._rng.random() < 0.4:
            self.world.reactor.advance(0.011)  # a group commit may become due
        if self._rng.random() < 0.15:
            self.ask()
        return result

    def build(self, revision: str) -> None:
        """Add a change, and make a build of it to its end."""
        self.do("addChange", author="Ada", comments="c" * 200, revision=revision, branch="b")
        self.ask(revision)
        _, brids = self.do(
            "addBuildset",
            waited_for=False,
            scheduler="s",
            sourcestamps=[STAMP],
            reason="because",
            properties={"a": (1, "Scheduler")},
            builderids=[1],
        )
        self.do("claimBuildRequests", [brids[1]])
        buildid, _ = self.do("addBuild", 1, brids[1], 1)
        self.do("setBuildProperties", buildid, Properties(a=1, b=[1, 2]))
        stepid, _, _ = self.do("addStep", buildid, "compile")
        self.do("startStep", stepid, locks_acquired=True)
        logid = self.do("addLog", stepid, "stdio", "s")
        for _ in range(self._rng.randrange(1, 5)):
            # From a short line to more than the page cache holds.
            self.do("appendLog", logid, f"o{self._rng.randbytes(self._size()).hex()}\n")
            self.world.reactor.advance(0.3)
        self.do("finishLog", logid)
        self.do("compressLog", logid)
        self.do("finishStep", stepid, SUCCESS, False)
        self.do("finishBuild", buildid, SUCCESS)
        self.do("completeBuildRequests", [brids[1]], SUCCESS)

    def _size(self) -> int:
        return int(2 ** self._rng.uniform(4, 15))


def leave_a_log(state_file: Path) -> apsw.Connection:
    """Leave a write-ahead log, as a program that syncs nothing does when it is killed."""
    other = apsw.Connection(str(state_file))
    other.execute("PRAGMA synchronous = OFF; UPDATE masters SET last_active = last_active + 1")
    return other


def main(basedir: str, durability: str, seed: str, builds: str) -> None:
    """Make builds in the state file of the basedir."""
    checkpointer.START_PAGES = 15
    path, rng = Path(basedir), random.Random(int(seed))
    other = leave_a_log(path / "state.sqlite")
    for life in range(LIVES):
        world = litebots(path, path / "state.sqlite", durability=durability)
        other.close()
        work = Work(world, rng)
        for number in range(int(builds)):
            work.build(f"{life}-{number}")
        work.ask()
        world.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
