"""What litebot refuses: each refusal names the value and a remedy, and nothing is lost by it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.master import Master
from support.refusals import refused
from support.refusals import refuses_to_start
from support.refusals import set_line

pytestmark = pytest.mark.usefixtures("real_commands")


@pytest.fixture(scope="module")
def running(module_master: Master) -> Iterator[Master]:
    """A master that runs."""
    module_master.start()
    yield module_master
    module_master.stop()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """This process, listening on a port of the loopback address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


# ports and pids


@pytest.mark.parametrize(("which", "section"), [(0, "web"), (1, "workers")])
def test_a_port_that_another_process_has(
    master: Master, listener: socket.socket, which: int, section: str
) -> None:
    taken = listener.getsockname()[1]
    settings = master.basedir / "litebot.toml"
    set_line(settings, f"port = {master.ports[which]}", f"port = {taken}")
    refuses_to_start(
        master,
        f"port {taken} on 127.0.0.1 is taken by pid {os.getpid()} (",
        f"Try: set another port under [{section}] in {settings}",
    )
    listener.close()
    master.start()


def test_a_port_of_the_configuration_that_another_process_has(
    master: Master, listener: socket.socket
) -> None:
    taken = listener.getsockname()[1]
    master.configure(f"c['www'] = {{'port': 'tcp:{taken}:interface=127.0.0.1'}}")
    refuses_to_start(
        master,
        f"port {taken} on 127.0.0.1 is taken by pid {os.getpid()} (",
        f"Try: set another port in {master.basedir}/master.cfg",
    )


def test_another_master_on_the_same_basedir(running: Master) -> None:
    refused(
        running.run("start"),
        f"{running.basedir} is open in the master with pid {running.pid}; only one master can run",
        f"Try: litebot stop {running.basedir}",
    )
    # Those who go around the command meet the lock.
    tac = run(
        Path(sys.executable).with_name("twistd"),
        *("--nodaemon", "--pidfile=", "--python=buildbot.tac"),
        *("--logger=litebot.master.runtime.error_log.to_stdout",),
        cwd=running.basedir,
    )
    assert f"is open in the master with pid {running.pid}; only one" in tac.stdout
    assert running.force("hello").returncode == 0


@pytest.mark.parametrize("command", ["upgrade-master", "cleanupdb", "create-master --force"])
def test_what_needs_a_stopped_master(running: Master, command: str) -> None:
    refused(
        running.run(*command.split()),
        f"{running.basedir} is open in the master with pid {running.pid}",
        f"Try: litebot stop {running.basedir}",
    )
    assert running.force("hello").returncode == 0


def test_a_stale_pid_file_blocks_nothing(master: Master) -> None:
    # Its pid is alive, but that of another program, as after a reboot.
    (master.basedir / "twistd.pid").write_text(f"{os.getpid()}\n", encoding="ascii")
    master.start()
    assert (master.basedir / "twistd.pid").read_text(encoding="ascii") == str(master.pid)
    assert master.force("hello").returncode == 0


# the state file


def test_a_file_that_is_no_database(master: Master) -> None:
    master.state_file.write_text("not a database, but somebody may want it\n" * 100)
    refuses_to_start(
        master, f"{master.state_file} is not a SQLite database", "Try: move it away and restore"
    )


def test_a_missing_state_file(master: Master) -> None:
    master.state_file.unlink()
    refuses_to_start(
        master,
        f"{master.state_file} does not exist",
        f"Try: litebot create-master --force {master.basedir}",
    )
    succeeded(master.run("create-master", "--force"))
    master.start()


@pytest.mark.parametrize(
    ("revision", "said", "remedy"),
    [
        (
            "9f8e7d6c5b4a",
            "a newer Buildbot (revision 9f8e7d6c5b4a is not known here)",
            "pip install --upgrade litebot",
        ),
        ("066", "an older Buildbot (revision 066)", "litebot upgrade-master "),
    ],
)
def test_the_tables_of_another_buildbot(
    master: Master, revision: str, said: str, remedy: str
) -> None:
    with apsw.Connection(str(master.state_file)) as db:
        db.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    db.close()
    refuses_to_start(master, f"{master.state_file} has the tables of {said}", remedy)


def test_a_database_of_another_program(master: Master) -> None:
    master.state_file.unlink()
    db = apsw.Connection(str(master.state_file))
    db.execute("CREATE TABLE accounts(name)")
    db.close()
    refuses_to_start(
        master,
        f"{master.state_file} is no database of a Buildbot",
        f"Try: move it away, then: litebot create-master --force {master.basedir}",
    )


def test_a_sqlite_that_can_corrupt_its_log(master: Master, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import apsw\napsw.sqlite_lib_version = lambda: '3.51.2'\n", encoding="utf-8"
    )
    before = master.contents()
    refused(
        master.run("start", env={**os.environ, "PYTHONPATH": str(tmp_path)}),
        "apsw carries SQLite 3.51.2, which can corrupt a WAL file; litebot needs 3.51.3",
        "Try: pip install --upgrade apsw",
    )
    assert master.contents() == before


# folders


