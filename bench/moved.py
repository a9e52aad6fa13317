"""Measure moves of a database: python -m bench.moved.  `make bench-move` runs it.

Moves the history of many builds from a state file to an empty database and back.  The Postgres
server is started for the run, with the settings that initdb makes.  Prints medians, and writes
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import zlib
from pathlib import Path

import apsw

from bench import postgres
from bench.configuration import STEPS
from bench.history import load_builds
from bench.one_run import temporary_folder
from bench.report import Row
from bench.report import Samples
from bench.report import console
from bench.report import progress
from bench.report import table
from bench.report import write_json
from bench.variants import LITEBOT
from bench.variants import STATE_FILE
from bench.variants import prepare
from litebot.master.admin.move.compare import COMPARING
from litebot.master.admin.move.copying import COPYING

# Makes a move as `litebot move-database` does, and prints how long its parts took and how much
# memory it needed.  It does not use ru_maxrss, which starts with the size of the process that
# forked this one.
MOVE_PROGRAM = """
import json, re, sys, time
from pathlib import Path
from litebot.basedir import Basedir
from litebot.master.admin.move import move
parts = {}
def progress(what, done, total):
    parts.setdefault(what, [time.monotonic(), done, 0.0, 0])[2:] = time.monotonic(), done
copied = move.move(Basedir(Path(sys.argv[1])), sys.argv[2], progress).copied
with open("/proc/self/status") as status:
    peak_kib = int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
print(json.dumps({"rows": copied.rows, "parts": parts, "peak_kib": peak_kib}))
"""
TO_POSTGRES, BACK = "to Postgres", "back"
MOVED_ROWS = (
    Row("rows_per_s", "rows/s of the whole move"),
    Row("copied_per_s", "rows/s copied"),
    Row("compared_per_s", "rows/s compared"),
    Row("mb_per_s", "MB/s of the state file"),
    Row("seconds", "seconds, with the start of the program"),
    Row("cpu_seconds", "CPU time, without the server's, s"),
    Row("peak_mb", "peak memory, MB"),
)

# load_builds makes small builds.  Builds of Buildbot 4.3 also have more properties (13 in all), a
# step without a log, and a long log if they run a test suite.  The chunks of that log have 54 KiB
# before they are compressed.
CHUNK_LINES = 1_000  # the most that Buildbot stores in one chunk
ZLIB = 1  # Buildbot's number for the compression that it calls gz
ADDED = (
    """INSERT INTO build_properties (buildid, name, value, source)
       SELECT id, p.name, p.value, p.source FROM builds, (
           SELECT 'builderid' AS name, '1' AS value, 'Builder' AS source
           UNION ALL SELECT 'repository', '"https://git.example.org/bench"', 'Build'
           UNION ALL SELECT 'codebase', '""', 'Build'
           UNION ALL SELECT 'project', '"bench"', 'Build'
           UNION ALL SELECT 'owners', '["Committer <committer@example.org>"]', 'Build'
           UNION ALL SELECT 'basedir', '"/srv/ci/workers/w0"', 'Worker'
           UNION ALL SELECT 'builddir', '"/srv/ci/workers/w0/b0"', 'Worker') AS p""",
    """INSERT INTO steps (number, name, buildid, started_at, locks_acquired_at, complete_at,
           state_string, results, urls_json, hidden)
       SELECT :steps, 'worker_preparation', id, started_at, started_at, started_at + 1,
           'worker ready', 0, '[]', 0 FROM builds""",
    """INSERT INTO logs (id, name, slug, stepid, complete, num_lines, type)
       SELECT 1000000000 + id, 'tests', 'tests', id * :steps, 1, 2 * :lines, 's' FROM builds""",
    """INSERT INTO logchunks (logid, first_line, last_line, content, compressed)
       SELECT 1000000000 + id, part * :lines, (part + 1) * :lines - 1, :text, :zlib
       FROM builds, (SELECT 0 AS part UNION ALL SELECT 1)""",
)


def load(path: Path, builds: int) -> None:
    """Write `builds` builds that are as large as real ones into a new state file."""
    load_builds(path, builds)
    db = apsw.Connection(str(path))
    db.pragma("synchronous", "OFF")
    values = {"steps": STEPS, "lines": CHUNK_LINES, "text": _chunk(), "zlib": ZLIB}
    with db:
        for statement in ADDED:
            db.execute(statement, values)
    db.close()  # which moves the WAL into the file


def _chunk() -> bytes:
    """Return a compressed chunk of output whose lines differ, as equal ones compress too well."""
    lines = (
        f"otest_{n * 7919 % 9973:04}_{n * 104729 % 65521:x} (tests.part{n % 13}.Test) ... ok"
        f" in {n * 15485863 % 99991 / 1e4:.4f} s"
        for n in range(CHUNK_LINES)
    )
    return zlib.compress("\n".join(lines).encode())


def move(basedir: Path, url: str, size_bytes: int) -> dict[str, float]:
    """Make one move and return its figures.  Raises CalledProcessError if it fails."""
    command = [sys.executable, "-c", MOVE_PROGRAM, str(basedir), url]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(done.stdout)
    return {
        "rows": report["rows"],
        "rows_per_s": report["rows"] / seconds,
        "copied_per_s": _rate(*report["parts"][COPYING]),
        "compared_per_s": _rate(*report["parts"][COMPARING]),
        "mb_per_s": size_bytes / 1e6 / seconds,
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": report["peak_kib"] * 1024 / 1e6,
    }


def _rate(began: float, first: int, ended: float, last: int) -> float:
    return (last - first) / (ended - began)


def there_and_back(programs: Path, builds: int, rounds: int) -> Samples:
    """Move a history to a Postgres server and back, `rounds` times, and return the samples."""
    samples = Samples()
    with temporary_folder() as name:
        basedir = Path(name) / "m"
        state_file = basedir / STATE_FILE
        prepare(LITEBOT, basedir)
        load(state_file, builds)
        size_bytes = state_file.stat().st_size
        progress.print(f"loaded {builds:,} builds: {size_bytes / 1e6:,.0f} MB")
        for number in range(1, rounds + 1):
            # The server listens only on a socket in its folder, so that no port can collide.
            parent = os.environ.get("BENCH_DIR")
            with postgres.started(programs, "-c listen_addresses=''", parent) as server:
                progress.print(f"round {number} of {rounds}: {TO_POSTGRES}")
                # The database `postgres`, which initdb makes, is empty.
                url = f"postgresql://{postgres.USER}@/postgres?host={server}"
                samples.add(TO_POSTGRES, move(basedir, url, size_bytes))
                _delete_old(basedir)
                progress.print(f"round {number} of {rounds}: {BACK}")
                samples.add(BACK, move(basedir, f"sqlite:///{STATE_FILE}", size_bytes))
    return samples


def _delete_old(basedir: Path) -> None:
    for path in basedir.glob(f"{STATE_FILE}.moved-*"):
        path.unlink()


def main() -> None:
    """Take the measures that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--builds", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("bench/results/move.json"))
    options = parser.parse_args()
    programs = postgres.programs()
    if programs is None:
        sys.exit("no Postgres server is installed: apt install postgresql")
    samples = there_and_back(programs, options.builds, options.rounds)
    against = {name: name for name in (TO_POSTGRES, BACK)}
    title = f"{options.builds:,} builds, {samples.median(TO_POSTGRES, 'rows'):,.0f} rows: medians"
    console.print(table(title, samples, MOVED_ROWS, against))
    results = {
        "builds": options.builds,
        "rounds": options.rounds,
        "figures": samples.as_json(against),
    }
    write_json(options.json, results)


if __name__ == "__main__":
    main()
