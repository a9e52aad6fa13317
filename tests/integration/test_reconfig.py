"""`litebot reconfig` says what became of it, and what can't be done leaves the master as it was."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import succeeded
from support.commands import wait_for
from support.master import CANCELLED
from support.master import RETRY
from support.master import SUCCESS
from support.master import Master
from support.ports import free_ports


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of the loopback address that this process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def shared(module_master: Master) -> Master:
    """A master that runs, for tests that leave it as it was."""
    module_master.start()
    return module_master


@pytest.fixture
def running(shared: Master) -> Iterator[Master]:
    """The same, which goes back to its files of before in the end."""
    paths = [shared.basedir / name for name in ("litebot.toml", "master.cfg")]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    yield shared
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    shared.reconfig()


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def keeps_its_configuration(master: Master, *said: str) -> None:
    """A reconfig is refused so, and the master builds and answers as before."""
    master.define_builder("unseen", "true")
    done = master.run("reconfig")
    assert done.returncode == 1
    for text in ("the master keeps its old configuration: ", *said):
        assert text in done.stderr
    assert [builder["name"] for builder in master.rest("builders")["builders"]] == ["hello"]


def test_a_port_that_is_taken_leaves_the_old_page(running: Master, taken: int) -> None:
    toml = running.basedir / "litebot.toml"
    page = running.ports[0]
    replace_in(toml, f"port = {page}", f"port = {taken}")
    refusal = f"port {taken} on 127.0.0.1 is taken by pid {os.getpid()} ("
    done = running.run("reconfig")
    assert done.returncode == 1
    assert f"the master keeps its old configuration: {refusal}" in done.stderr
    assert f"Try: set another port under [web] in {toml}" in done.stderr
    assert running.status()["url"] == f"http://127.0.0.1:{page}/"
    replace_in(toml, f"port = {taken}", f"port = {page}")
    assert running.rest("builders")["builders"]


def test_a_new_port_is_what_the_status_and_the_page_have(running: Master) -> None:
    (port,) = free_ports(1)
    replace_in(running.basedir / "litebot.toml", f"port = {running.ports[0]}", f"port = {port}")
    started_at = running.status()["started_at"]
    running.reconfig()
    status = running.status()
    assert (status["url"], status["started_at"]) == (f"http://127.0.0.1:{port}/", started_at)
    assert running.rest("builders")["builders"]


def test_settings_are_applied_where_a_module_has_the_configuration(master: Master) -> None:
    path = master.basedir / "master.cfg"
    text = f"basedir = {str(master.basedir)!r}\n" + path.read_text(encoding="utf-8")
    (master.basedir / "mine.py").write_text(text, encoding="utf-8")
    path.write_text("from mine import *\n", encoding="utf-8")
    master.start()
    (port,) = free_ports(1)
    replace_in(master.basedir / "litebot.toml", f"port = {master.ports[0]}", f"port = {port}")
    master.reconfig()
    assert master.status()["url"] == f"http://127.0.0.1:{port}/"
    assert master.rest("builders")["builders"]


def test_the_same_port_on_another_address(running: Master) -> None:
    toml = running.basedir / "litebot.toml"
    replace_in(toml, 'listen = "127.0.0.1"', 'listen = "0.0.0.0"')
    running.reconfig()
    assert running.rest("builders")["builders"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sqlite:///state.sqlite", "sqlite:///other.sqlite"),
        ('durability = "acknowledged"', 'durability = "process"'),
    ],
)
def test_another_database_needs_a_restart(running: Master, old: str, new: str) -> None:
    toml = running.basedir / "litebot.toml"
    replace_in(toml, old, new)
    keeps_its_configuration(
        running,
        f"[database] in {toml} can't be changed while the master runs",
        f"Try: litebot restart {running.basedir}",
    )


def test_engine_arguments_need_a_restart(running: Master) -> None:
    running.configure("c['db'] = {'engine_kwargs': {'echo': True}}")
    keeps_its_configuration(running, "c['db'] can't be changed while the master runs")


def test_what_fails_half_way_is_said(master: Master, taken: int) -> None:
    master.start()
    master.configure(
        f"""
        c["change_source"].append(
            changes.PBChangeSource(
                port="tcp:{taken}:interface=127.0.0.1", user="hook", passwd="changepw"
            )
        )
        """
    )
    done = master.run("reconfig")
    assert done.returncode == 1
    assert "the master uses only a part of its new configuration: " in done.stderr
    assert f"127.0.0.1:{taken}: " in done.stderr
    assert f"Try: correct it, then: litebot restart {master.basedir}" in done.stderr
    master.stop()


def test_a_faulty_configuration(running: Master) -> None:
    running.configure("nonsense")
    keeps_its_configuration(
        running,
        "name 'nonsense' is not defined",
        f"Try: litebot check-config {running.basedir}",
    )


def test_a_reconfig_waits_for_one_that_runs(master: Master) -> None:
    master.start()
    beginning, go = master.basedir / "beginning", master.basedir / "go"
    master.configure(
        f"""
        import pathlib, time
        if not pathlib.Path({str(beginning)!r}).exists():
            pathlib.Path({str(beginning)!r}).touch()
            while not pathlib.Path({str(go)!r}).exists():
                time.sleep(0.02)
        """
    )
    os.kill(master.pid, signal.SIGHUP)
    wait_for(beginning.exists, "the first reconfig to begin")
    impatient = master.run("reconfig", "--progress_timeout=0.2")
    assert impatient.returncode == 1
    assert f"the reconfig of {master.basedir} has not ended after 0.2 s" in impatient.stderr
    go.touch()
    master.define_builder("late", "true")
    master.reconfig()
    succeeded(master.force("late"))


# What a reconfig removes while it builds.

LATENT = """
from twisted.internet import defer
from buildbot.worker import AbstractLatentWorker
from buildbot_worker.null import LocalWorker

