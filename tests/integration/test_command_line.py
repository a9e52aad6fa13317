"""What a user of the command line sees: JSON, dry runs, silence, exit codes and examples."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import sqlalchemy as sa

from litebot.cli.json_fields import FIELDS
from support.commands import LITEBOT
from support.commands import Done
from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import Master
from support.master import on_both
from support.ports import free_ports
from support.postgres import Postgres

BUILDBOT = Path(sys.executable).with_name("buildbot")

CONFIGURATION = """
from buildbot.plugins import reporters

c["services"] = [reporters.HttpStatusPush("http://127.0.0.1:9")]  # where nobody listens
c["www"] = {{"change_hook_dialects": {{"base": True}}}}
c["builders"].append(
    util.BuilderConfig(
        name="slow",
        workernames=["local"],
        factory=util.BuildFactory([steps.ShellCommand(command=["sleep", "600"])]),
    )
)
c["schedulers"] += [
    schedulers.AnyBranchScheduler(name="all", builderNames=["hello"]),
    schedulers.ForceScheduler(name="force-slow", builderNames=["slow"]),
]
c["change_source"].append(
    changes.PBChangeSource(
        port="tcp:{changes}:interface=127.0.0.1", user="hook", passwd="PASSWORD"
    )
)
c["schedulers"].append(
    schedulers.Try_Userpass(
        name="try",
        builderNames=["hello"],
        port="tcp:{tries}:interface=127.0.0.1",
        userpass=[("ada", "PASSWORD")],
    )
)
"""


@pytest.fixture(scope="module")
def doors(module_master: Master) -> dict[str, str]:
    """Where an example connects -> where it has to in these tests."""
    changes, tries = free_ports(2)
    return {"127.0.0.1:9990": f"127.0.0.1:{changes}", "127.0.0.1:9991": f"127.0.0.1:{tries}"}


@pytest.fixture(scope="module")
def running(module_master: Master, doors: dict[str, str]) -> Iterator[Master]:
    """A master that was killed once and has something of everything to tell of; kept from harm."""
    changes, tries = (door.rpartition(":")[2] for door in doors.values())
    module_master.configure(CONFIGURATION.format(changes=changes, tries=tries))
    module_master.start()
    assert module_master.force("hello").returncode == 0
    assert module_master.change(branch="main", revision="abcdef") == 200
    for _ in range(2):
        succeeded(module_master.force("slow", "--no-wait"))
    wait_for(lambda: module_master.status()["running_builds"], "a build to run")
    module_master.kill()
    module_master.start()
    wait_for(lambda: module_master.status()["running_builds"], "a build to run again")
    wait_for(lambda: read(module_master, "report list"), "a report to be left")
    yield module_master
    module_master.stop()


@pytest.fixture(scope="module")
def origin(created: Master, tmp_path_factory: pytest.TempPathFactory) -> Master:
    """A stopped master that has built, with logs that can be joined; to be copied."""
    master = created.copy(tmp_path_factory.mktemp("origin") / "ci")
    try:
        master.start()
        for _ in range(2):
            assert master.force("hello").returncode == 0
    finally:
        master.stop()
    cut_logs(master)
    return master


def cut_logs(master: Master) -> None:
    """Store the logs in many chunks, as they came, as if a kill had kept them from being joined."""
    with master.connection() as conn:
        logs = conn.execute(sa.text("SELECT id FROM logs ORDER BY id")).scalars().all()
        conn.execute(sa.text("DELETE FROM logchunks"))
        chunk = sa.text("INSERT INTO logchunks VALUES (:log, :line, :line, :content, 0)")
        for log in logs:
            for line in range(40):
                content = b"oline %d of a log, and what it says\n" % line
                conn.execute(chunk, {"log": log, "line": line, "content": content[:-1]})
        conn.execute(sa.text("UPDATE logs SET num_lines = 40"))


@pytest.fixture
def stopped(
    origin: Master, watch: Callable[[Master], Master], tmp_path_factory: pytest.TempPathFactory
) -> Master:
    """A copy of it."""
    return watch(origin.copy(tmp_path_factory.mktemp("stopped") / "ci"))


def read(master: Master, command: str, code: int = 0) -> Any:
    """What a command prints with --json."""
    done = litebot(*command.split(), "--json", master.basedir)
    assert (done.returncode, done.stderr) == (code, "")
    return json.loads(done.stdout)


def answers(done: Done, code: int, stdout: str = "", stderr: str = "") -> None:
    assert (done.returncode, done.stdout, done.stderr) == (code, stdout, stderr)


# JSON

NAMES = {path.removesuffix("{}") for known in FIELDS.values() for path in known if "{}" in path}


def paths(value: object, path: str = "") -> set[str]:
    """The paths of all that was printed, as FIELDS has them."""
    if path in NAMES and value:
        return {f"{path}{{}}"}
    if isinstance(value, dict) and value:
        found = (paths(value[name], f"{path}.{name}".lstrip(".")) for name in value)
        return {each for some in found for each in some}
    if isinstance(value, list) and value:
        return {each for one in value for each in paths(one, f"{path}[]")}
    return {path}


def are_documented(command: str, value: Any, *, but: set[str] | None = None) -> None:
    """All that was printed is documented, and all that is documented was printed, `but` these."""
    known = set(FIELDS[command])
    # What is empty or null now may have fields at other times.
    partly = {re.split(r"[.\[{]", path)[0] for path in known}
    found = paths(value)
    assert found - known - partly == set()
    missing = {path for path in known - found if path not in (but or set())}
    assert missing == set()


def test_the_json_of_status(running: Master) -> None:
    # What a server's database has, and what others do to it.
    of_others = {"database.url", "masters[]", "outage.since", "outage.words", "without_builder{}"}
    of_others |= {"lost_workers{}", "lost_workers{}.since", "lost_workers{}.words"}
    never_started = {"last_start"}
    assert running.visitor().request("GET", "/change_hook/nothing").status == 400  # is refused
    are_documented("status", read(running, "status"), but=of_others | never_started)


@pytest.mark.parametrize("command", ["report list", "user list", "why 1"])
def test_the_json_of_a_running_master(running: Master, command: str) -> None:
    are_documented(command.removesuffix(" 1"), read(running, command))


def test_the_json_of_check(stopped: Master) -> None:
    assert read(stopped, "check") == []
    stopped.execute("DELETE FROM logchunks WHERE first_line = 7")
    found = read(stopped, "check", code=3)
    are_documented("check", found)
    assert {finding["kind"] for finding in found} == {"log"}


def test_the_json_of_check_config(running: Master, stopped: Master) -> None:
    found = read(running, "check-config")
    config = str(running.basedir / "master.cfg")
    assert (found["config"], found["good"], found["errors"]) == (config, True, [])
    assert "lets anybody" in found["notes"][0]

    stopped.configure("c['builders'].append(util.BuilderConfig(name='b', factory=factory))")
    stopped.set("web", "title", "CI")
    found = read(stopped, "check-config", code=3)
    are_documented("check-config", found, but={"notes[]"})
    assert not found["good"]
    (error,) = found["errors"]
    path = stopped.basedir / "master.cfg"
    assert error["file"] == str(path)
    assert "name='b'" in path.read_text(encoding="utf-8").splitlines()[error["line"] - 1]
    assert error["message"] == "builder 'b': at least one workername is required"


def test_the_json_of_version() -> None:
    done = succeeded(litebot("version", "--json"))
    found = json.loads(done.stdout)
    are_documented("version", found)
    lines = succeeded(litebot("version")).stdout.splitlines()
    assert dict(line.split() for line in lines) == found


@on_both
def test_the_json_of_a_stopped_master(stopped: Master, database_kind: str) -> None:
    found = read(stopped, "status", code=3)
    assert found["running"] is False
    assert found["pid"] is None
    assert ("url" in found["database"]) == (database_kind == "postgres")
    assert read(stopped, "report list") == []


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("why 77", 1, "there is no change with the id or the revision '77'"),
        ("why", 2, "Missing argument 'CHANGE'"),
        ("status --jsno", 2, "No such option"),
    ],
)
def test_an_error_is_text_on_stderr_also_with_json(
    running: Master, command: str, code: int, said: str
) -> None:
    last = [running.basedir] if code == 1 else []
    done = litebot(*command.split(), "--json", *last)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# what deletes, moves or rewrites, and says so before


def everything(master: Master) -> dict[str, Any]:
    """Every file of a basedir, whatever it holds and when it was written, and every table."""
    held: dict[str, Any] = {}
    for path in sorted(master.basedir.rglob("*")):
        info = path.stat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        held[str(path)] = (content, info.st_mtime_ns, info.st_mode, info.st_ino)
    if master.server is not None:
        held |= tables_of(master.server, master.database)
    return held


def tables_of(server: Postgres, database: str) -> dict[str, Any]:
    query = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'i', 'S') AND relnamespace > 16000"
    names = [name for (name,) in server.rows(database, f"{query} OR relnamespace = 2200")]
    tables = server.rows(
        database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    )
    held: dict[str, Any] = {"relations": sorted(names)}
    for (table,) in tables:
        held[table] = server.rows(database, f"SELECT xmin::text, * FROM {table} ORDER BY 1, 2")
    return held


def dry(master: Master, command: str, *arguments: str) -> str:
    """What a command says that it would do; it changes nothing, not even a time of a file."""
    before = everything(master)
    done = litebot(*command.split(), "--dry-run", *arguments, master.basedir)
    assert (done.returncode, done.stderr) == (0, "")
    assert everything(master) == before
    assert done.stdout.endswith("\nnothing was changed\n")
    return done.stdout


def refuses_alike(master: Master, command: str, *arguments: str, code: int = 1) -> str:
    """A command and its dry run end with the same error; the dry run comes first."""
    before = everything(master)
    words = (*command.split(), *arguments)
    wet, rehearsed = (
        litebot(words[0], *words[1:], *option, master.basedir) for option in ((), ("--dry-run",))
    )
    assert everything(master).keys() >= before.keys()
    answers(rehearsed, code, "", wet.stderr)
    assert (wet.returncode, wet.stdout) == (code, "")
    assert "Traceback" not in wet.stderr
    return wet.stderr


def number(text: str, pattern: str) -> int:
    """A number in what a command says."""
    found = re.search(pattern.replace("N", r"(-?[\d,]+)"), text)
    assert found, text
    return int(found[1].replace(",", ""))


@on_both
@pytest.mark.parametrize("option", [[], ["--force"]], ids=["", "force"])
def test_cleanupdb_saves_what_its_dry_run_says(
    stopped: Master, option: list[str], database_kind: str
) -> None:
    said = dry(stopped, "cleanupdb", *option)
    logs = stopped.rows("SELECT count(*) FROM logs")[0][0]
    assert logs > 2
    assert f"would compress {logs} of {logs} logs: {40 * logs} chunks" in said
    assert number(said, "become N chunks") == logs
    stored = "SELECT sum(length(content)) FROM logchunks"
    before = stopped.rows(stored)[0][0]
    assert number(said, "chunks of N bytes would") == before
    done = succeeded(stopped.run("cleanupdb", *option))
    assert number(done.stdout, "saved N bytes") == number(said, "saving N") > 0
    assert stopped.rows(stored)[0][0] == number(said, "become .* chunks of N bytes")
    again = dry(stopped, "cleanupdb")
    assert f"would compress none of {logs} logs\n" in again
    where = stopped.state_file if database_kind == "sqlite" else stopped.database
    assert str(where) in said
    assert ("clean up" in said) == (database_kind == "postgres")


def test_cleanupdb_of_a_file_of_stock_buildbot(stopped: Master) -> None:
    rewritten = "PRAGMA auto_vacuum = NONE; VACUUM"
    db = apsw.Connection(str(stopped.state_file))
    db.execute("PRAGMA journal_mode = DELETE")
    db.execute(rewritten)
    db.close()
    said = dry(stopped, "cleanupdb")
    size = stopped.state_file.stat().st_size
    assert f"would write all of {stopped.state_file}, which has {size:,} bytes, anew" in said


each_on_a_stopped_master = pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("cleanupdb", []),
        ("copy-db", ["sqlite:///copy.sqlite"]),
        ("move-database", ["sqlite:///moved.sqlite"]),
        ("upgrade-master", []),
    ],
)


@each_on_a_stopped_master
def test_after_a_kill_a_dry_run_leaves_the_log_as_it_is(
    running: Master, tmp_path: Path, command: str, arguments: list[str]
) -> None:
    killed = Master(tmp_path / "ci")
    shutil.copytree(running.basedir, killed.basedir, ignore=shutil.ignore_patterns("*.sock"))
    for name in ("master.lock", "twistd.pid"):
        (killed.basedir / name).write_bytes(b"")
    (killed.basedir / "state.sqlite-wal").touch()
    said = dry(killed, command, *arguments)
    if command == "copy-db":  # also what is in the log only
        assert number(said, "copy N rows") > 100
    (killed.basedir / "state.sqlite-shm").unlink()
    assert dry(killed, command, *arguments) == said


@each_on_a_stopped_master
def test_what_needs_the_master_stopped_refuses_in_a_dry_run_too(
    running: Master, command: str, arguments: list[str]
) -> None:
    done = litebot(command, "--dry-run", *arguments, running.basedir)
    wet = litebot(command, *arguments, running.basedir)
    answers(done, 1, "", wet.stderr)
    assert f"is open in the master with pid {running.pid}" in done.stderr


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("cleanupdb", []), ("copy-db", ["sqlite:///copy.sqlite"]), ("upgrade-master", [])],
)
def test_a_missing_state_file_is_not_made(
    stopped: Master, command: str, arguments: list[str]
) -> None:
    stopped.state_file.unlink()
    said = refuses_alike(stopped, command, *arguments)
    assert f"{stopped.state_file} does not exist" in said
    assert not stopped.state_file.exists()
    assert not (stopped.basedir / "copy.sqlite").exists()


def test_a_state_file_without_tables(stopped: Master) -> None:
    stopped.state_file.unlink()
    apsw.Connection(str(stopped.state_file)).execute("PRAGMA user_version = 1")
    for command, arguments in (("cleanupdb", []), ("copy-db", ["sqlite:///copy.sqlite"])):
        said = refuses_alike(stopped, command, *arguments)
        assert f"{stopped.state_file} holds no tables of a Buildbot" in said or (
            "sqlite:///state.sqlite holds no tables of a Buildbot" in said
        )


@on_both
def test_copy_db_copies_what_its_dry_run_says(stopped: Master, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/copy.sqlite"
    said = dry(stopped, "copy-db", url)
    assert f"to {tmp_path}/copy.sqlite, which would be made" in said
    assert not (tmp_path / "copy.sqlite").exists()
    done = succeeded(stopped.run("copy-db", url))
    assert number(done.stdout, "copied N rows") == number(said, "copy N rows") > 100
    assert "holds tables" in refuses_alike(stopped, "copy-db", url)


def test_copy_db_says_what_it_would_leave_out(stopped: Master) -> None:
    db = apsw.Connection(str(stopped.state_file))
    db.execute(
        "INSERT INTO build_data (buildid, name, value, length, source)"
        " VALUES (4711, 'n', x'00', 1, 's')"
    )
    db.close()
    option = "copy-db --ignore-fk-error-rows"
    said = dry(stopped, option, "sqlite:///copy.sqlite")
    assert "would leave out 1 row of build_data" in said
    done = succeeded(litebot(*option.split(), "sqlite:///copy.sqlite", stopped.basedir))
    assert number(done.stdout, "copied N rows") == number(said, "copy N rows")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "'nonsense' is not the url of a database"),
        ("sqlite:///state.sqlite", "state.sqlite is the database of"),
        ("mysql://ci@db/ci", "litebot keeps its state in SQLite or Postgres, not in mysql"),
    ],
)
def test_where_copy_db_can_not_copy_to(stopped: Master, url: str, said: str) -> None:
    assert said in refuses_alike(stopped, "copy-db", url)


NUL = "UPDATE builders SET name = name || char(0) WHERE name = 'hello'"


@pytest.mark.parametrize("command", ["copy-db", "move-database"])
def test_a_value_that_postgres_refuses(stopped: Master, postgres: Postgres, command: str) -> None:
    stopped.execute(NUL)
    database = postgres.new_database()
    said = refuses_alike(stopped, command, postgres.url(database))
    assert "table builders, row id=" in said
    assert "column name holds a NUL character" in said
    assert tables_of(postgres, database) == {"relations": []}


@pytest.mark.parametrize("where", ["sqlite", "postgres"])
def test_move_database_moves_what_its_dry_run_says(
    stopped: Master, where: str, request: pytest.FixtureRequest
) -> None:
    server: Postgres | None = None
    url = "sqlite:///moved.sqlite"
    if where == "postgres":
        server = request.getfixturevalue("postgres")
        database = server.new_database()
        url = server.url(database)
    said = dry(stopped, "move-database", url)
    if server:
        assert tables_of(server, database) == {"relations": []}
    assert f"would write url = {url} into {stopped.basedir}/litebot.toml" in said
    assert f"would rename {stopped.state_file} to {stopped.state_file}.moved-" in said
    assert f", {stopped.state_file.stat().st_size:,} bytes now," in said
    done = succeeded(stopped.run("move-database", url))
    assert number(done.stdout, "moved N rows") == number(said, "copy N rows") > 100
    assert number(done.stdout, "rows of N tables") == number(said, "rows of N tables")
    if server:  # and back
        stopped.server, stopped.database = server, database
        said = dry(stopped, "move-database", "sqlite:///state.sqlite")
        assert "where it is now, in the table litebot_moved" in said
        back = succeeded(stopped.run("move-database", "sqlite:///state.sqlite"))
        assert number(back.stdout, "moved N rows") == number(said, "copy N rows")
        again = refuses_alike(stopped, "move-database", url)
        assert "holds tables" in again


INTERRUPTED = """
from litebot.cli.main import main
from litebot.master.admin.move import move
from litebot.master.admin.move import sqlite_side

