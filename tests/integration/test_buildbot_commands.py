"""Every command of `buildbot` works as `litebot COMMAND`, and `buildbot` works on our basedirs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

from support.commands import LITEBOT
from support.commands import is_running
from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import FAILURE
from support.master import SUCCESS
from support.master import Master
from support.master import on_both
from support.ports import free_ports
from support.visitor import Visitor

pytestmark = pytest.mark.usefixtures("real_commands")

BIN = Path(sys.executable).parent
BUILDBOT, TWISTD = BIN / "buildbot", BIN / "twistd"

# Stands where ssh stands: runs the command here, whatever host and user are asked for.
SSH = """#!/bin/sh
while [ "$1" != "{litebot}" ]; do shift; done
exec "$@"
"""


@pytest.fixture(scope="module")
def doors(module_master: Master) -> dict[str, str]:
    """Where the commands that speak Buildbot's own protocol connect, as host:port."""
    names = ("changes", "try", "users")
    return dict(zip(names, (f"127.0.0.1:{port}" for port in free_ports(3)), strict=True))


@pytest.fixture(scope="module")
def running(module_master: Master, doors: dict[str, str]) -> Iterator[Master]:
    """A master that such commands can talk to; its builder `patched` tests the sample project."""
    ports = {name: f"tcp:{door[10:]}:interface=127.0.0.1" for name, door in doors.items()}
    module_master.define_builder("red", "echo before; exit 1")
    module_master.configure(
        f"""
        from buildbot.process.users.manual import CommandlineUserManager

        c["change_source"].append(
            changes.PBChangeSource(port={ports["changes"]!r}, user="hook", passwd="changepw")
        )
        c["user_managers"] = [
            CommandlineUserManager(username="ops", passwd="userpw", port={ports["users"]!r})
        ]
        c["builders"].append(
            util.BuilderConfig(name="patched", workernames=["local"], factory=factory)
        )
        c["schedulers"] += [
            schedulers.AnyBranchScheduler(
                name="sent",
                change_filter=util.ChangeFilter(category="sent"),
                builderNames=["hello"],
            ),
            schedulers.Try_Userpass(
                name="try",
                builderNames=["patched"],
                port={ports["try"]!r},
                userpass=[("ada", "trypw")],
            ),
            schedulers.Try_Jobdir(name="try-ssh", builderNames=["patched"], jobdir="jobdir"),
        ]
        c["schedulers"][-1].watcher.pollInterval = 0.2  # else 10 s
        """
    )
    module_master.start()
    yield module_master
    module_master.stop()


def git(folder: Path, *arguments: str | Path) -> str:
    return succeeded(run("git", "-C", folder, *arguments)).stdout


@pytest.fixture
def clone(running: Master, tmp_path: Path) -> Path:
    """The sample project as a developer has it."""
    folder = tmp_path / "clone"
    succeeded(run("git", "clone", "--quiet", running.basedir / "project", folder))
    return folder


def rewrite(clone: Path, old: str, new: str) -> str:
    """Change the sample project without a commit; the patch."""
    path = clone / "hello" / "__init__.py"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return git(clone, "diff")


def test_no_command_is_missing() -> None:
    listed = succeeded(run(BUILDBOT, "--help")).stdout
    commands = re.findall(r"^    ([a-z-]+)  ", listed, re.MULTILINE)
    assert len(commands) >= 16
    for command in commands:
        assert "Usage" in succeeded(litebot(command, "--help")).stdout, command


# those that talk to a running master


