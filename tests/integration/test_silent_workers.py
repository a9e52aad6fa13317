"""Workers that stand still, and builds that do not end by themselves when they are stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from support.commands import is_running
from support.commands import wait_for
from support.master import CANCELLED
from support.master import EXCEPTION
from support.master import RETRY
from support.master import SUCCESS
from support.master import Master
from support.proxy import Proxy
from support.remote import remote_worker
from support.timing import require_less

CONFIG = """
from twisted.internet import defer
from buildbot.process.buildstep import BuildStep
from buildbot.process.remotecommand import RemoteCommand

c["workers"] = [worker.Worker("remote", "workerpw"), worker.LocalWorker("local")]


def builder(name, *its_steps, workernames=("remote",), **kwargs):
    factory = util.BuildFactory(its_steps)
    c["builders"].append(
        util.BuilderConfig(name, workernames=list(workernames), factory=factory, **kwargs)
    )


def never(*args, **kwargs):
    return defer.Deferred()


late = util.renderer(never)


class Step(BuildStep):
    def run(self):
        return util.SUCCESS


class Never(BuildStep):
    run = never


class Stubborn(BuildStep):
    @defer.inlineCallbacks
    def run(self):
        while True:
            try:
                yield defer.Deferred()
            except Exception:
                pass


class NeverInterrupted(Never):
    interrupt = never


class Unknown(BuildStep):
    @defer.inlineCallbacks
    def run(self):
        yield self.runCommand(RemoteCommand("nonsense", {}))
        return util.SUCCESS


def first_remote(builder, workers, request):
    return next((w for w in workers if w.worker.name == "remote"), workers[0] if workers else None)


sleep = "echo $$ > %s/$BUILDER.pid; exec sleep 300" % basedir
slow = steps.ShellCommand(command=sleep, env={"BUILDER": util.Property("buildername")})
after = steps.ShellCommand(command="true", alwaysRun=True)
builder("sleeps", slow)
builder("cleans", slow, after)
builder(
    "either",
    steps.ShellCommand(command=util.Transform(
        lambda name: sleep if name == "remote" else "true", util.Property("workername")
    ), env={"BUILDER": "either"}),
    workernames=["remote", "local"],
    nextWorker=first_remote,
)
builder("quick", steps.ShellCommand(command="true"))
builder("unknown", Unknown())
STUCK = {
    "run": Never(),
    "stubborn": Stubborn(),
    "interrupt": NeverInterrupted(),
    "do": Step(doStepIf=never),
    "render": steps.ShellCommand(command=late),
    "summary": type("Odd", (Step,), {"getResultSummary": never})(),
    "property": steps.SetProperty("p", late),
    "locks": Step(locks=late),
}
for name, step in STUCK.items():
    builder(f"stuck-{name}", step, workernames=["local"])
lock = util.MasterLock("one")
locks = [lock.access("exclusive")]
builder("holds", Never(locks=locks), workernames=["local"])
builder("waits", steps.FileUpload("x", "x", locks=locks), workernames=["local"])
builder("follows", Step(locks=locks), workernames=["local"])
names = [b.name for b in c["builders"] if b.name != "hello"]
c["schedulers"].append(schedulers.ForceScheduler("all", builderNames=names))
"""
STUCK = ["run", "stubborn", "interrupt", "do", "render", "summary", "property", "locks"]


class Remote:
    """A master with a worker in a process of its own that can be stopped and continued."""

    def __init__(self, master: Master, folder: Path) -> None:
        self.master = master
        self.folder = folder
        self.stack = ExitStack()

    def start(self, silence_s: int, *, msgpack: bool = False, proxied: bool = False) -> None:
        self.master.set("workers", "silence", silence_s)
        self.master.configure(CONFIG)
        port = self.master.ports[1]
        if proxied:
            self.network = Proxy(port)
            self.stack.callback(self.network.close)
        where, options = f"127.0.0.1:{self.network.port if proxied else port}", []
        if msgpack:
            self.master.configure(
                f"c['protocols'] = {{'msgpack_experimental_v7': {{'port': {port}}}}}"
            )
            options = ["--protocol=msgpack_experimental_v7"]
        self.master.start()
        self.process = self.stack.enter_context(
            remote_worker(self.folder / "remote", where, *options)
        )
        self.await_connected()

    def is_connected(self) -> bool:
        (worker,) = self.master.rest("workers", name="remote")["workers"]
        return bool(worker["connected_to"])

    def await_connected(self) -> None:
        wait_for(self.is_connected, "the worker to connect", 30)

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def begin(self, builder: str) -> int:
        """Start a build and wait until its command runs; return the command's pid."""
        path = self.master.basedir / f"{builder}.pid"
        self.master.force(builder, "--no-wait")
        wait_for(lambda: path.exists() and path.read_text().strip(), "the command to run", 30)
        return int(path.read_text())

    def stop(self, builder: str) -> float:
        """Click on stop and wait for the end; return how many seconds that took."""
        (build,) = self.master.builds(builder)
        began_at = time.monotonic()
        reply = self.master.login().control(f"builds/{build['buildid']}", "stop", reason="a click")
        assert reply.status == 200
        self.master.finished_build(builder)
        return time.monotonic() - began_at