class Latent(AbstractLatentWorker):
    # Its instance is in this process.
    instance = None

    def checkConfig(self, name):
        super().checkConfig(name, None, build_wait_timeout=0)

    def reconfigService(self, name):
        return super().reconfigService(name, None, build_wait_timeout=0)

    def start_instance(self, build):
        self.instance = LocalWorker(self.name, os.path.join(basedir, "workers", self.name))
        os.makedirs(self.instance.bot.basedir, exist_ok=True)
        self.instance.setServiceParent(self)
        return defer.succeed(True)

    def stop_instance(self, fast=False):
        instance, self.instance = self.instance, None
        return defer.maybeDeferred(instance.disownServiceParent)
"""

KINDS = {"local": ("", "worker.LocalWorker"), "latent": (LATENT, "Latent")}


@pytest.mark.parametrize("kind", KINDS)
def test_the_build_of_a_worker_that_is_removed_is_built_by_another(
    master: Master, tmp_path: Path, kind: str
) -> None:
    began = tmp_path / "began"
    defined, removed = KINDS[kind]
    added = f"c['workers'].append({removed}('leaves'))"
    master.configure(f"{defined}\n{added}\n")
    # Only the first one has something to do.
    master.define_builder("moves", f"mkdir {began} && sleep 60 || true")
    master.configure("c['builders'][-1].workernames = ['leaves']\n")
    master.start()
    master.force("moves", "--no-wait")
    wait_for(began.exists, "the build to begin")
    config = master.basedir / "master.cfg"
    replace_in(config, added, "")
    replace_in(config, "['leaves']", "['local']")
    master.reconfig()
    assert master.finished_build("moves", 2)["results"] == SUCCESS
    assert master.finished_build("moves", 1)["results"] == RETRY
    master.stop()


def rename(master: Master, old: str, new: str) -> None:
    """Rename a builder in master.cfg, and have the master go over to that."""
    for quote in "'", '"':
        replace_in(master.basedir / "master.cfg", quote + old + quote, quote + new + quote)
    master.reconfig()


def test_the_build_of_a_builder_that_is_renamed_ends(master: Master, tmp_path: Path) -> None:
    began = tmp_path / "began"
    master.define_builder("old", f"touch {began}; sleep 60")
    master.configure(
        """
        c["schedulers"].append(schedulers.Triggerable(name="child", builderNames=["old"]))
        child = steps.Trigger(schedulerNames=["child"], waitForFinish=True)
        parent = util.BuildFactory([child])
        c["builders"].append(
            util.BuilderConfig(name="parent", workernames=["local"], factory=parent)
        )
        c["schedulers"].append(schedulers.ForceScheduler(name="p", builderNames=["parent"]))
        """
    )
    master.start()
    master.force("parent", "--no-wait")
    wait_for(began.exists, "the build to begin")
    waiting = int(succeeded(master.force("old", "--no-wait")).stdout)
    rename(master, "old", "new")
    assert [build["results"] for build in master.builds("old")] == [CANCELLED]
    (build,) = master.builds("old")
    assert build["state_string"].startswith("cancelled (builder was removed)")
    request = f"buildrequests/{build['buildrequestid']}"
    assert master.rest(request)["buildrequests"][0]["results"] == CANCELLED
    assert master.finished_build("parent")["results"] == CANCELLED
    # What has not begun waits for the builder to come back.
    assert master.status()["without_builder"] == {"old": 1}
    assert "1 for 'old', which is not in the configuration" in master.run("status").stdout
    began.unlink()
    rename(master, "new", "old")
    wait_for(began.exists, "the request that waited to be built")
    assert master.builds("old")[-1]["buildrequestid"] == waiting
    assert not master.status()["without_builder"]


def test_a_removed_builder_does_not_wait_long_for_a_build_that_hangs(master: Master) -> None:
    master.configure(
        """
        from twisted.internet import defer
        from buildbot.process.buildstep import BuildStep

        class Hangs(BuildStep):
            def run(self):
                open(os.path.join(basedir, "began"), "w").close()
                return defer.Deferred()

            def interrupt(self, reason):
                return defer.Deferred()

        hanging = util.BuilderConfig(
            name="hangs", workernames=["local"], factory=util.BuildFactory([Hangs()])
        )
        c["builders"].append(hanging)
        force = schedulers.ForceScheduler(name="force-hangs", builderNames=["hangs"])
        c["schedulers"].append(force)
        """
    )
    master.start()
    master.force("hangs", "--no-wait")
    wait_for((master.basedir / "began").exists, "the build to begin")
    master.configure(
        """
        c["builders"].remove(hanging)
        c["schedulers"].remove(force)
        """
    )
    master.reconfig()
    (build,) = master.rest("builds")["builds"]
    assert (build["complete"], build["results"]) == (True, CANCELLED)
    master.stop()


@pytest.mark.parametrize("change", [("'moves'", "'other'"), ("['comes']", "['local']")])
def test_a_builder_comes_back_to_its_latent_worker(master: Master, change: tuple[str, str]) -> None:
    master.configure(f"{LATENT}\nc['workers'].append(Latent('comes'))\n")
    master.define_builder("moves", "true")
    master.configure("c['builders'][-1].workernames = ['comes']\n")
    master.start()
    for old, new in change, change[::-1]:
        replace_in(master.basedir / "master.cfg", old, new)
        master.reconfig()
    succeeded(master.force("moves"))
    master.stop()


# What a user has made classes for.  A reconfig runs the file anew, so that each of them is another
# class of the same name.

OWN = """
from buildbot.process.build import Build
from buildbot.process.factory import BuildFactory
from buildbot.reporters.base import ReporterBase
from buildbot.reporters.generators.build import BuildStatusGenerator

