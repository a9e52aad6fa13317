"""The measured process: python -m bench.measured VARIANT MEASURE BASEDIR SECONDS BUILDERS.

It starts a master on a prepared basedir, takes one measure, stops the master, and prints the
figures as JSON.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.internet import defer
from twisted.internet import reactor as installed_reactor
from twisted.internet import task
from twisted.python import log
from twisted.python.logfile import LogFile

from bench.configuration import WORKERS
from bench.configuration import configuration
from bench.counters import age_s
from bench.counters import resident_mb
from bench.measures import MEASURES
from bench.measures import Run
from bench.orphans import end_with_parent
from bench.variants import make_master
from bench.variants import start

ATTACH_TIMEOUT_S = 120.0

reactor: Any = installed_reactor
errors: list[str] = []


def note_error(event: dict[str, Any]) -> None:
    """Observe the log and collect its errors: a run in which something failed measures nothing."""
    if event["isError"]:
        errors.append(str(log.textFromEventDict(event)))


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def measure(
    variant: str, name: str, basedir: Path, seconds: float, builders: int
) -> dict[str, Any]:
    """Start a master, take one measure on it and return the figures."""
    chosen = MEASURES[name]
    web_port = free_port()
    worker_port = None if chosen.local_workers else free_port()
    config = configuration(
        chosen.steps(), web_port=web_port, worker_port=worker_port, builders=builders
    )
    master = make_master(variant, basedir, config)
    await start(variant, master)
    run = Run(master, web_port, seconds, builders, running_after_s=age_s(), rss_mb=resident_mb())
    try:
        if not chosen.with_workers:
            return await chosen.take(run)
        with workers(worker_port, basedir):
            await wait_for_workers(master)
            figures = await chosen.take(run)
            # From here on errors are ignored: Buildbot's distributor may fail on workers that
            # disconnect while it uses them.
            log.removeObserver(note_error)
            # Builds may still run, if requests were waiting from the start, and need their workers
            # to end.
            await master.botmaster.cleanShutdown(stopReactor=False)
            return figures
    finally:
        await master.stopService()


@contextmanager
def workers(port: int | None, basedir: Path) -> Iterator[None]:
    """Run the workers' process within the context; without a port they are LocalWorkers."""
    if port is None:
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.workers", str(port), str(basedir / "workers")]
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def wait_for_workers(master: Any) -> None:
    """Wait until every worker is connected for every builder.  Raises RuntimeError at a timeout."""
    builders = master.botmaster.builders.values()
    for _ in range(int(ATTACH_TIMEOUT_S / 0.05)):
        if all(len(builder.workers) == len(WORKERS) for builder in builders):
            return
        await task.deferLater(reactor, 0.05)
    raise RuntimeError(f"the workers did not connect within {ATTACH_TIMEOUT_S:g} s")


def main() -> None:
    """Take one measure; exit with status 1 if it, or anything in the master, fails."""
    end_with_parent()
    variant, name, basedir, seconds, builders = sys.argv[1:]
    log.startLogging(LogFile("twistd.log", basedir, maxRotatedFiles=1), setStdout=False)
    log.addObserver(note_error)

    def begin() -> None:
        d = defer.ensureDeferred(
            measure(variant, name, Path(basedir), float(seconds), int(builders))
        )
        d.addCallback(lambda figures: print(json.dumps(figures), flush=True))
        d.addErrback(lambda failure: errors.append(failure.getTraceback()))
        d.addBoth(lambda _: reactor.running and reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    if errors:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
