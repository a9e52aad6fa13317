"""What litebot refuses: each refusal names the value and a remedy, and nothing is lost by it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from support.commands import Done
from support.commands import is_running
from support.commands import litebot
from support.commands import require
from support.commands import run
from support.commands import succeeded
from support.master import Master

pytestmark = pytest.mark.usefixtures("real_commands")

NOBODY = 65534
# With it root may do to a file what the file's mode says, like everybody else.
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")
UID = os.geteuid()


def refused(done: Done, *said: str, code: int = 1) -> None:
    """It ended with this code, said all of this on stderr, and showed no traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    for text in said:
        assert text in done.stderr
    assert "Traceback" not in done.stderr


def refuses_to_start(master: Master, *said: str, code: int = 1) -> None:
    """`litebot start` is refused so, leaves no process behind and changes no file."""
    before = master.contents()
    refused(master.run("start"), *said, code=code)
    assert processes_in(master.basedir) == []
    assert master.contents() == before


def processes_in(folder: Path) -> list[int]:
    """The pids of those that run in a folder."""
    found = []
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if cwd.readlink() == folder:
                found.append(int(cwd.parent.name))
        except OSError:
            continue  # gone in between, or another user's
    return [pid for pid in found if is_running(pid)]


def set_line(path: Path, old: str, new: str) -> int:
    """Replace one line of a text file; its number."""
    lines = path.read_text(encoding="utf-8").splitlines()
    place = lines.index(old)
    lines[place] = new
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place + 1


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
        *("--logger=litebot.master.logged.to_stdout",),
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


# permissions


@pytest.fixture
def lock_out() -> Callable[[Path], None]:
    """Takes a file or folder away from the user who runs the tests."""
    if UID == 0:
        require(shutil.which("setpriv"), "setpriv of util-linux is not installed")

    def take(path: Path) -> None:
        if UID == 0:
            os.chown(path, NOBODY, NOBODY)
        else:
            path.chmod(0o555 if path.is_dir() else 0o000)

    return take


def unprivileged(master: Master, command: str, *arguments: str) -> Done:
    """As Master.run, by a user for whom permissions count."""
    wrapper = UNPRIVILEGED if UID == 0 else ()
    executable = Path(sys.executable).with_name("litebot")
    return run(*wrapper, executable, command, *arguments, master.basedir)


def test_another_users_state_file(master: Master, lock_out: Callable[[Path], None]) -> None:
    lock_out(master.state_file)
    refused(
        unprivileged(master, "start"),
        f"{master.state_file} can't be read and written by this user (uid {UID})",
        f"Try: chown {UID} {master.state_file}",
    )
    assert processes_in(master.basedir) == []


def test_another_users_basedir(master: Master, lock_out: Callable[[Path], None]) -> None:
    lock_out(master.basedir)
    refused(
        unprivileged(master, "start"),
        f"{master.basedir} can't be written by this user (uid {UID})",
        f"Try: chown -R {UID} {master.basedir}",
    )
    assert processes_in(master.basedir) == []
    master.basedir.chmod(0o755)


@pytest.mark.parametrize("command", ["start", "upgrade-master", "create-master --force"])
def test_root_leaves_another_users_basedir_alone(master: Master, command: str) -> None:
    require(UID == 0, "only root can give a folder to another user")
    os.chown(master.basedir, NOBODY, NOBODY)
    before = master.contents()
    refused(
        master.run(*command.split()),
        f"{master.basedir} belongs to nobody; root would leave files in it that this user can't"
        " write, and builds would run as root",
        f"Try: as that user, or for root: chown -R root {master.basedir}",
    )
    assert master.contents() == before


def test_status_needs_to_read_only(master: Master, lock_out: Callable[[Path], None]) -> None:
    for start, code in ((lambda: None, 3), (master.start, 0)):
        start()
        before = sorted(path.name for path in master.basedir.iterdir())
        lock_out(master.basedir)
        done = unprivileged(master, "status")
        os.chown(master.basedir, UID, os.getegid())
        master.basedir.chmod(0o755)
        assert (done.returncode, done.stderr) == (code, "")
        assert sorted(path.name for path in master.basedir.iterdir()) == before