def test_sendchange(running: Master, doors: dict[str, str]) -> None:
    number = len(running.builds("hello")) + 1
    revision = git(running.basedir / "project", "rev-parse", "HEAD").strip()
    done = succeeded(
        litebot(
            *("sendchange", "--master", doors["changes"], "--auth", "hook:changepw"),
            *("--who", "Ada <ada@example.org>", "--branch", "main", "--category", "sent"),
            *("--revision", revision, "--comments", "sent by hand", "--property", "colour:blue"),
            *("--vc", "git", "hello/__init__.py", "README.md"),
        )
    )
    assert "change sent successfully" in done.stdout
    build = running.finished_build("hello", number)
    assert build["results"] == SUCCESS
    (change,) = running.rest(f"builds/{build['buildid']}/changes")["changes"]
    assert change["comments"] == "sent by hand"
    assert set(change["files"]) == {"README.md", "hello/__init__.py"}
    assert change["properties"]["colour"][0] == "blue"


def test_sendchange_with_a_wrong_password(running: Master, doors: dict[str, str]) -> None:
    before = running.rest("changes")
    options = ("--auth", "hook:guessed", "--who", "Eve", "--branch", "main")
    done = litebot("sendchange", "--master", doors["changes"], *options)
    assert done.returncode == 1
    assert running.rest("changes") == before


def try_options(doors: dict[str, str]) -> list[str]:
    options = ["--connect=pb", f"--master={doors['try']}", "--username=ada", "--passwd=trypw"]
    return ["try", *options, "--vc=git", "--builder=patched", "--wait"]


@pytest.mark.parametrize(("greeting", "results"), [("Hello", SUCCESS), ("Good day", FAILURE)])
def test_try_builds_what_is_not_committed(
    running: Master, doors: dict[str, str], clone: Path, greeting: str, results: int
) -> None:
    rewrite(clone, 'return f"Hello', f'count = 1\n    return f"{greeting}')
    number = len(running.builds("patched")) + 1
    done = litebot(*try_options(doors), cwd=clone)
    assert done.returncode == (0 if results == SUCCESS else 1), done.stdout + done.stderr
    assert re.search(r"patched: (success|failure)", done.stdout)
    build = running.finished_build("patched", number)
    assert build["results"] == results
    request = running.rest(f"buildrequests/{build['buildrequestid']}")["buildrequests"][0]
    buildset = running.rest(f"buildsets/{request['buildsetid']}")["buildsets"][0]
    assert buildset["sourcestamps"][0]["patch"]["level"] == 1


