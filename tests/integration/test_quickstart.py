"""What somebody does in the first hour: create, start, build, commit, reconfigure, stop."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

from support.commands import LITEBOT
from support.commands import is_running
from support.commands import litebot
from support.commands import succeeded
from support.commands import wait_for
from support.master import FAILURE
from support.master import SUCCESS
from support.master import Master
from support.master import on_both
from support.timing import require_less
from support.waiting import wait_for_waiting_step
from support.waiting import waiting_step

pytestmark = pytest.mark.usefixtures("real_commands")


# Of what the machine takes, 1 to 2 s; a busy one may take longer, a slow start must not pass.
START_S = 15


REQUESTS = 100


@pytest.fixture(scope="module")
def running(module_master: Master) -> Iterator[Master]:
    """A master with a builder that succeeds, one that fails and one that waits for `go`."""
    module_master.define_builder("good", "true", "echo said on stdout; echo said on stderr >&2")
    module_master.define_builder("bad", "echo before; exit 3")
    module_master.define_builder("slow", waiting_step(module_master))
    module_master.define_builder("painted", "true")
    module_master.configure(
        """
        c["schedulers"][-1] = schedulers.ForceScheduler(
            name="force-painted",
            builderNames=["painted"],
            properties=[util.StringParameter("colour"), util.StringParameter("sum")],
        )
        """
    )
    module_master.start()
    yield module_master
    module_master.stop()


# a new master


def test_create_start_build_commit_stop(tmp_path: Path, watch: Callable[[Master], Master]) -> None:
    master = watch(Master(tmp_path / "ci"))
    created = master.create()
    assert "login     admin" in created.stdout
    assert re.search(r"password  \w{4}(-\w{4}){4} ", created.stdout)
    assert created.stdout.endswith(f"Next: litebot start {master.basedir}\n")

    began_at = time.monotonic()
    started = master.start()
    print(f"started in {time.monotonic() - began_at:.2f} s")
    require_less(time.monotonic() - began_at, START_S)
    assert f"http://127.0.0.1:{master.ports[0]}/" in started.stdout
    mapped = Path(f"/proc/{master.pid}/maps").read_text(encoding="utf-8")
    assert "/apsw/" in mapped
    assert "/_sqlite3." not in mapped  # one SQLite takes memory enough

    built = succeeded(master.force("hello"))
    assert "Ran 3 tests" in built.stdout
    assert "SUCCESS: build successful" in built.stderr

    revision = master.commit("hello/farewell.py", '"""Says goodbye."""\n')
    build = master.finished_build("hello", 2)
    assert build["results"] == SUCCESS
    (change,) = master.rest(f"builds/{build['buildid']}/changes")["changes"]
    assert change["revision"] == revision
    assert change["comments"] == "Change hello/farewell.py"
    properties = master.rest(f"builds/{build['buildid']}/properties")["properties"][0]
    assert properties["got_revision"][0] == revision

    assert succeeded(master.run("stop")).stdout == f"stopped the master with pid {master.pid}\n"
    assert not (master.basedir / "twistd.pid").exists()
    wait_for(lambda: not is_running(master.pid), "the end of the process")


def test_a_commit_that_breaks_the_tests_gives_a_red_build(master: Master) -> None:
    config = master.basedir / "master.cfg"
    text = config.read_text(encoding="utf-8")
    assert "pollInterval=5" in text
    config.write_text(text.replace("pollInterval=5", "pollInterval=1"), encoding="utf-8")
    master.start()
    master.commit("hello/__init__.py", "def greet(name='world'):\n    return 'Hi!'\n")
    build = master.finished_build("hello")
    assert build["results"] == FAILURE
    assert "FAILED (failures=" in master.log_text(build["buildid"], "tests")


def test_the_basedir_is_the_current_folder_by_default(
    tmp_path: Path, watch: Callable[[Master], Master]
) -> None:
    master = watch(Master(tmp_path))
    succeeded(litebot("create-master", cwd=tmp_path))
    master.use_free_ports()
    for command in (["start"], ["build", "hello"], ["reconfig"], ["check-config"], ["stop"]):
        succeeded(litebot(*command, cwd=tmp_path))


def test_a_basedir_with_a_very_long_path_works(
    tmp_path: Path, watch: Callable[[Master], Master]
) -> None:
    # The name of a Unix socket can have 108 bytes.
    master = watch(Master(tmp_path / ("a" * 100) / ("b c" * 20) / "ci"))
    master.create()
    master.start()
    assert succeeded(master.force("hello")).stdout.count("... ok") == 3
    master.reconfig()
    master.stop()


def test_all_of_the_history_is_in_the_state_file(
    master: Master, created: Master, tmp_path: Path, watch: Callable[[Master], Master]
) -> None:
    master.start()
    assert master.force("hello").returncode == 0
    paths = ("builds", "buildrequests", "buildsets", "sourcestamps", "builds/1/steps")
    seen = {path: master.rest(path) for path in paths}
    text = master.log_text(1, "tests")
    master.stop()

    other = watch(Master(tmp_path / "other", created.password))
    shutil.copytree(created.basedir, other.basedir, ignore=shutil.ignore_patterns("state.sqlite*"))
    other.use_free_ports()
    shutil.copy(master.state_file, other.state_file)
    other.start()
    assert {path: other.rest(path) for path in seen} == seen
    assert other.log_text(1, "tests") == text


def test_the_state_file_is_private_and_has_a_write_ahead_log(running: Master) -> None:
    assert running.force("good").returncode == 0
    for name in ("state.sqlite", "state.sqlite-wal", "state.sqlite-shm"):
        assert (running.basedir / name).stat().st_mode & 0o777 == 0o600, name
    db = apsw.Connection(str(running.state_file), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        assert db.pragma("journal_mode") == "wal"
        assert db.pragma("auto_vacuum") == 2  # incremental
        assert db.pragma("integrity_check") == "ok"
    finally:
        db.close()


# building


def test_build_tells_success_by_exit_code_and_shows_both_streams(running: Master) -> None:
    done = running.force("good")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert "said on stdout" in lines
    assert "said on stderr" in lines


def test_build_tells_failure_by_exit_code_and_names_the_step(running: Master) -> None:
    done = running.force("bad")
    assert done.returncode == 1
    assert "before" in done.stdout.splitlines()
    assert re.search(r"^--- shell: FAILURE", done.stderr, re.MULTILINE)
    assert re.search(r"^FAILURE: ", done.stderr, re.MULTILINE)


def test_build_without_waiting_prints_the_id_of_the_request(running: Master) -> None:
    brid = int(succeeded(running.force("good", "--no-wait")).stdout)
    request = running.rest(f"buildrequests/{brid}")["buildrequests"][0]
    assert request["builderid"] == running.rest("builders/good")["builders"][0]["builderid"]
    wait_for(
        lambda: running.rest(f"buildrequests/{brid}")["buildrequests"][0]["complete"],
        "the build that nobody waited for",
    )


def test_build_passes_branch_properties_and_reason(running: Master) -> None:
    options = [
        "-p",
        "colour=blue",
        "--property",
        "sum=a=b",
        "--reason",
        "because",
        "--branch",
        "dev",
    ]
    brid = int(succeeded(running.force("painted", "--no-wait", *options)).stdout)
    request = running.rest(f"buildrequests/{brid}")["buildrequests"][0]
    buildset = running.rest(f"buildsets/{request['buildsetid']}")["buildsets"][0]
    assert buildset["reason"].endswith(": because")
    assert buildset["sourcestamps"][0]["branch"] == "dev"
    properties = running.rest(f"buildsets/{request['buildsetid']}/properties")["properties"][0]
    assert properties["colour"][0] == "blue"
    assert properties["sum"][0] == "a=b"


def test_build_refuses_a_property_that_the_force_scheduler_would_drop(running: Master) -> None:
    buildsets = running.rest("buildsets")["meta"]["total"]
    done = running.force("good", "-p", "colour=blue")
    assert done.returncode == 1
    assert "the force scheduler 'force-good' takes no property 'colour'" in done.stderr
    assert "util.StringParameter('colour')" in done.stderr
    assert running.rest("buildsets")["meta"]["total"] == buildsets


def test_a_line_arrives_while_the_step_runs(running: Master) -> None:
    go = running.basedir / "go"
    command = [LITEBOT, "build", "slow", str(running.basedir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert any(line == "waiting\n" for line in client.stdout)
        assert client.poll() is None
        assert not running.builds("slow")[-1]["complete"]
        go.touch()
        assert "went on" in client.stdout.read().splitlines()
        assert client.wait(timeout=30) == 0
    go.unlink()


def test_an_interrupted_client_leaves_the_build_running(running: Master) -> None:
    go, waiting = running.basedir / "go", running.basedir / "waiting"
    waiting.unlink(missing_ok=True)
    command = [LITEBOT, "build", "slow", str(running.basedir)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as client:
        assert client.stderr is not None
        assert any(line == "--- shell\n" for line in client.stderr)
        wait_for_waiting_step(running)
        client.send_signal(signal.SIGINT)
        assert client.wait(timeout=30) == 1
        assert "goes on without you" in client.stderr.read()
    build = running.builds("slow")[-1]
    assert not build["complete"]
    go.touch()
    assert running.finished_build("slow", build["number"])["results"] == SUCCESS
    go.unlink()


def test_a_long_list_arrives_whole_however_often_it_is_asked_for(running: Master) -> None:
    admin = running.login()
    builderid = running.rest("builders/good")["builders"][0]["builderid"]
    for _ in range(REQUESTS):
        reply = admin.control("forceschedulers/force-good", "force", builderid=builderid)
        assert reply.status == 200
    filters = {"builderid": builderid, "order": "buildrequestid"}
    wait_for(
        lambda: all(
            r["complete"] for r in running.rest("buildrequests", **filters)["buildrequests"]
        ),
        "the queue to drain",
    )
    whole = running.rest("buildrequests", **filters)
    assert len(whole["buildrequests"]) >= REQUESTS

    def ask(_number: int) -> bool:
        return bool(running.rest("buildrequests", **filters) == whole)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(200)))


# changing the configuration


def test_reconfig_adds_a_builder(running: Master) -> None:
    running.define_builder("later", "echo here I am")
    assert f"pid {running.pid}" in running.reconfig().stdout
    assert "here I am" in succeeded(running.force("later")).stdout


def test_reconfig_with_an_error_changes_nothing_and_names_the_line(running: Master) -> None:
    config = running.basedir / "master.cfg"
    good = config.read_text(encoding="utf-8")
    builders = running.rest("builders")
    running.define_builder("half", "true")
    running.configure("c['schedulers'].append(nonsense)")
    line = config.read_text(encoding="utf-8").splitlines().index("c['schedulers'].append(nonsense)")
    done = running.run("reconfig")
    assert done.returncode == 1
    assert "keeps its old configuration" in done.stderr
    assert f"master.cfg:{line + 1}: NameError: name 'nonsense' is not defined" in done.stderr
    assert running.rest("builders") == builders
    assert running.force("good").returncode == 0
    config.write_text(good, encoding="utf-8")
    running.reconfig()


@on_both
def test_restart_gives_another_process_and_keeps_the_history(master: Master) -> None:
    master.start()
    assert master.force("hello").returncode == 0
    before = master.rest("builds")
    done = succeeded(master.run("restart"))
    stopped, started = re.findall(r"pid (\d+)", done.stdout)
    assert int(stopped) == master.pid
    master.pids.append(int(started))
    assert master.rest("builds") == before
    assert master.force("hello").returncode == 0


def test_stop_clean_lets_the_build_finish(master: Master) -> None:
    master.define_builder("slow", waiting_step(master))
    master.start()
    succeeded(master.force("slow", "--no-wait"))
    wait_for_waiting_step(master)
    with subprocess.Popen([LITEBOT, "stop", "--clean", str(master.basedir)]) as stop:
        wait_for(lambda: "Initiating clean shutdown" in master.log, "the master to be asked")
        assert stop.poll() is None
        (master.basedir / "go").touch()
        assert stop.wait(timeout=30) == 0
    master.start()
    assert [b["results"] for b in master.builds("slow")] == [SUCCESS]


# status


def test_status_of_a_running_master(running: Master) -> None:
    status = running.status()
    assert status["basedir"] == str(running.basedir)
    assert (status["running"], status["pid"]) == (True, running.pid)
    assert status["started_at"] <= time.time()
    assert status["url"] == f"http://127.0.0.1:{running.ports[0]}/"
    assert status["database"]["path"] == str(running.state_file)
    assert status["database"]["size_bytes"] == running.state_file.stat().st_size
    assert {"bad", "good", "hello", "slow"} <= set(status["builders"])
    assert status["last_start"]["started_at"] <= status["started_at"] + 60
    assert status["last_start"]["stopped_at"] is None
    text = succeeded(running.run("status")).stdout
    assert f"pid {running.pid}" in text
    assert status["url"] in text
    assert "found nothing to repair" in text
