"""The BuildmasterConfig of every variant: its builders, workers and schedulers."""

from __future__ import annotations

from typing import Any

BUILDS_AT_A_TIME = 4
STEPS = 3
PROJECT = "bench"
PASSWORD = "bench"
WORKERS = tuple(f"w{number}" for number in range(BUILDS_AT_A_TIME))


def builder_name(number: int) -> str:
    """Return the name of a builder: b0, b1, ..."""
    return f"b{number}"


def writing() -> list[Any]:
    """Return steps that write a few lines each, in the master."""
    from bench.steps import Writes

    return [Writes(name=f"s{number}") for number in range(STEPS)]


def commands() -> list[Any]:
    """Return steps that run a command on the worker."""
    from buildbot.plugins import steps

    return [steps.ShellCommand(command=["true"], name=f"s{number}") for number in range(STEPS)]


def appends() -> list[Any]:
    """Return steps that measure how fast lines can be appended to a log."""
    from bench.steps import Appends

    return [Appends(lines=100), Appends(lines=1)]


def configuration(
    steps: list[Any], *, web_port: int, worker_port: int | None, builders: int = 1
) -> dict[str, Any]:
    """Return a BuildmasterConfig without a database.

    It has `builders` builders of `steps`, which share BUILDS_AT_A_TIME workers.  Every change of
    PROJECT starts a build of b0.  Workers connect to `worker_port`; if that is None, they are
    LocalWorkers in the master's process.
    """
    from buildbot.plugins import schedulers
    from buildbot.plugins import util
    from buildbot.plugins import worker

    def make_worker(name: str) -> Any:
        return worker.Worker(name, PASSWORD) if worker_port else worker.LocalWorker(name)

    def make_builder(name: str) -> Any:
        return util.BuilderConfig(
            name=name,
            workernames=list(WORKERS),
            factory=util.BuildFactory(steps),
            collapseRequests=False,
        )

    names = [builder_name(number) for number in range(builders)]
    pb = {"pb": {"port": f"tcp:{worker_port}:interface=127.0.0.1"}}
    return {
        "workers": [make_worker(name) for name in WORKERS],
        "builders": [make_builder(name) for name in names],
        "schedulers": [
            schedulers.AnyBranchScheduler(
                name="changes",
                builderNames=[builder_name(0)],
                change_filter=util.ChangeFilter(project=PROJECT),
            ),
            # Buildbot refuses builders without a scheduler; nobody triggers this one.
            schedulers.Triggerable(name="nobody", builderNames=names),
        ],
        "protocols": pb if worker_port else {"null": {}},
        "www": {
            "port": f"tcp:{web_port}:interface=127.0.0.1",
            "change_hook_dialects": {"base": True},
        },
        "buildbotURL": f"http://127.0.0.1:{web_port}/",
        "buildbotNetUsageData": None,
    }
