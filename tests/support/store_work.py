"""What a master has its store do, in short: `python store_work.py BASEDIR DURABILITY SEED BUILDS`.

Changes and builds with steps and logs are written as the parts of a master write them; the queue
of turns, syncs and checkpoints are the real ones, and the clock is a test's.  Where the process is
recorded (disk_trace.c) it marks what it asks to be on disk and what it is told of that.
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
LIVES = 2  # between them the log is removed


def mark(text: str) -> None:
    """Put it into the record, if there is one."""
    recorder = ctypes.CDLL(None)
    if hasattr(recorder, "disk_mark"):
        recorder.disk_mark(text.encode())


class Work:
    """Builds, one after the other, with answers that are asked for now and then."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.told: list[str] = []  # the revisions that are promised to be there
        self._rng = rng
        self._asked = 0

    def ask(self, *revisions: str) -> None:
        """Wait for the disk as an answer does, and go on meanwhile."""
        self._asked += 1
        number, promised = self._asked, self.world.db.on_disk()
        mark(f"asked {number}")

        def tell(_: None) -> None:
            mark(f"told {number}")
            self.told += revisions

        promised.addCallbacks(tell, lambda _failure: None)

    def do(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """One update of the data API, after which a turn may end."""
        result = self.world.call(getattr(self.world.updates, name), *args, **kwargs)
        if self._rng.random() < 0.4:
            self.world.reactor.advance(0.011)  # what was held is committed
        if self._rng.random() < 0.15:
            self.ask()
        return result

    def build(self, revision: str) -> None:
        """From a change to the end of its build."""
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
            # From a line to more than a page cache may hold back.
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
    """As a program that syncs nothing leaves it when it is killed."""
    other = apsw.Connection(str(state_file))
    other.execute("PRAGMA synchronous = OFF; UPDATE masters SET last_active = last_active + 1")
    return other


def main(basedir: str, durability: str, seed: str, builds: str) -> None:
    """Work on the state file that lies in the basedir."""
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