def interrupt(*args):
    raise KeyboardInterrupt

{name} = interrupt
main()
"""


def interrupt_move(master: Master, url: str, name: str) -> None:
    """Interrupt it where it begins with this."""
    code = INTERRUPTED.format(name=name)
    done = run(sys.executable, "-c", code, "move-database", url, master.basedir)
    assert done.returncode == 1
    assert "interrupted; litebot.toml" in done.stderr


def test_the_dry_run_of_a_move_that_was_interrupted(stopped: Master, postgres: Postgres) -> None:
    database = postgres.new_database()
    url = postgres.url(database)
    rows = number(dry(stopped, "move-database", url), "copy N rows")
    interrupt_move(stopped, url, "move.complete")
    before = tables_of(postgres, database)
    said = dry(stopped, "move-database", url)
    assert "would copy 0 rows" in said
    assert f"{rows:,} rows more of them are there from an earlier attempt" in said

    stopped.execute("INSERT INTO users (identifier) VALUES ('late')")
    said = dry(stopped, "move-database", url)
    assert f"would copy {rows + 1:,} rows" in said
    assert "would empty postgresql://" in said
    assert tables_of(postgres, database) == before

    interrupt_move(stopped, url, "sqlite_side.SqliteSide.put_aside")
    said = dry(stopped, "move-database", url)
    assert "would end an attempt that has moved all rows to postgresql://" in said
    assert "would copy" not in said
    assert f"would rename {stopped.state_file}" in said
    done = succeeded(stopped.run("move-database", url))
    assert "moved by an earlier attempt" in done.stdout
    assert not stopped.state_file.exists()


STOCK = """
import beside
c = BuildmasterConfig = {"db": {"db_url": "sqlite:///history.sqlite"}}
"""


def test_upgrade_master_does_what_its_dry_run_says(tmp_path: Path) -> None:
    stock = Master(tmp_path / "old")
    url = "sqlite:///history.sqlite"
    succeeded(run(BUILDBOT, "create-master", f"--db={url}", stock.basedir))
    (stock.basedir / "master.cfg").write_text(STOCK, encoding="utf-8")
    (stock.basedir / "beside.py").touch()
    said = dry(stock, "upgrade-master")
    assert f"would make {stock.basedir}/litebot.toml, which names {url}\n" in said
    assert f"would change {stock.basedir}/buildbot.tac to start litebot" in said
    assert "mode 0644 would be 0600" in said
    assert "would bring litebot's tables from version 0 to" in said
    before = {path.name for path in stock.basedir.iterdir()}
    done = succeeded(stock.run("upgrade-master"))
    added = re.search(r"would add to .*: (.*)", said)
    assert added
    assert f"added {added[1]}\n" in done.stdout
    new = {path.name for path in stock.basedir.iterdir()} - before - {"__pycache__"}
    made = {"litebot.toml", "buildbot.tac.stock", "master.lock"}
    assert new == {*added[1].split(", "), *made}
    assert f"{stock.basedir} is up to date; nothing would be done\n" in dry(stock, "upgrade-master")


# As a litebot and a Buildbot of before left it.
OLDER = (
    "DROP TABLE litebot_configured",
    "DROP TABLE litebot_events",
    "DROP TABLE litebot_told",
    "DROP TABLE litebot_writers",
    "DROP TABLE litebot_collapsed",
    "DROP TABLE litebot_projects",
    "DROP INDEX litebot_unfinished_builds",
    "UPDATE litebot_schema SET version = 6",
    "DROP TABLE codebase_branches",
    "DROP TABLE codebase_commits",
    "DROP TABLE codebases",
    "UPDATE alembic_version SET version_num = '066'",
)


@on_both
def test_upgrade_master_names_the_tables_that_it_would_change(stopped: Master) -> None:
    assert "nothing would be done" in dry(stopped, "upgrade-master")
    for statement in OLDER:
        stopped.execute(statement)
    said = dry(stopped, "upgrade-master")
    for change in (
        "run Buildbot's migrations 067",
        "bring litebot's tables from version 6 to",
        "make the tables codebase_branches, codebase_commits, codebases",
        "make the tables litebot_collapsed, litebot_configured, litebot_events, litebot_projects",
        "make the index litebot_unfinished_builds",
    ):
        assert f"would {change}" in said
    assert len(said.splitlines()) == 6
    succeeded(stopped.run("upgrade-master"))
    assert "nothing would be done" in dry(stopped, "upgrade-master")
    stopped.execute("UPDATE alembic_version SET version_num = '999'")
    assert "tables of a newer Buildbot (revision 999" in refuses_alike(stopped, "upgrade-master")
    stopped.execute("UPDATE alembic_version SET version_num = '067'")
    stopped.execute("UPDATE litebot_schema SET version = 999")
    assert "made by a newer litebot (version 999" in refuses_alike(stopped, "upgrade-master")


def test_a_report_is_dropped_after_its_dry_run(running: Master) -> None:
    waiting = read(running, "report list")
    ids = [report["id"] for report in waiting]
    last = str(ids[-1])
    done = succeeded(litebot("report", "drop", "--dry-run", last, running.basedir))
    assert done.stdout.startswith(f"would drop report {last}: ")
    assert " has not reported " in done.stdout
    assert [report["id"] for report in read(running, "report list")] == ids
    dropped = succeeded(litebot("report", "drop", last, running.basedir))
    assert dropped.stdout.startswith(f"dropped report {last}: ")
    assert [report["id"] for report in read(running, "report list")] == ids[:-1]
    for option in ([], ["--dry-run"]):
        answers(
            litebot("report", "drop", *option, last, running.basedir),
            1,
            "",
            f"litebot: no report with the id {last} is waiting\n"
            f"  Try: litebot report list {running.basedir}\n",
        )


def test_a_report_is_dropped_while_the_master_runs(stopped: Master) -> None:
    assert "no master runs in" in refuses_alike(stopped, "report drop 1")


def test_the_spelling_of_before(running: Master) -> None:
    new = succeeded(litebot("report", "list", running.basedir))
    old = succeeded(litebot("report", running.basedir))
    assert old.stdout == new.stdout != ""
    assert (new.stderr, old.stderr) == (
        "",
        "note: litebot report is spelled litebot report list now\n",
    )
    quiet = litebot("report", "-q", "--json", running.basedir)
    answers(quiet, 0, succeeded(litebot("report", "list", "--json", running.basedir)).stdout)


def test_a_user_is_removed_after_the_dry_run(stopped: Master) -> None:
    said = refuses_alike(stopped, "user remove", "admin")
    assert "user 'admin' is the last admin" in said
    assert "no user 'bob'" in refuses_alike(stopped, "user remove", "bob")
    forced = dry(stopped, "user remove --force", "admin")
    users = stopped.basedir / "users"
    assert forced == (
        f"would remove admin from {users}; 0 users would stay, 0 admins among them\n"
        "nothing was changed\n"
    )
    succeeded(litebot("user", "add", "--generate", "ada", stopped.basedir))
    assert "1 user would stay, 1 admin among them" in dry(stopped, "user remove", "admin")
    succeeded(litebot("user", "remove", "admin", stopped.basedir))
    assert users.read_text(encoding="utf-8").startswith("ada:admin:")


# silence


def silent(*arguments: str | Path, **kwargs: Any) -> None:
    answers(litebot(*arguments, **kwargs), 0)


def test_quiet_commands_say_nothing(
    stopped: Master, tmp_path: Path, watch: Callable[[Master], Master]
) -> None:
    silent("create-master", "-q", tmp_path / "new")
    folder = stopped.basedir
    for command in ("check-config", "check", "report list", "upgrade-master", "cleanupdb"):
        silent(*command.split(), "-q", folder)
    silent("user", "add", "-q", "--password-stdin", "ada", folder, input="long enough\n")
    silent("user", "passwd", "-q", "--password-stdin", "ada", folder, input="long enough 2\n")
    silent("user", "remove", "-q", "ada", folder)
    plan = ("copy-db", "--dry-run", "sqlite:///copy.sqlite", folder)
    loud, quiet = litebot(*plan), litebot(*plan, "-q")
    answers(quiet, 0, loud.stdout.removesuffix("nothing was changed\n"))
    silent("copy-db", "-q", "sqlite:///copy.sqlite", folder)
    silent("move-database", "-q", "sqlite:///moved.sqlite", folder)
    silent("stop", "-q", folder)  # where none runs
    silent("restart", "-q", folder)
    try:
        silent("reconfig", "-q", folder)
        silent("stop", "-q", folder)
        silent("start", "-q", folder)
    finally:
        succeeded(stopped.run("stop"))


def test_quiet_commands_print_what_was_asked_for(running: Master, stopped: Master) -> None:
    request = litebot("build", "-q", "--no-wait", "hello", running.basedir)
    assert re.fullmatch(r"\d+\n", request.stdout)
    build = litebot("build", "-q", "hello", running.basedir)
    assert (build.returncode, build.stderr) == (0, "")
    assert "Ran 3 tests" in build.stdout
    made_up = litebot("user", "add", "-q", "--generate", "ada", stopped.basedir)
    assert re.fullmatch(r"(\w{4}-){4}\w{4}\n", made_up.stdout)
    for command in ("status", "report list", "user list", "why 1", "version"):
        words = command.split()
        last = [] if command == "version" else [running.basedir]
        loud = succeeded(litebot(*words, *last))
        quiet = succeeded(litebot(*words, "--quiet", *last))
        assert quiet.stdout
        assert len(quiet.stdout.splitlines()) == len(loud.stdout.splitlines())
    failed = litebot("build", "-q", "absent", running.basedir)
    assert "there is no builder 'absent'" in failed.stderr


# exit codes


def test_exit_codes_are_those_of_the_documents(running: Master, stopped: Master) -> None:
    codes = {
        ("status", running): 0,
        ("status", stopped): 3,
        ("check", stopped): 0,
        ("why 77", running): 1,
        ("why 1", stopped): 1,
        ("reconfig", stopped): 1,
        ("frobnicate", stopped): 2,
        ("sendchange --frobnicate", stopped): 2,
        ("sendchange --master=127.0.0.1:9 --who=ada", stopped): 1,
    }
    for (command, master), code in codes.items():
        last = [] if command.startswith("sendchange") else [master.basedir]
        done = litebot(*command.split(), *last)
        assert done.returncode == code, (command, done.stdout, done.stderr)


# examples of those that the documents do not show


def example_of(command: str) -> str:
    """The last line of a help text."""
    shown = succeeded(litebot(command, "--help")).stdout.rstrip().splitlines()[-1]
    return shown.partition("Example:")[2].strip()


@pytest.fixture
def clone(running: Master, tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    succeeded(run("git", "clone", "--quiet", running.basedir / "project", folder))
    return folder


@pytest.mark.parametrize("command", ["sendchange", "try"])
def test_the_example_of_what_talks_to_a_master_runs(
    running: Master, doors: dict[str, str], clone: Path, command: str
) -> None:
    line = example_of(command)
    for shown, real in doors.items():
        line = line.replace(shown, real)
    with open(clone / "README.md", "a", encoding="utf-8") as changed:
        changed.write("more\n")
    words = shlex.split(line)
    assert words[:2] == ["litebot", command]
    before = running.rest("buildsets")["meta"]["total"]
    succeeded(run(LITEBOT, *words[1:], cwd=clone))
    wait_for(lambda: running.rest("buildsets")["meta"]["total"] > before, "a buildset")


def test_the_examples_of_the_others_run(tmp_path: Path) -> None:
    for folder in ("new", "tmp"):
        (tmp_path / "ci/jobdir" / folder).mkdir(parents=True)
    (tmp_path / "job").write_text("a job", encoding="utf-8")
    for command in ("tryserver", "dataspec"):
        line = example_of(command).replace("litebot", shlex.quote(LITEBOT), 1)
        succeeded(run("sh", "-c", line, cwd=tmp_path))
    (job,) = (tmp_path / "ci/jobdir/new").iterdir()
    assert job.read_text(encoding="utf-8") == "a job"
    assert json.loads((tmp_path / "spec.json").read_text(encoding="utf-8"))


def test_the_example_of_the_proxy_is_understood(tmp_path: Path) -> None:
    """It would go on for ever, where aiohttp is installed."""
    from buildbot.scripts.runner import Options

    words = shlex.split(example_of("dev-proxy"))
    options = Options()
    options.parseOptions(words[1:])
    assert dict(options.subOptions)["buildbot_url"] == "http://127.0.0.1:8010"


def test_the_example_of_all_runs(tmp_path: Path) -> None:
    shown = succeeded(litebot("--help")).stdout.rstrip().splitlines()[-1]
    line = shown.partition("Example:")[2].strip().replace("litebot", shlex.quote(LITEBOT))
    try:
        succeeded(run("sh", "-c", line, cwd=tmp_path))
    finally:
        litebot("stop", tmp_path / "ci")