def test_create_master_on_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    refused(
        litebot("create-master", tmp_path),
        f"{tmp_path} is not empty",
        f"litebot create-master --force {tmp_path}",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_create_master_on_a_file(tmp_path: Path) -> None:
    (tmp_path / "ci").write_text("mine", encoding="utf-8")
    refused(litebot("create-master", tmp_path / "ci"), f"{tmp_path / 'ci'} is not a folder")
    refused(litebot("create-master", tmp_path / "ci" / "in"), f"{tmp_path / 'ci' / 'in'}")
    assert (tmp_path / "ci").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "command",
    [["start"], ["stop"], ["restart"], ["reconfig"], ["status"], ["build", "b"], ["user", "list"]],
    ids=" ".join,
)
def test_a_folder_without_a_master(tmp_path: Path, command: list[str]) -> None:
    absent = tmp_path / "absent"
    refused(
        litebot(*command, absent),
        f"{absent} does not exist",
        f"Try: litebot create-master {absent}",
    )
    refused(
        litebot(*command, tmp_path),
        f"{tmp_path} is no basedir: it has no buildbot.tac",
        "Try: end the command with the folder of a master, or make one: litebot create-master ci",
    )
    assert not any(tmp_path.iterdir())


def test_a_basedir_that_has_lost_its_tac(master: Master) -> None:
    (master.basedir / "buildbot.tac").unlink()
    refused(master.run("start"), f"Try: litebot create-master --force {master.basedir}")
    succeeded(master.run("create-master", "--force"))
    master.start()


def test_a_build_without_a_builder(created: Master) -> None:
    refused(
        litebot("build", "ci", cwd=created.basedir.parent),
        "'ci' is the folder of a master; the builder comes before it: litebot build BUILDER ci",
        code=2,
    )


def test_remedies_can_be_typed_where_the_path_has_a_space(created: Master, tmp_path: Path) -> None:
    basedir = tmp_path / "my ci"
    shutil.copytree(created.basedir, basedir)
    refused(litebot("reconfig", basedir), f"Try: litebot start '{basedir}'")
    refused(
        litebot("user", "remove", "admin", basedir),
        f"Try: litebot user remove --force admin '{basedir}'",
    )
    (basedir / "state.sqlite").unlink()
    done = litebot("start", basedir)
    refused(done, f"Try: litebot create-master --force '{basedir}'")
    (remedy,) = (line for line in done.stderr.splitlines() if "Try: " in line)
    succeeded(run("sh", "-c", remedy.partition("Try: ")[2], env=with_our_commands()))


def with_our_commands() -> dict[str, str]:
    """The environment of a shell that finds `litebot`."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_a_basedir_of_stock_buildbot(tmp_path: Path) -> None:
    basedir = tmp_path / "litebot-to-be"
    buildbot = Path(sys.executable).with_name("buildbot")
    succeeded(run(buildbot, "create-master", basedir))
    (basedir / "master.cfg.sample").rename(basedir / "master.cfg")
    before = Master(basedir).contents()
    refused(
        litebot("start", basedir),
        f"{basedir}/buildbot.tac starts stock Buildbot, not litebot",
        f"Try: litebot upgrade-master {basedir}",
    )
    assert Master(basedir).contents() == before


# commands that need something else


def test_an_unknown_builder(running: Master) -> None:
    running.define_builder("another", "true")
    running.reconfig()
    refused(
        running.force("helo"),
        f"there is no builder 'helo' in {running.basedir}; there are: another, hello",
        f"Try: litebot build hello {running.basedir}",
    )
    assert running.rest("buildrequests", builderid__eq=0)["meta"]["total"] == 0


@pytest.mark.parametrize("command", [["build", "hello"], ["reconfig"]], ids=" ".join)
def test_a_master_that_does_not_run(created: Master, command: list[str]) -> None:
    refused(
        litebot(*command, created.basedir),
        f"no master runs in {created.basedir}",
        f"Try: litebot start {created.basedir}",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["build"], "Missing argument 'BUILDER'"),
        (["build", "-p", "novalue", "hello"], "'novalue' is not NAME=VALUE"),
        (["start", "--timeout", "soon"], "'soon' is not a valid float"),
        (["start", "--timeout", "0"], "0.0 is not in the range"),
        (["user", "add", "--role", "king", "ada"], "'king' is not one of 'admin', 'viewer'"),
    ],
)
def test_usage_errors(arguments: list[str], said: str) -> None:
    refused(litebot(*arguments), said, code=2)


@pytest.mark.parametrize(
    ("arguments", "typed", "said"),
    [
        (["add", "ada"], "short", "the password of user 'ada' has 5 characters"),
        (["add", "ada"], "", "the password of user 'ada' is empty"),
        (["add", "a:b"], "long enough", "user name 'a:b' can't be used"),
        (["add", "admin"], "long enough", "user 'admin' exists already"),
        (["passwd", "bob"], "long enough", "no user 'bob'"),
    ],
)
def test_bad_users(created: Master, arguments: list[str], typed: str, said: str) -> None:
    before = created.contents()
    refused(
        litebot("user", *arguments, "--password-stdin", created.basedir, input=f"{typed}\n"), said
    )
    assert created.contents() == before


def test_the_last_admin_can_not_be_removed_by_mistake(created: Master) -> None:
    refused(
        litebot("user", "remove", "admin", created.basedir),
        "user 'admin' is the last admin",
        "Try: litebot user remove --force admin",
    )
