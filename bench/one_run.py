"""One measured run in a process of its own: python one_run.py VARIANT BUILDS [--commands].

Prints a line of JSON: builds_per_s, cpu_ms_per_build, written_kb_per_build, rss_mb.  The workload:
`AT_A_TIME` builds at a time of one builder; each has 3 steps in the master that write 20 log lines
each, or with --commands 3 x ShellCommand("true") on LocalWorkers.  As many builds run before the
clock starts as are needed to warm up caches and compiled statements.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet import defer
from twisted.internet import reactor as installed_reactor
from twisted.python import log

AT_A_TIME = 4
WARM_UP = 10
STEPS = 3
LINES = 20

reactor: Any = installed_reactor


def configuration(commands: bool) -> dict[str, Any]:
    """A BuildmasterConfig."""
    from buildbot.plugins import schedulers
    from buildbot.plugins import steps
    from buildbot.plugins import util
    from buildbot.plugins import worker
    from buildbot.process.buildstep import BuildStep
    from buildbot.process.results import SUCCESS

    class Writes(BuildStep):  # type: ignore[misc]
        """A step in the master: the cost of a build without a worker's."""

        async def run(self) -> int:
            out = await self.addLog("stdio")
            for number in range(LINES):
                out.addStdout(f"line {number} of what this step has to say\n")
            return SUCCESS

    if commands:
        made = [steps.ShellCommand(command=["true"], name=f"s{n}") for n in range(STEPS)]
    else:
        made = [Writes(name=f"s{n}") for n in range(STEPS)]
    workers = [f"w{n}" for n in range(AT_A_TIME)]
    return {
        "workers": [worker.LocalWorker(name) for name in workers],
        "builders": [
            util.BuilderConfig(
                name="b",
                workernames=workers,
                factory=util.BuildFactory(made),
                collapseRequests=False,
            )
        ],
        "schedulers": [schedulers.Triggerable(name="t", builderNames=["b"])],
        "protocols": {"null": {}},
        "buildbotNetUsageData": None,
        "www": {},
    }


def make_master(variant: str, basedir: Path, config: dict[str, Any]) -> Any:
    """A master of Buildbot or of litebot that has not been started."""
    from buildbot.config.master import MasterConfig
    from buildbot.interfaces import IConfigLoader
    from zope.interface import implementer

    @implementer(IConfigLoader)
    class Loader:
        def loadConfig(self) -> Any:
            return MasterConfig.loadFromDict(config, "bench")

    if variant == "litebot":
        from litebot.master.create import create
        from litebot.master.service import BuildMaster

        create(basedir)
        config["db"] = {"db_url": "sqlite:///state.sqlite"}
        return BuildMaster(str(basedir), config_loader=Loader())
    from buildbot.master import BuildMaster as StockMaster
    from sqlalchemy.pool import SingletonThreadPool

    kwargs: dict[str, Any] = {}
    url = "sqlite:///state.sqlite"
    if variant == "stock-one-line":
        kwargs = {"poolclass": SingletonThreadPool}
    elif variant == "stock-memory":
        url = "sqlite://"
    elif variant == "stock-postgres":
        url = os.environ["BENCH_POSTGRES_URL"]
    elif variant != "stock":
        raise SystemExit(f"{variant!r} is no variant")
    config["db"] = {"db_url": url, "engine_kwargs": kwargs}
    basedir.mkdir()
    return StockMaster(str(basedir), config_loader=Loader())


async def prepare(master: Any, config: dict[str, Any]) -> None:
    """Make the tables where there are none, as the create-master commands do."""
    from buildbot.config.master import DBConfig

    master.config.db = DBConfig(config["db"]["db_url"], config["db"]["engine_kwargs"])
    await master.db.setup(check_version=False)
    await master.db.model.upgrade()
    master.db.setup = lambda: defer.succeed(None)


async def run_builds(master: Any, count: int) -> None:
    """Keep AT_A_TIME builds running and as many waiting until `count` are done."""
    builderid = await master.data.updates.findBuilderId("b")
    done = defer.Deferred()  # type: ignore[var-annotated]
    left = {"submit": count, "finish": count}
    stamp = {"codebase": "", "repository": "", "project": "", "branch": None, "revision": None}

    def submit() -> None:
        if left["submit"]:
            left["submit"] -= 1
            d = master.data.updates.addBuildset(
                waited_for=False, builderids=[builderid], sourcestamps=[stamp], reason="bench"
            )
            d.addErrback(log.err)

    def finished(_key: Any, _build: Any) -> None:
        left["finish"] -= 1
        if not left["finish"]:
            done.callback(None)
        submit()

    consumer = await master.mq.startConsuming(finished, ("builds", None, "finished"))
    for _ in range(2 * AT_A_TIME):
        submit()
    await done
    consumer.stopConsuming()


def written_bytes() -> int:
    """What this process has handed to the block layer so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


async def measure(variant: str, builds: int, commands: bool) -> dict[str, Any]:
    """Start a master, warm it up, measure, stop it."""
    config = configuration(commands)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        master = make_master(variant, Path(folder) / "m", config)
        if variant != "litebot":
            await prepare(master, config)
        await master.startService()
        rss_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await run_builds(master, WARM_UP)
        began, cpu, written = time.monotonic(), time.process_time(), written_bytes()
        await run_builds(master, builds)
        took_s = time.monotonic() - began
        cpu_s = time.process_time() - cpu
        result = {
            "variant": variant,
            "builds_per_s": builds / took_s,
            "cpu_ms_per_build": cpu_s / builds * 1e3,
            "written_kb_per_build": (written_bytes() - written) / builds / 1e3,
            "rss_after_start_mb": rss_kb / 1e3,
        }
        await master.stopService()
    return result


def main() -> None:
    variant, builds = sys.argv[1], int(sys.argv[2])

    def report(result: Any) -> None:
        print(json.dumps(result))

    def start() -> None:
        d = defer.ensureDeferred(measure(variant, builds, "--commands" in sys.argv))
        d.addCallbacks(report, lambda f: print(f.getTraceback(), file=sys.stderr))
        d.addBoth(lambda _: reactor.stop())

    if "--log" in sys.argv:
        log.startLogging(sys.stderr)
    reactor.callWhenRunning(start)
    reactor.run()


if __name__ == "__main__":
    main()