def test_another_users_running_master(master: Master, lock_out: Callable[[Path], None]) -> None:
    master.start()
    for name in ("master.lock", "control.sock", "users", "state.sqlite"):
        lock_out(master.basedir / name)
    for command in (["start"], ["stop"], ["build", "hello"], ["reconfig"], ["user", "list"]):
        refused(unprivileged(master, *command), str(master.basedir))
    assert is_running(master.pid)
    for name in ("master.lock", "control.sock", "users", "state.sqlite"):
        if UID != 0:
            (master.basedir / name).chmod(0o600)


@pytest.fixture
def anothers_pid() -> Iterator[int]:
    """The pid of a process of another user."""
    if UID != 0:
        yield 1
        return
    require(shutil.which("setpriv"), "setpriv of util-linux is not installed")
    with subprocess.Popen(["setpriv", f"--reuid={NOBODY}", "sleep", "60"]) as process:
        yield process.pid
        process.kill()


def test_another_users_master_is_not_stopped(master: Master, anothers_pid: int) -> None:
    with open(master.basedir / "master.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(json.dumps({"pid": anothers_pid, "started_at": 0.0}))
        lock.flush()
        wrapper = ("setpriv", "--bounding-set=-kill") if UID == 0 else ()
        command = Path(sys.executable).with_name("litebot")
        refused(
            run(*wrapper, command, "stop", master.basedir),
            f"the master of {master.basedir} with pid {anothers_pid} belongs to another user",
            f"Try: sudo litebot stop {master.basedir}",
        )
    assert is_running(anothers_pid)


def test_a_file_of_password_hashes_that_others_can_read(master: Master) -> None:
    users = master.basedir / "users"
    users.chmod(0o644)
    refuses_to_start(
        master, f"{users} has mode 0644; it holds password hashes", f"Try: chmod 600 {users}"
    )


# the configuration


FAULTS = [
    ("c['title'] = 'unfinished", "SyntaxError: unterminated string literal"),
    ("c['title'] = undefined_name", "NameError: name 'undefined_name' is not defined"),
    (
        "c['builders'].append(util.BuilderConfig(name='b', factory=factory))",
        "builder 'b': at least one workername is required",
    ),
    ("c['builders'][0].workernames = ['absent']", "builder 'hello' uses unknown workers 'absent'"),
]


@pytest.mark.parametrize(("line", "error"), FAULTS, ids=["syntax", "name", "builder", "worker"])
def test_an_error_in_master_cfg_is_shown_with_its_line(
    master: Master, line: str, error: str
) -> None:
    master.configure(line)
    config = master.basedir / "master.cfg"
    place = config.read_text(encoding="utf-8").splitlines().index(line) + 1
    refused(master.run("check-config"), f"{config}:{place}: {error}", code=3)
    refuses_to_start(
        master, f"{config}:{place}: {error}", f"Try: litebot check-config {master.basedir}"
    )


def test_all_errors_of_master_cfg_are_shown(master: Master) -> None:
    master.configure(
        """
        c["builders"].append(util.BuilderConfig(name="one", factory=factory))
        c["builders"].append(util.BuilderConfig(name="two", factory=factory))
        """
    )
    done = master.run("check-config")
    refused(done, "builder 'one': at least one", "builder 'two': at least one", code=3)


def test_an_error_in_a_module_of_the_configuration(master: Master, tmp_path: Path) -> None:
    module = master.basedir / "steps_of_ours.py"
    module.write_text("import re\n\n\ndef make():\n    re.compile('(')\n", encoding="utf-8")
    master.configure("import steps_of_ours\nsteps_of_ours.make()")
    said = (f"{master.basedir}/master.cfg:", f"(at {module}:5)")
    refused(master.run("check-config"), *said, code=3)
    refuses_to_start(master, *said)

    stock = tmp_path / "stock"
    succeeded(run(Path(sys.executable).with_name("buildbot"), "create-master", stock))
    (stock / "master.cfg").write_text("import nowhere\n", encoding="utf-8")
    done = litebot("upgrade-master", stock)
    refused(done, f"{stock}/master.cfg:1: ModuleNotFoundError: No module named 'nowhere'")
    assert "Traceback" not in done.stderr


def test_a_missing_master_cfg(master: Master) -> None:
    (master.basedir / "master.cfg").unlink()
    refused(
        master.run("check-config"),
        f"{master.basedir}/master.cfg does not exist",
        f"Try: litebot create-master --force {master.basedir}",
    )


@pytest.mark.parametrize(
    ("old", "new", "error", "remedy"),
    [
        ('listen = "127.0.0.1"', 'lisen = "127.0.0.1"', "unknown key 'lisen'", "'listen'"),
        ('listen = "127.0.0.1"', 'listen = "ci.lan"', "web.listen is 'ci.lan'", "0.0.0.0"),
        ('durability = "acknowledged"', "durability = 7", "database.durability is 7", '"acknow'),
        ("[web]", "[wed]", "unknown section [wed]", "'web'"),
        ('title = ""', 'title = "', "not TOML", "quotes"),
    ],
)
def test_an_error_in_litebot_toml_is_shown_with_its_line(
    master: Master, old: str, new: str, error: str, remedy: str
) -> None:
    settings = master.basedir / "litebot.toml"
    place = set_line(settings, old, new)
    refuses_to_start(master, f"{settings}:{place}: {error}", remedy)


def test_check_config_looks_at_litebot_toml_too(master: Master) -> None:
    settings = master.basedir / "litebot.toml"
    place = set_line(settings, 'durability = "acknowledged"', 'durability = "perhaps"')
    done = master.run("check-config")
    refused(done, f"{settings}:{place}: database.durability is 'perhaps'", code=3)


def test_two_databases(master: Master) -> None:
    master.configure("c['db'] = {'db_url': 'sqlite:///other.sqlite'}")
    said = (
        f"{master.basedir}/master.cfg",
        "the database is 'sqlite:///other.sqlite' here",
        "'sqlite:///state.sqlite'",
        f"[database] in {master.basedir}/litebot.toml",
        "remove c['db'] or make them the same",
    )
    refuses_to_start(master, *said)
    refused(master.run("check-config"), *said, code=3)
    assert not (master.basedir / "other.sqlite").exists()


@pytest.mark.parametrize(
    "line",
    [
        "c['db'] = {'db_url': 'sqlite:///state.sqlite'}",
        "c['db_url'] = 'sqlite:///%(basedir)s/state.sqlite?serialize_access=1'",
    ],
)
def test_the_same_database_twice_is_none_of_them(master: Master, line: str) -> None:
    master.configure(line)
    succeeded(master.run("check-config"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("c['db_url'] = 'nonsense'", "c['db']: 'nonsense' is not the url of a database"),
        ("c['db'] = 'sqlite:///state.sqlite'", "c['db']: it is a str; it must be a dict"),
        ("c['db'] = {'db_url': 'mysql://ci:secret@db/ci'}", "c['db']: litebot keeps its state in"),
        ("c['www'] = None", "c['www'] is a NoneType; it must be a dict"),
    ],
)
def test_what_buildbot_would_answer_with_a_traceback(master: Master, line: str, said: str) -> None:
    master.configure(line)
    done = master.run("check-config")
    refused(done, f"{master.basedir}/master.cfg: {said}", code=3)
    assert "secret" not in done.stderr


def test_check_config_finds_what_a_start_finds(master: Master, tmp_path: Path) -> None:
    config = master.basedir / "master.cfg"
    text = config.read_text(encoding="utf-8") + "open('beside.txt')\nimport beside\n"
    config.rename(master.basedir / "unused.cfg")
    (master.basedir / "other.cfg").write_text(text, encoding="utf-8")
    set_line(
        master.basedir / "buildbot.tac", 'configfile = "master.cfg"', "configfile = 'other.cfg'"
    )
    refused(
        litebot("check-config", master.basedir, cwd=tmp_path),
        f"{master.basedir}/other.cfg:",
        "No such file or directory: 'beside.txt'",
        code=3,
    )
    for name in ("beside.txt", "beside.py"):
        (master.basedir / name).touch()
    done = succeeded(litebot("check-config", master.basedir, cwd=tmp_path))
    assert done.stdout == f"{master.basedir}/other.cfg is good\n"
    master.start()


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