def test_try_with_a_patch_from_a_file(
    running: Master, doors: dict[str, str], clone: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.patch").write_text(rewrite(clone, "Hello", "Goodbye"), encoding="utf-8")
    number = len(running.builds("patched")) + 1
    revision = git(clone, "rev-parse", "HEAD").strip()
    done = litebot(
        *try_options(doors),
        *(f"--diff={tmp_path / 'a.patch'}", "--patchlevel=1", f"--baserev={revision}"),
        *("--branch=main", f"--repository={running.basedir}/project", "--property=colour=red"),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    build = running.finished_build("patched", number)
    assert build["results"] == FAILURE
    assert "'Goodbye, world!' != 'Hello, world!'" in running.log_text(build["buildid"], "tests")
    properties = running.rest(f"builds/{build['buildid']}/properties")["properties"][0]
    assert properties["colour"][0] == "red"


def test_try_and_tryserver_over_ssh(running: Master, clone: Path, tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH.format(litebot=LITEBOT), encoding="utf-8")
    ssh.chmod(0o755)
    rewrite(clone, "Hello", "Goodbye")
    number = len(running.builds("patched")) + 1
    succeeded(
        litebot(
            *("try", "--connect=ssh", f"--ssh={ssh}", f"--buildbotbin={LITEBOT}"),
            *("--host=ci.example.org", "--username=ada", f"--jobdir={running.basedir}/jobdir"),
            *("--vc=git", "--builder=patched"),
            cwd=clone,
        )
    )
    assert running.finished_build("patched", number)["results"] == FAILURE


def test_user_in_buildbots_form(running: Master, doors: dict[str, str]) -> None:
    ada = "Ada <ada@example.org>"

    def user(*options: str) -> str:
        login = ("--username", "ops", "--passwd", "userpw")
        return succeeded(litebot("user", "--master", doors["users"], *login, *options)).stdout

    assert "user(s) added" in user("--op", "add", "--info", f"git={ada}")
    assert "user(s) updated" in user("--op", "update", "--info", f"{ada}:email=ada@example.net")
    found = user("--op", "get", "--ids", ada)
    assert f"git: {ada}" in found
    assert "email: ada@example.net" in found
    user("--op", "remove", "--ids", ada)
    assert "no match found" in user("--op", "get", "--ids", ada)


def test_user_with_a_wrong_password(doors: dict[str, str]) -> None:
    login = ("--username", "ops", "--passwd", "guessed")
    done = litebot("user", "--master", doors["users"], *login, "--op", "get", "--ids", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"the user manager on {doors['users']} refuses the login 'ops'" in done.stderr
    assert "Traceback" not in done.stderr


def test_user_where_nobody_listens() -> None:
    (port,) = free_ports(1)
    login = ("--username", "ops", "--passwd", "userpw")
    done = litebot("user", f"--master=127.0.0.1:{port}", *login, "--op", "get", "--ids", "x")
    assert done.returncode == 1
    assert f"no user manager answers on 127.0.0.1:{port}: " in done.stderr
    done = litebot("user", "--master=127.0.0.1:1", *login, "--op", "paint", "--ids", "x")
    assert done.returncode == 2
    assert "bad op 'paint'" in done.stderr


@pytest.mark.parametrize("command", ["checkconfig", "check-config"])
def test_checkconfig(running: Master, command: str, tmp_path: Path) -> None:
    succeeded(running.run(command))
    bad = tmp_path / "bad.cfg"
    bad.write_text("c = BuildmasterConfig = {}\nnonsense\n", encoding="utf-8")
    done = litebot(command, bad)
    assert done.returncode == 3
    assert f"{bad}:2: NameError: name 'nonsense' is not defined" in done.stderr


# those that reconfigure, start and stop it


def test_reconfig_by_all_its_names(master: Master) -> None:
    master.start()
    for program, command in ((LITEBOT, "reconfig"), (LITEBOT, "sighup"), (BUILDBOT, "reconfig")):
        builder = f"{Path(program).name}-{command}"
        master.define_builder(builder, "true")
        done = succeeded(run(program, command, master.basedir))
        assert master.force(builder).returncode == 0
    assert "Reconfiguration appears to have completed successfully" in done.stdout
    master.configure("nonsense")
    done = run(BUILDBOT, "reconfig", master.basedir)
    assert done.returncode == 1
    assert "name 'nonsense' is not defined" in done.stdout


def test_stock_stop(master: Master) -> None:
    master.start()
    done = succeeded(run(BUILDBOT, "stop", master.basedir))
    assert "is dead" in done.stdout
    assert not is_running(master.pid)
    status = master.run("status", "--json")
    assert json.loads(status.stdout)["last_start"]["stopped_at"] is not None


def test_stock_start_and_restart(master: Master) -> None:
    succeeded(run(BUILDBOT, "start", master.basedir))
    master.pids.append(pid_in_file(master))
    assert master.status()["pid"] == master.pid
    assert master.force("hello").returncode == 0
    succeeded(run(BUILDBOT, "restart", master.basedir))
    master.pids.append(pid_in_file(master))
    assert master.force("hello").returncode == 0
    assert [build["results"] for build in master.builds("hello")] == [SUCCESS, SUCCESS]


def pid_in_file(master: Master) -> int:
    return int((master.basedir / "twistd.pid").read_text(encoding="ascii"))


def test_twistd_on_the_tac(master: Master) -> None:
    succeeded(run(TWISTD, "--python=buildbot.tac", cwd=master.basedir))
    wait_for(lambda: "BuildMaster is running" in master.log, "the master to run")
    master.pids.append(pid_in_file(master))
    assert master.force("hello").returncode == 0
    assert succeeded(master.run("stop")).stdout == f"stopped the master with pid {master.pid}\n"


@pytest.mark.parametrize("command", [LITEBOT, str(BUILDBOT)], ids=["litebot", "buildbot"])
def test_the_garbage_collector_leaves_alone_what_stays(master: Master, command: str) -> None:
    master.configure(
        """
        import gc
        with open("collector", "a") as file:
            file.write(f"{gc.isenabled()} {gc.get_freeze_count()}\\n")
        """
    )
    succeeded(run(command, "start", master.basedir))
    master.pids.append(pid_in_file(master))
    master.reconfig()
    loads = (master.basedir / "collector").read_text(encoding="utf-8").splitlines()
    first, second = (line.split() for line in loads)
    assert first[0] == second[0] == "True"
    assert 100_000 < int(first[1]) < int(second[1])


# those that work on the files of a stopped one


def test_dataspec(tmp_path: Path) -> None:
    succeeded(litebot("dataspec", "--out", tmp_path / "spec.json", cwd=tmp_path))
    spec = json.loads((tmp_path / "spec.json").read_text(encoding="utf-8"))
    assert {"builds", "builders", "buildrequests"} <= {entry["path"] for entry in spec}


@dataclass(frozen=True)
class History:
    """A stopped master that has built much, to be copied, and what it answers."""

    master: Master
    answers: dict[str, Any]


def rest_answers(master: Master) -> dict[str, Any]:
    """All builds with their steps, properties, changes and logs, as the REST API has them."""
    answers: dict[str, Any] = {}
    visitor = master.visitor()
    for build in visitor.rest("builds", order="buildid")["builds"]:
        path = f"builds/{build['buildid']}"
        answers[path] = build
        answers[f"{path}/properties"] = visitor.rest(f"{path}/properties")
        answers[f"{path}/changes"] = visitor.rest(f"{path}/changes")
        answers[f"{path}/steps"] = visitor.rest(f"{path}/steps")
        for step in answers[f"{path}/steps"]["steps"]:
            for log in visitor.rest(f"steps/{step['stepid']}/logs")["logs"]:
                raw = visitor.request("GET", f"/api/v2/logs/{log['logid']}/raw")
                answers[f"log {log['logid']}"] = raw.body
    keys = {"buildsets": "bsid", "buildrequests": "buildrequestid", "sourcestamps": "ssid"}
    for path, key in {**keys, "changes": "changeid"}.items():
        answers[path] = visitor.rest(path, order=key)
    return answers


@pytest.fixture(scope="module")
def history(running: Master, tmp_path_factory: pytest.TempPathFactory) -> History:
    """What the tests above have left behind, and at least a green and a red build."""
    assert running.force("hello").returncode == 0
    assert running.force("red").returncode == 1
    answers = rest_answers(running)
    running.stop()
    copied = running.copy(tmp_path_factory.mktemp("history") / "ci")
    running.start()
    return History(copied, answers)


@pytest.fixture
def stopped(
    history: History, watch: Callable[[Master], Master], tmp_path_factory: pytest.TempPathFactory
) -> Master:
    """A copy of it, with ports of its own."""
    master = watch(history.master.copy(tmp_path_factory.mktemp("stopped") / "ci"))
    config = master.basedir / "master.cfg"
    text = config.read_text(encoding="utf-8")
    for port in set(re.findall(r"tcp:(\d+):", text)):
        text = text.replace(f"tcp:{port}:", f"tcp:{free_ports(1)[0]}:")
    config.write_text(text, encoding="utf-8")
    return master


def pragma(path: Path, name: str) -> Any:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return db.pragma(name)
    finally:
        db.close()


@on_both
def test_upgrade_master_of_what_is_up_to_date(stopped: Master) -> None:
    before = stopped.contents()
    done = succeeded(stopped.run("upgrade-master"))
    assert f"{stopped.basedir} is up to date" in done.stdout
    assert "password" not in done.stdout
    assert stopped.contents() == before


@on_both
def test_cleanupdb(stopped: Master, history: History, database_kind: str) -> None:
    text = "said again and again\n" * 20_000
    (stopped.basedir / "much.txt").write_text(text, encoding="utf-8")
    stopped.define_builder("talkative", f"cat {stopped.basedir}/much.txt")
    stopped.start()
    assert stopped.force("talkative").returncode == 0
    answers = rest_answers(stopped)
    stopped.stop()
    size = stopped.state_file.stat().st_size if database_kind == "sqlite" else 0
    done = succeeded(stopped.run("cleanupdb", "--force"))
    assert re.search(r"compression (saved|took) \d+ bytes", done.stdout)
    if database_kind == "sqlite":
        # What was stored in large chunks may be a page larger where it is compressed once more.
        assert stopped.state_file.stat().st_size <= size + 2 * 4096
        assert pragma(stopped.state_file, "freelist_count") == 0
        assert pragma(stopped.state_file, "auto_vacuum") == 2
        assert pragma(stopped.state_file, "integrity_check") == "ok"
        assert stopped.state_file.stat().st_mode & 0o777 == 0o600
    else:
        vacuumed = "SELECT 1 FROM pg_stat_user_tables WHERE last_vacuum IS NOT NULL"
        wait_for(lambda: stopped.rows(vacuumed), "the server to have noted that it cleaned up")
    stopped.start()
    assert rest_answers(stopped) == answers
    for path in history.answers:
        if path.startswith("log "):
            assert answers[path] == history.answers[path]


@on_both
def test_copy_db(stopped: Master, history: History, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    before = stopped.contents()
    done = succeeded(stopped.run("copy-db", f"sqlite:///{copy}"))
    assert re.search(r"copied \d+ rows to", done.stdout)
    assert stopped.contents() == before
    assert copy.stat().st_mode & 0o777 == 0o600

    again = stopped.run("copy-db", f"sqlite:///{copy}")
    assert again.returncode == 1
    assert "Traceback" not in again.stderr

    stopped.set("database", "url", f"sqlite:///{copy}")
    stopped.state_file.unlink(missing_ok=True)
    stopped.start()
    assert rest_answers(stopped) == history.answers
    assert stopped.force("hello").returncode == 0


STOCK = """
from buildbot.plugins import *
c = BuildmasterConfig = {{}}
c["workers"] = [worker.LocalWorker("local")]
c["builders"] = [
    util.BuilderConfig(
        name="old", workernames=["local"],
        factory=util.BuildFactory([steps.ShellCommand(command="echo as before")]),
    )
]
c["schedulers"] = [schedulers.ForceScheduler(name="force", builderNames=["old"])]
c["www"] = {{"port": "tcp:{port}:interface=127.0.0.1"}}
c["buildbotURL"] = "http://127.0.0.1:{port}/"
c["buildbotNetUsageData"] = None
c["protocols"] = {{"pb": {{"port": "tcp:{pb}:interface=127.0.0.1"}}}}
c["db"] = {{"db_url": "sqlite:///history.sqlite"}}
"""


def test_upgrade_master_of_a_basedir_of_stock_buildbot(
    tmp_path: Path, watch: Callable[[Master], Master]
) -> None:
    port, pb = free_ports(2)
    master = watch(Master(tmp_path / "litebot-to-be"))
    succeeded(run(BUILDBOT, "create-master", "--db=sqlite:///history.sqlite", master.basedir))
    config = master.basedir / "master.cfg"
    config.write_text(STOCK.format(port=port, pb=pb), encoding="utf-8")
    visitor = Visitor(port)
    succeeded(run(BUILDBOT, "start", master.basedir))
    try:
        visitor.control("forceschedulers/force", "force", builderid=1)
        builds = "builders/old/builds"
        wait_for(lambda: visitor.rest(builds, complete="true")["builds"], "the build by stock")
        answers = visitor.rest("builds/1")
        text = visitor.rest("builds/1/steps/shell/logs/stdio/contents")
        for refused in ("start", "restart"):
            assert master.run(refused).returncode == 1
        assert visitor.rest("builds/1") == answers
    finally:
        succeeded(run(BUILDBOT, "stop", master.basedir))

    done = succeeded(master.run("upgrade-master"))
    assert "is up to date; added " in done.stdout
    assert config.read_text(encoding="utf-8") == STOCK.format(port=port, pb=pb)
    assert (master.basedir / "buildbot.tac.stock").exists()
    command = [LITEBOT, "restart", "--nodaemon", "-c", "--start_timeout=60", str(master.basedir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("BuildMaster is running" in line for line in process.stdout)
        succeeded(master.run("stop", "-c"))
    master.start()
    assert visitor.rest("builds/1") == answers
    assert visitor.rest("builds/1/steps/shell/logs/stdio/contents") == text
    assert "as before" in succeeded(master.force("old")).stdout
    assert visitor.control("forceschedulers/force", "force", builderid=1).status == 403


def test_a_copy_of_a_stock_basedir_is_a_master_of_its_own(
    tmp_path: Path, watch: Callable[[Master], Master]
) -> None:
    original = Master(tmp_path / "original")
    succeeded(run(BUILDBOT, "create-master", original.basedir))
    text = STOCK.format(port=0, pb=0).replace("history", "state")
    (original.basedir / "master.cfg").write_text(text, encoding="utf-8")
    before = original.contents()
    copied = watch(Master(tmp_path / "copied"))
    shutil.copytree(original.basedir, copied.basedir)
    succeeded(copied.run("upgrade-master"))
    copied.start()
    copied.stop()
    assert original.contents() == before

    # One that an older litebot has upgraded.
    tac = copied.basedir / "buildbot.tac"
    ours, rest = tac.read_text(encoding="utf-8").split("basedir = '.'", 1)
    tac.write_text(f"{ours}basedir = '{original.basedir}'{rest}", encoding="utf-8")
    refused = copied.run("start")
    assert f"{tac} starts the master of {original.basedir}" in refused.stderr
    assert f"Try: litebot upgrade-master {copied.basedir}" in refused.stderr
    succeeded(copied.run("upgrade-master"))
    copied.start()


def test_upgrade_master_of_a_stock_basedir_as_others_have_it(
    tmp_path: Path, watch: Callable[[Master], Master]
) -> None:
    master = watch(Master(tmp_path / "old"))
    succeeded(run(BUILDBOT, "create-master", "--config=ci.cfg", master.basedir))
    url = "sqlite:///%(basedir)s/state.sqlite?serialize_access=1"
    text = STOCK.format(port=0, pb=0).replace("sqlite:///history.sqlite", url)
    (master.basedir / "ci.cfg").write_text(text + "open('beside.txt')\n", encoding="utf-8")
    (master.basedir / "beside.txt").touch()
    done = succeeded(litebot("upgrade-master", master.basedir, cwd=tmp_path))
    assert "added secrets, users" in done.stdout or "added users, secrets" in done.stdout
    assert not {"master.cfg", "project"} & {path.name for path in master.basedir.iterdir()}
    assert 'url = "sqlite:///state.sqlite"' in (master.basedir / "litebot.toml").read_text()
    succeeded(master.run("check-config"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://ci:secret@db/ci", "litebot keeps its state in SQLite or Postgres, not in mysql"),
        ("postgresql://ci:secret@db/ci", "Try: put it into ~/.pgpass and remove it from the url"),
    ],
)
def test_upgrade_master_of_a_database_that_litebot_can_not_take(
    tmp_path: Path, url: str, said: str
) -> None:
    succeeded(run(BUILDBOT, "create-master", tmp_path / "old"))
    config = tmp_path / "old" / "master.cfg"
    config.write_text(f"c = BuildmasterConfig = {{'db': {{'db_url': {url!r}}}}}", encoding="utf-8")
    before = Master(tmp_path / "old").contents()
    done = litebot("upgrade-master", tmp_path / "old")
    assert done.returncode == 1
    assert f"{config}: c['db']: " in done.stderr
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert Master(tmp_path / "old").contents() == before