class OwnBuild(Build):
    def setupBuild(self):
        self.setProperty("made_by", "first", "test")
        return super().setupBuild()

class OwnFactory(BuildFactory):
    def newBuild(self, requests, builder):
        build = OwnBuild(requests, builder)
        build.setStepFactories(self.steps)
        return build

class Teller(ReporterBase):
    def checkConfig(self, path):
        super().checkConfig(generators=[])

    async def reconfigService(self, path):
        self.path = path
        await super().reconfigService(generators=[BuildStatusGenerator(mode="all")])

    def sendMessage(self, reports):
        with open(os.path.join(basedir, self.path), "a") as file:
            for report in reports:
                file.write(str(report["builds"][0]["buildid"]))

c.setdefault("services", []).append(Teller("one", name="teller"))
c["builders"][-2].factory.buildClass = OwnBuild
c["builders"][-1].factory = OwnFactory(c["builders"][-1].factory.steps)
"""


def test_classes_of_a_user_are_kept_changed_and_removed(master: Master) -> None:
    config = master.basedir / "master.cfg"
    master.define_builder("class", "true")
    master.define_builder("factory", "true")
    before = config.read_text(encoding="utf-8")
    master.configure(OWN)
    master.start()

    def made_by() -> list[str]:
        found = []
        for name in ("class", "factory"):
            succeeded(master.force(name))
            path = f"builds/{master.builds(name)[-1]['buildid']}/properties"
            properties = master.rest(path)["properties"][0]
            found.append(properties["made_by"][0] if "made_by" in properties else "")
        return found

    def reported(name: str, text: str) -> bool:
        path = master.basedir / name
        wait_for(lambda: path.exists() and path.read_text() == text, f"{name} to get {text}")
        wait_for(lambda: not master.rows("SELECT 1 FROM litebot_outbox"), "that to be noted")
        return True

    assert made_by() == ["first", "first"]
    assert reported("one", "12")
    master.reconfig()
    assert made_by() == ["first", "first"]
    assert reported("one", "1234")
    replace_in(config, '"first"', '"second"')
    replace_in(config, '"one"', '"two"')
    master.reconfig()
    assert made_by() == ["second", "second"]
    assert reported("two", "56")
    assert "new services, removing" not in master.log.partition("adding 1 new services")[2]
    config.write_text(before, encoding="utf-8")
    master.reconfig()
    assert made_by() == ["", ""]
    assert reported("one", "1234")
    assert reported("two", "56")
    master.stop()
