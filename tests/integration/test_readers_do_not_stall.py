"""Long reads over a large history leave the reactor free, which serves builds meanwhile."""

from __future__ import annotations

import re
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from litebot.basedir import Basedir
from litebot.cli.client import UnixConnection
from support.master import Master
from support.timing import require_less

MEASURE_S = 3.0
BUILDS, LOG_CHUNKS = 200_000, 20

# No index helps with either, so each reads all builds.
LONG_READS = (
    "/api/v2/builds?order=-complete_at&limit=1",
    "/api/v2/builds?order=-started_at&limit=1&results__ne=2",
)
LOG = ("/api/v2/logs/1/raw",)

WITHOUT_READ_POOL = """
from litebot.master.db.sqlite import turn_queue
turn_queue.SqliteReadPool = lambda path, reactor: None
"""

LOG_READS = """
from litebot.master.db.sqlite import turn_queue
class ReadPool(turn_queue.SqliteReadPool):
    def run(self, callable, *args, **kwargs):
        print("in the read pool:", callable.__qualname__)
        return super().run(callable, *args, **kwargs)
    def run_sql(self, callable, *args):
        print("in the read pool:", callable.__qualname__)
        return super().run_sql(callable, *args)
turn_queue.SqliteReadPool = ReadPool
"""


def load_history(path: Path) -> None:
    """Fill a new state file with BUILDS builds, the first of which has a log of a few MB."""
    db = apsw.Connection(str(path))
    db.pragma("synchronous", "OFF")
    db.execute(
        """
        BEGIN;
        INSERT INTO builders (id, name, name_hash) VALUES (17, 'old', 'x');
        INSERT INTO masters VALUES (17, 'old', 'x', 0, 0);
        INSERT INTO workers (id, name, info) VALUES (17, 'old', '{}');
        INSERT INTO buildsets (id, submitted_at, complete) VALUES (17, 0, 1);
        INSERT INTO buildrequests (id, buildsetid, builderid, complete, submitted_at)
            VALUES (17, 17, 17, 1, 0);
        """
    )
    db.execute(
        """
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?)
        INSERT INTO builds
            SELECT i, i, 17, 17, 17, 17, i, i + i * 7919 % 1000, 0, 'build successful', i % 3 FROM n
        """,
        (BUILDS,),
    )
    lines = [f"oline {n} of a log that is rather long, as they often are" for n in range(1000)]
    db.execute(
        """
        INSERT INTO steps VALUES (1, 0, 'shell', 1, 1, 1, 1, 'finished', 0, '[]', 0);
        INSERT INTO logs VALUES (1, 'stdio', 'stdio', 1, 1, 1000 * ?, 's')
        """,
        (LOG_CHUNKS,),
    )
    db.executemany(
        "INSERT INTO logchunks VALUES (1, ?, ?, ?, 0)",
        [(n * 1000, n * 1000 + 999, "\n".join(lines).encode()) for n in range(LOG_CHUNKS)],
    )
    db.execute("COMMIT")
    db.close()


@dataclass
class Latency:
    """How long the control socket took to answer, which asks nothing of the database."""

    times_s: list[float]
    reads: int

    @property
    def p95_s(self) -> float:
        return statistics.quantiles(self.times_s, n=20)[-1]

    def __str__(self) -> str:
        median, worst = statistics.median(self.times_s), max(self.times_s)
        return (
            f"{len(self.times_s)} answers beside {self.reads} long reads: median"
            f" {median * 1000:.1f}, p95 {self.p95_s * 1000:.1f}, longest {worst * 1000:.1f} ms"
        )


def measure(master: Master, paths: tuple[str, ...], visitors: int) -> Latency:
    """While so many visitors read `paths` over and over, each one after another."""
    stop_at = time.monotonic() + MEASURE_S
    latency = Latency([], 0)
    failed: list[int] = []

    def visit() -> None:
        while time.monotonic() < stop_at:
            for path in paths:
                status = master.visitor().request("GET", path).status
                failed.extend([status] if status != 200 else [])
                latency.reads += 1

    threads = [threading.Thread(target=visit) for _ in range(visitors)]
    for thread in threads:
        thread.start()
    control = UnixConnection(Basedir(master.basedir), timeout_s=None)
    while time.monotonic() < stop_at:
        began_at = time.monotonic()
        control.request("GET", "/nothing")
        assert control.getresponse().read()
        latency.times_s.append(time.monotonic() - began_at)
        time.sleep(0.002)
    control.close()
    for thread in threads:
        thread.join()
    assert failed == []
    return latency


@pytest.fixture
def with_history(master: Master) -> Master:
    load_history(master.state_file)
    return master


def test_long_reads_do_not_stall_the_reactor(with_history: Master) -> None:
    master = with_history
    master.start()
    assert master.rest("builds", order="-complete_at", limit=1)["builds"][0]["complete_at"] > BUILDS
    beside = measure(master, LONG_READS, visitors=3)
    print("in reader threads:", beside)
    log = measure(master, LOG, visitors=1)
    print("in reader threads, of a log:", log)
    master.stop()

    master.configure(WITHOUT_READ_POOL)
    master.start()
    instead = measure(master, LONG_READS, visitors=3)
    print("on the reactor:", instead)

    # Measured on two busy cores: 20 to 30, 30 to 50 and 470 to 740 ms.
    require_less(beside.p95_s, 0.25)
    require_less(log.p95_s, 0.25)
    assert instead.p95_s > 2 * beside.p95_s


def test_who_follows_a_build_reads_in_threads_too(master: Master) -> None:
    master.configure(LOG_READS)
    master.start()
    assert "in the read pool:" not in master.log
    assert master.force("hello").returncode == 0
    read = set(re.findall(r"in the read pool: (\S+)", master.log))
    assert {"BuildersConnectorComponent.getBuilders.<locals>.thd", "_thd_some_chunks"} <= read
