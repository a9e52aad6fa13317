"""Measure a master with many projects: python -m bench.projects.  `make bench-projects` runs it.

The projects are small repositories on the same disk.  Prints the figures, and writes JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from bench.configuration import builder_name
from bench.history import load_builds
from bench.one_run import temporary_folder
from bench.report import machine
from bench.report import write_json
from litebot.basedir import Basedir
from litebot.cli.client import post
from litebot.settings import load
from litebot.settings import set_value

LITEBOT = str(Path(sys.executable).with_name("litebot"))
CONFIG = """
from buildbot.plugins import worker

c = BuildmasterConfig = {}
c["workers"] = [worker.LocalWorker(f"w{number}", max_builds=4) for number in range(2)]
"""
COUNTS = (50, 500)
BUILDS = 1_000_000
IDLE_S = 120.0
SAVES = 5
PUSHES = 10
VIEWS = 20
POLL_S = 60
WAIT_S = 900.0
BEGUN = "SELECT 1 FROM steps WHERE id > ? AND name = 'checkout'"


class Measured:
    """A master in a folder, with projects that are repositories beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = Basedir(folder / "ci")
        self.pid = 0

    def create(self) -> None:
        """Make the basedir, and set free ports."""
        _run(LITEBOT, "create-master", "--quiet", self.files.path)
        (self.files.path / "master.cfg").write_text(CONFIG)
        for key in ("web.port", "workers.port"):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                set_value(self.files.settings_file, key, free.getsockname()[1])

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the master, and stop it at the end."""
        said = _run(LITEBOT, "start", self.files.path)
        found = re.search(r"pid (\d+)", said)
        assert found
        self.pid = int(found[1])
        try:
            yield
        finally:
            _run(LITEBOT, "stop", self.files.path)

    def ask(self, verb: str, **asked: Any) -> dict[str, Any]:
        """Do what a command of `litebot project` does, without the time its process takes."""
        return post(self.files, "/projects", {"do": verb, **asked})

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Return the rows of a query."""
        db = apsw.Connection(str(self.files.path / "state.sqlite"), apsw.SQLITE_OPEN_READONLY)
        db.set_busy_timeout(1000)
        try:
            return list(db.execute(query, values))
        finally:
            db.close()

    def cpu_s(self) -> float:
        """Return the processor time of the master, and of the programs that it ran."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Return the memory that the master alone has in use."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return sum(map(int, re.findall(r"^Private_\w+: +(\d+)", text, re.MULTILINE))) / 1024

    def view_ms(self, path: str) -> float:
        """Return how long a page takes."""
        url = f"{load(self.files.settings_file).web.public_url}{path}"
        begun = time.perf_counter()
        with urllib.request.urlopen(url) as answer:
            answer.read()
        return (time.perf_counter() - begun) * 1000


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def _repository(folder: Path) -> None:
    folder.mkdir(parents=True)
    _run("git", "init", "--quiet", "--initial-branch", "main", cwd=folder)
    (folder / ".litebot.toml").write_text('steps = ["true"]\n')
    _commit(folder)


def _commit(folder: Path) -> None:
    _run("git", "add", "--all", cwd=folder)
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    _run("git", *identity, "commit", "--quiet", "--allow-empty", "-m", "A change", cwd=folder)


def _wait(condition: Callable[[], Any], what: str, every_s: float = 0.2) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(what)
        time.sleep(every_s)


def measure(count: int, builds: int) -> dict[str, float]:
    """Return the figures of a master with `count` projects and `builds` builds."""
    with temporary_folder() as place:
        folder = Path(place)
        one = folder / "repositories" / builder_name(0)
        _repository(one)
        for number in range(1, count):
            shutil.copytree(one, one.with_name(builder_name(number)))
        master = Measured(folder)
        master.create()
        if builds:
            load_builds(master.files.path / "state.sqlite", builds)
        with master.running():
            time.sleep(5)
            before_mb = master.memory_mb()
            projects = {
                builder_name(number): {
                    "url": str(one.with_name(builder_name(number))),
                    "poll": f"{POLL_S}s",
                }
                for number in range(count)
            }
            master.ask("save all", projects=projects)
            unbuilt = "SELECT 1 FROM buildrequests WHERE complete = 0 LIMIT 1"
            _wait(lambda: not master.rows(unbuilt), "the first builds")
        with master.running():
            time.sleep(POLL_S)  # each project is looked at once
            return {
                "memory_mb_per_project": (master.memory_mb() - before_mb) / count,
                **_save(master, projects[builder_name(0)]),
                **_idle(master),
                **_push(master, one),
                "overview_ms": statistics.median(master.view_ms("litebot/") for _ in range(VIEWS)),
            }


def _save(master: Measured, values: dict[str, Any]) -> dict[str, float]:
    took = []
    for number in range(SAVES):
        begun = time.perf_counter()
        master.ask("save", name=builder_name(0), values={**values, "timeout": f"{number + 2}h"})
        took.append(time.perf_counter() - begun)
    return {"save_s": statistics.median(took), "save_most_s": max(took)}


def _idle(master: Measured) -> dict[str, float]:
    begun, cpu_s = time.perf_counter(), master.cpu_s()
    time.sleep(IDLE_S)
    return {"idle_cpu_percent": (master.cpu_s() - cpu_s) / (time.perf_counter() - begun) * 100}


def _push(master: Measured, repository: Path) -> dict[str, float]:
    """Measure from the hook's request to the first step, and to the first of the file's steps."""
    hook = master.ask("hook", name=builder_name(0))
    url = f"{load(master.files.settings_file).web.public_url}{hook['path']}?secret={hook['secret']}"
    mark = repository.parent / "mark"
    text = f'steps = [{{ name = "mark", run = "date +%s.%N >{mark}" }}]\n'
    (repository / ".litebot.toml").write_text(text)
    own, first = [], []
    for _ in range(PUSHES):
        _commit(repository)
        mark.unlink(missing_ok=True)
        last = master.rows("SELECT max(id) FROM steps")[0][0]
        begun = time.time()
        urllib.request.urlopen(url, data=b"").close()
        _wait(functools.partial(master.rows, BEGUN, last), "the first step", 0.002)
        first.append(time.time() - begun)
        _wait(mark.exists, "the file's step", 0.002)
        _wait(lambda: mark.read_text().strip(), "the file's step", 0.002)
        own.append(float(mark.read_text()) - begun)
        _wait(lambda: not master.rows("SELECT 1 FROM builds WHERE results IS NULL"), "its end")
    return {
        "push_to_first_step_ms": statistics.median(first) * 1000,
        "push_to_own_step_ms": statistics.median(own) * 1000,
    }


def main() -> None:
    """Measure, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--builds", type=int, default=BUILDS)
    parser.add_argument("--output", type=Path, default=Path("bench/results/projects.json"))
    options = parser.parse_args()
    results = {}
    for count in options.counts:
        results[count] = measure(count, options.builds if count == min(options.counts) else 0)
        print(f"{count} projects")
        for figure, value in results[count].items():
            print(f"  {figure:24} {value:10.3f}", flush=True)
    write_json(options.output, {"machine": machine(), "projects": json.loads(json.dumps(results))})


if __name__ == "__main__":
    main()