@pytest.fixture
def remote(master: Master, tmp_path: Path) -> Iterator[Remote]:
    remote = Remote(master, tmp_path)
    with remote.stack:
        yield remote


@pytest.mark.parametrize("builder", ["sleeps", "cleans"])
def test_a_stop_does_not_wait_for_a_worker_that_stands_still(remote: Remote, builder: str) -> None:
    remote.start(60)
    pid = remote.begin(builder)
    remote.freeze()
    require_less(remote.stop(builder), 15)
    build = remote.master.finished_build(builder)
    assert build["results"] == CANCELLED
    assert "the worker remote did not answer" in build["state_string"]
    assert remote.master.rows("SELECT 1 FROM steps WHERE complete_at IS NULL") == []
    remote.master.force("quick", "--no-wait")
    remote.thaw()
    wait_for(lambda: not is_running(pid), "the command to end", 20)
    assert remote.master.finished_build("quick")["results"] == SUCCESS


@pytest.mark.parametrize("msgpack", [False, True], ids=["pb", "msgpack"])
def test_a_silent_worker_is_taken_for_lost(remote: Remote, msgpack: bool) -> None:
    remote.start(3, msgpack=msgpack)
    pid = remote.begin("either")
    remote.freeze()
    build = remote.master.finished_build("either")
    assert build["results"] == RETRY
    assert "the worker remote did not answer for 3 s" in build["state_string"]
    assert remote.master.status()["lost_workers"]["remote"]["words"] == "did not answer for 3 s"
    assert "did not answer for 3 s" in remote.master.run("status").stdout
    assert remote.master.finished_build("either", 2)["results"] == SUCCESS
    remote.thaw()
    wait_for(lambda: not is_running(pid), "the command to end", 30)
    remote.await_connected()
    wait_for(lambda: remote.master.status()["lost_workers"] == {}, "the worker to be back")
    remote.master.force("quick", "--no-wait")
    assert remote.master.finished_build("quick")["results"] == SUCCESS


@pytest.mark.parametrize("msgpack", [False, True], ids=["pb", "msgpack"])
def test_a_dead_network_is_noticed(remote: Remote, msgpack: bool) -> None:
    """Nothing arrives any more, in either direction, and no end says so."""
    remote.start(3, msgpack=msgpack, proxied=True)
    remote.begin("either")
    remote.network.freeze()
    build = remote.master.finished_build("either")
    assert build["results"] == RETRY
    assert "the worker remote did not answer for 3 s" in build["state_string"]
    assert remote.master.finished_build("either", 2)["results"] == SUCCESS


def test_a_stop_does_not_wait_for_a_dead_network(remote: Remote) -> None:
    remote.start(60, proxied=True)
    remote.begin("sleeps")
    remote.network.freeze()
    require_less(remote.stop("sleeps"), 15)
    assert remote.master.finished_build("sleeps")["results"] == CANCELLED


def test_a_worker_that_prints_nothing_and_a_master_that_stood_still(remote: Remote) -> None:
    remote.start(2)
    remote.begin("sleeps")
    os.kill(remote.master.pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(remote.master.pid, signal.SIGCONT)
    time.sleep(3)
    assert not remote.master.builds("sleeps")[0]["complete"]
    assert "taken for lost" not in remote.master.log


def test_a_worker_that_fails_itself_waits(remote: Remote) -> None:
    remote.start(60)
    remote.master.force("unknown", "--no-wait")
    assert remote.master.finished_build("unknown")["results"] == EXCEPTION
    assert "remote has been put in quarantine" in remote.master.log


def test_a_step_that_waits_for_nothing_is_stopped(remote: Remote) -> None:
    remote.start(60)
    visitor = remote.master.login()
    for name in STUCK:
        remote.master.force(f"stuck-{name}", "--no-wait")
    wait_for(
        lambda: len(remote.master.rows("SELECT 1 FROM steps WHERE number = 1")) == len(STUCK),
        "the steps to begin",
        30,
    )
    began_at = time.monotonic()
    for name in STUCK:
        (build,) = remote.master.builds(f"stuck-{name}")
        visitor.control(f"builds/{build['buildid']}", "stop", reason="a click")
    for name in STUCK:
        build = remote.master.finished_build(f"stuck-{name}")
        assert (name, build["results"]) == (name, CANCELLED)
    require_less(time.monotonic() - began_at, 25)
    assert remote.master.rows("SELECT 1 FROM steps WHERE complete_at IS NULL") == []
    stopped = remote.master.rows("SELECT count(*) FROM logs WHERE name = 'stopped'")
    assert stopped[0][0] >= len(STUCK) - 2


def test_a_step_that_is_stopped_while_it_waits_for_a_lock_holds_up_nobody(remote: Remote) -> None:
    remote.start(60)
    visitor = remote.master.login()
    for name in ("holds", "waits"):
        remote.master.force(name, "--no-wait")
        wait_for(partial(remote.master.builds, name), f"{name} to begin", 30)
    wait_for(lambda: "waiting for lock" in remote.master.log, "one to wait", 30)
    for name in ("waits", "holds"):
        (build,) = remote.master.builds(name)
        visitor.control(f"builds/{build['buildid']}", "stop", reason="a click")
        assert remote.master.finished_build(name)["results"] == CANCELLED
    remote.master.force("follows", "--no-wait")
    assert remote.master.finished_build("follows")["results"] == SUCCESS
