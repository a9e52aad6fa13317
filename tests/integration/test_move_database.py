"""litebot move-database: everything arrives, or nothing has changed."""

from __future__ import annotations

import base64
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import apsw
import pytest
import sqlalchemy as sa
from buildbot.db.logs import LogsConnectorComponent
from psycopg.errors import UndefinedTable

from bench.history import load_builds
from bench.postgres import USER
from litebot.master import schema
from litebot.master.moving.compare import digest
from litebot.master.moving.server import PostgresSide
from litebot.master.moving.side import Side
from litebot.master.moving.sqlite import SqliteSide
from litebot.master.moving.tables import Column
from litebot.master.moving.tables import Moved
from litebot.master.moving.tables import all_tables
from litebot.settings import load
from support.commands import LITEBOT
from support.commands import begin
from support.commands import is_running
from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import SUCCESS
from support.master import Master
from support.ports import free_ports
from support.postgres import Postgres
from support.proxy import Proxy
from support.several import Site

# 220,000 rows: long enough to be interrupted.
MANY_BUILDS = 10_000

VERSION = "litebot_schema"

CONFIGURATION = """
c["builders"] += [
    util.BuilderConfig(
        name="parent",
        workernames=["local"],
        properties={
            "text": "grün ☃ 𝄞 \\\\ ' \\"", "number": 2**40, "float": 0.1, "flag": True,
            "none": None, "list": ["a", 1, None], "dict": {"ä": [1.5, False]},
        },
        factory=util.BuildFactory([
            steps.ShellCommand(command=["printf", "gr\\\\303\\\\274n \\\\342\\\\230\\\\203\\\\n"]),
            steps.Trigger(schedulerNames=["triggered"], waitForFinish=True),
        ]),
    ),
]
c["schedulers"] += [
    schedulers.ForceScheduler(name="force-parent", builderNames=["parent"]),
    schedulers.Triggerable(name="triggered", builderNames=["child"]),
]
"""


def tell(master: Master) -> dict[str, Any]:
    """What the REST API says of all builds, and their logs."""
    told: dict[str, Any] = {}
    visitor = master.visitor()
    for path in ("builds", "buildsets", "buildrequests", "sourcestamps", "changes"):
        told[path] = visitor.rest(path)
    for build in told["builds"]["builds"]:
        path = f"builds/{build['buildid']}"
        for part in ("properties", "changes", "steps"):
            told[f"{path}/{part}"] = visitor.rest(f"{path}/{part}")
        for step in told[f"{path}/steps"]["steps"]:
            for log in visitor.rest(f"steps/{step['stepid']}/logs")["logs"]:
                raw = visitor.request("GET", f"/api/v2/logs/{log['logid']}/raw")
                told[f"log {log['logid']}"] = raw.body
    return told


def digests(side: Side) -> dict[str, tuple[int, str]]:
    """The count and hash of each table; closes the side."""
    try:
        return {table.name: digest(side, table) for table in all_tables()}
    finally:
        side.close()


def add_every_compression(db: apsw.Connection) -> None:
    """Chunks of a log in every way that Buildbot can store."""
    known = LogsConnectorComponent.COMPRESSION_BYID
    assert [kind.name for kind in known.values()] == ["raw", "gz", "bz2", "lz4", "zstd", "br"]
    logid = db.execute(
        "INSERT INTO logs (name, slug, stepid, complete, num_lines, type)"
        " SELECT 'every', 'every', max(id), 1, ?, 's' FROM steps RETURNING id",
        (len(known),),
    ).get
    for line, (number, kind) in enumerate(known.items()):
        content = kind.dumps("oein Stück 𝄞\\0 davon".encode())
        db.execute(
            "INSERT INTO logchunks VALUES (?, ?, ?, ?, ?)", (logid, line, line, content, number)
        )


def add_patch(db: apsw.Connection) -> None:
    patch = base64.b64encode(bytes(range(256)) * 300).decode()
    db.execute(
        "INSERT INTO patches (id, patchlevel, patch_base64, patch_author, patch_comment, subdir)"
        " VALUES (1, 1, ?, 'Zoë', '', NULL)",
        (patch,),
    )
    db.execute(
        "INSERT INTO sourcestamps (ss_hash, patchid, repository, codebase, project, created_at)"
        " VALUES ('with a patch', 1, '', '', '', 1)"
    )


EXTREMES: dict[str, Any] = {
    "int2": -(2**15),
    "int4": 2**31 - 1,
    "int8": 2**63 - 1,
    "float8": 0.1 + 0.2,
    "bytea": bytes(range(256)),
}
EVERY_TEXT = "\\N \t\n\r'\"%s ☃ 𝄞 \x01\x7f"


def add_to_every_table(db: apsw.Connection) -> None:
    """A row of extremes in each table, and one of as many NULLs as there may be."""
    # Three times: a row may need one of a table that comes later.
    for table in all_tables() * 3:
        if db.execute(f"SELECT count(*) FROM {table.name}").get > 1 or table.name == VERSION:
            continue
        for second in (False, True):
            row = {column.name: _value(db, table, column, second) for column in table.columns}
            db.execute(
                f"INSERT OR IGNORE INTO {table.name} ({table.column_list})"
                f" VALUES ({', '.join('?' * len(row))})",
                tuple(row.values()),
            )


def _value(db: apsw.Connection, table: Moved, column: Column, second: bool) -> Any:
    """What the first or second row holds in a column."""
    definition = table.table.c[column.name]
    if definition is table.table.autoincrement_column or (second and column.nullable):
        return None
    if definition.foreign_keys:
        return _of_parent(db, definition, newest=second)
    if column.kind == "text":
        return f"{second}{EVERY_TEXT}"[: column.length]
    extreme = EXTREMES[column.kind]
    return extreme - 1 if second and definition.primary_key else extreme


def _of_parent(db: apsw.Connection, column: sa.Column[Any], *, newest: bool) -> int | None:
    (key,) = column.foreign_keys
    which = "max" if newest else "min"
    found: int | None = db.execute(
        f"SELECT {which}({key.column.name}) FROM {key.column.table.name}"
    ).get
    return found


def change(path: Path, *statements: str) -> None:
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement)
    db.close()


@pytest.fixture(scope="module")
def origin(module_master: Master) -> Master:
    """A stopped master that has built what a master can build, with a history of every kind."""
    master = module_master
    master.define_builder("child", "echo child")
    master.configure(CONFIGURATION)
    master.start()
    assert master.force("hello").returncode == 0
    assert master.force("parent").returncode == 0
    child = master.finished_build("child")
    again = master.login().control(f"builds/{child['buildid']}", "rebuild")
    assert again.status == 200
    assert master.finished_build("child", 2)["results"] == SUCCESS
    master.stop()
    return master


@pytest.fixture
def stopped(origin: Master, tmp_path: Path, watch: Callable[[Master], Master]) -> Master:
    """A copy of it."""
    master = watch(Master(tmp_path / "ci", origin.password))
    shutil.copytree(origin.basedir, master.basedir)
    master.use_free_ports()
    return master


@pytest.fixture
def full(stopped: Master) -> Master:
    """The same with a row of every kind in every table."""
    db = apsw.Connection(str(stopped.state_file))
    with db:
        add_every_compression(db)
        add_patch(db)
        add_to_every_table(db)
    db.close()
    return stopped


@pytest.fixture
def large(created: Master, tmp_path: Path) -> Master:
    """A master with so much history that a move of it can be interrupted."""
    basedir = tmp_path / "ci"
    shutil.copytree(created.basedir, basedir)
    load_builds(basedir / "state.sqlite", MANY_BUILDS)
    return Master(basedir)


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The name of an empty database."""
    return postgres.new_database()


def put_aside(master: Master) -> Path:
    """The state file that a move has left."""
    (found,) = master.basedir.glob("state.sqlite.moved-*[0-9]")  # not what SQLite puts beside it
    return found


def url_of(master: Master) -> str:
    return load(master.basedir / "litebot.toml").database.url


def test_there_and_back_everything_is_the_same(
    full: Master, postgres: Postgres, database: str
) -> None:
    settings = (full.basedir / "litebot.toml").read_text(encoding="utf-8")
    before = digests(SqliteSide(full.state_file, target=False))
    assert [name for name, (count, _) in before.items() if count == 0] == []
    url = postgres.url(database)
    there = succeeded(full.run("move-database", url))
    assert url_of(full) == url
    assert (full.basedir / "litebot.toml").read_text(encoding="utf-8") == settings.replace(
        "sqlite:///state.sqlite", url
    )
    assert f"the old database is {put_aside(full)}" in there.stdout
    assert not full.state_file.exists()
    assert digests(PostgresSide(url, full.basedir)) == before

    back = succeeded(full.run("move-database", "sqlite:///state.sqlite"))
    assert (full.basedir / "litebot.toml").read_text(encoding="utf-8") == settings
    assert digests(SqliteSide(full.state_file, target=False)) == before
    assert digests(SqliteSide(put_aside(full), target=False)) == before
    hashes = [re.findall(r"hash (\w{64})", done.stdout) for done in (there, back)]
    assert hashes[0] == hashes[1] != []
    assert full.state_file.stat().st_mode & 0o777 == 0o600
    for path in (full.state_file, put_aside(full)):
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        assert db.pragma("integrity_check") == "ok"
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        db.close()
    assert "litebot_move" not in {name for (name,) in postgres.rows(database, TABLES)}


TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"


def test_after_a_move_back_the_master_has_its_history_and_builds_on(
    stopped: Master, postgres: Postgres, database: str
) -> None:
    stopped.start()
    told = tell(stopped)
    stopped.stop()
    parents = {buildset["parent_buildid"] for buildset in told["buildsets"]["buildsets"]}
    rebuilt = {buildset["rebuilt_buildid"] for buildset in told["buildsets"]["buildsets"]}
    assert len(parents) > 1
    assert len(rebuilt) > 1
    succeeded(stopped.run("move-database", postgres.url(database)))
    succeeded(stopped.run("move-database", "sqlite:///state.sqlite"))
    stopped.start()
    assert tell(stopped) == told
    assert stopped.force("hello").returncode == 0


def test_a_moved_master_runs_on_postgres_and_takes_its_builds_back(
    stopped: Master, postgres: Postgres, database: str
) -> None:
    stopped.start()
    told = tell(stopped)
    stopped.stop()
    succeeded(stopped.run("move-database", postgres.url(database)))
    stopped.start()
    assert tell(stopped) == told
    assert stopped.force("hello").returncode == 0
    there = stopped.builds("hello")
    stopped.stop()
    assert not stopped.state_file.exists()
    succeeded(stopped.run("move-database", "sqlite:///state.sqlite"))
    stopped.start()
    assert stopped.builds("hello") == there
    assert there[-1]["results"] == SUCCESS


def test_the_tables_are_as_a_new_database_has_them(
    stopped: Master, postgres: Postgres, database: str
) -> None:
    succeeded(stopped.run("move-database", postgres.url(database)))
    new = postgres.url(postgres.new_database())
    side = PostgresSide(new, stopped.basedir)
    with side.engine.connect() as conn:
        schema.make_buildbots(conn)
        schema.upgrade(conn)
        conn.commit()
    moved = PostgresSide(postgres.url(database), stopped.basedir)
    assert moved.definitions() == side.definitions() != []
    assert moved.tables() == side.tables()
    moved.close()
    side.close()


def test_new_rows_are_numbered_on(stopped: Master, postgres: Postgres, database: str) -> None:
    succeeded(stopped.run("move-database", postgres.url(database)))
    for table in all_tables():
        column = table.table.autoincrement_column
        if column is not None:
            ((top,),) = postgres.rows(database, f"SELECT max({column.name}) FROM {table.name}")
            sequence = f"pg_get_serial_sequence('{table.name}', '{column.name}')"
            ((given,),) = postgres.rows(database, f"SELECT nextval({sequence})")
            assert given == (top or 0) + 1, table.name


# what it shows


@pytest.mark.parametrize("back", [False, True])
def test_a_terminal_is_shown_how_far_it_is_and_how_fast(
    back: bool, unmoved: Master, postgres: Postgres, database: str
) -> None:
    load_builds(unmoved.state_file, 500)
    url = postgres.url(database)
    if back:
        assert succeeded(unmoved.run("move-database", url)).stderr == ""  # it is no terminal
        url = "sqlite:///state.sqlite"
    returncode, said, shown = run_on_terminal("move-database", url, unmoved.basedir)
    assert returncode == 0, shown
    found = re.search(r"^moved (\d+) rows", said)
    assert found, said
    # Name, bar, rows that are done of how many, and how many a second.
    for what in ("copying rows", "comparing rows"):
        last = re.findall(what + r" +━+ +(\d+)/(\d+) +([\d,]+)/s", shown)[-1]
        assert last[:2] == (found[1], found[1])
        assert int(last[2].replace(",", "")) > 0
    assert re.search(r"making indexes +━+ +(\d+)/\1 ", shown)


def run_on_terminal(*arguments: str | Path) -> tuple[int, str, str]:
    """Run `litebot` with a terminal for its errors: how it ends, its output, what that shows."""
    ours, its = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        process = begin(
            *(LITEBOT, *arguments),
            stdout=subprocess.PIPE,
            stderr=its,
            text=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(its)
        shown = b""
        with suppress(OSError):  # nobody has the other end any more
            while part := terminal.read(4096):
                shown += part
        said, _ = process.communicate(timeout=60)
    return process.returncode, said, re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode())


# interrupts


# How far a move is: a query that finds something then.
COPYING = "SELECT 1 FROM build_properties LIMIT 1"
INDEXING = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE %INDEX %' LIMIT 1"
COMPARING = "SELECT 1 FROM litebot_move WHERE later = '[]' AND state = 'copying'"

END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"


def begin_move(
    large: Master, postgres: Postgres, database: str, stage: str = COPYING
) -> subprocess.Popen[str]:
    """A move that has reached a stage, in which all of the first table is copied."""
    process = begin(
        *(LITEBOT, "move-database", postgres.url(database), large.basedir),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with postgres.connect(database) as conn:
        made = "SELECT 1 FROM litebot_move WHERE state = 'copying'"

        def is_at(query: str) -> bool:
            assert process.poll() is None, process.communicate()
            with suppress(UndefinedTable):
                return conn.execute(query.encode()).fetchone() is not None
            return False

        wait_for(lambda: is_at(made), "the tables")
        wait_for(lambda: is_at(stage), stage)
    return process


def kill(process: subprocess.Popen[str], _postgres: Postgres, _database: str) -> str:
    process.kill()
    return ""


def interrupt(process: subprocess.Popen[str], _postgres: Postgres, _database: str) -> str:
    process.send_signal(signal.SIGINT)
    return (
        r"interrupted; litebot.toml is as it was\n +Try: litebot move-database 'post.*&port=\d+' /"
    )


def cut_off(_process: subprocess.Popen[str], postgres: Postgres, database: str) -> str:
    postgres.rows("postgres", END_SESSIONS.format(database))
    # libpq tells what the server said last, or that it is gone, as it meets it.
    return "terminating connection due to administrator command|server closed the connection"


@pytest.mark.parametrize(
    ("end", "stage"),
    [
        (kill, COPYING),
        (kill, INDEXING),
        (kill, COMPARING),
        (interrupt, COPYING),
        (interrupt, COMPARING),
        (cut_off, COPYING),
        (cut_off, INDEXING),
        (cut_off, COMPARING),
    ],
)
def test_what_was_interrupted_goes_on(
    end: Callable[[subprocess.Popen[str], Postgres, str], str],
    stage: str,
    large: Master,
    postgres: Postgres,
    database: str,
) -> None:
    before = large.contents()
    process = begin_move(large, postgres, database, stage)
    expected = end(process, postgres, database)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if end is kill else 1), errors
    assert re.search(expected, errors), errors
    assert "Traceback" not in errors
    assert large.contents() == before
    again = succeeded(large.run("move-database", postgres.url(database)))
    found = re.search(r"moved (\d+) rows .*, (\d+) of them in an earlier attempt", again.stdout)
    assert found, again.stdout
    assert int(found[1]) >= int(found[2]) > 0
    moved = digests(PostgresSide(url_of(large), large.basedir))
    assert moved == digests(SqliteSide(put_aside(large), target=False))


def test_a_row_that_was_altered_meanwhile_is_named(
    large: Master, postgres: Postgres, database: str
) -> None:
    before = large.contents()
    process = begin_move(large, postgres, database)
    process.kill()
    process.communicate()
    postgres.execute(database, "UPDATE buildrequests SET priority = 7 WHERE id = 4711")
    refused = large.run("move-database", postgres.url(database))
    assert refused.returncode == 1
    assert "table buildrequests, row id=4711: column priority differs between" in refused.stderr
    assert large.contents() == before
    again = succeeded(large.run("move-database", postgres.url(database)))
    assert "earlier attempt" not in again.stdout
    moved = digests(PostgresSide(url_of(large), large.basedir))
    assert moved == digests(SqliteSide(put_aside(large), target=False))


def test_a_source_that_has_changed_since_is_copied_anew(
    large: Master, postgres: Postgres, database: str
) -> None:
    process = begin_move(large, postgres, database)
    process.kill()
    process.communicate()
    change(large.state_file, "UPDATE buildrequests SET priority = 7 WHERE id = 4711")
    again = succeeded(large.run("move-database", postgres.url(database)))
    assert "earlier attempt" not in again.stdout
    query = "SELECT id FROM buildrequests WHERE priority = 7"
    assert postgres.rows(database, query) == [(4711,)]


WRITING = """
import subprocess, sys
from litebot.cli.main import main
from litebot.master.moving.{module} import {side}

def announce(*args, _call={side}.announce):
    _call(*args)
    subprocess.run([sys.executable, "-c", {write!r}], check=True)

{side}.announce = announce
main()
"""
NEW_USER = "INSERT INTO users (identifier) VALUES ('late')"


@pytest.mark.parametrize("back", [False, True])
def test_what_is_written_after_the_rows_were_compared_is_noticed(
    back: bool, unmoved: Master, postgres: Postgres, database: str
) -> None:
    url, source = postgres.url(database), str(unmoved.state_file)
    module, side = "sqlite", "SqliteSide"
    write = f"import apsw; apsw.Connection({source!r}).execute({NEW_USER!r})"
    if back:
        succeeded(unmoved.run("move-database", url))
        url, source = "sqlite:///state.sqlite", url
        module, side = "server", "PostgresSide"
        write = f"import psycopg\nwith psycopg.connect({source!r}) as c: c.execute({NEW_USER!r})"
    before = (unmoved.basedir / "litebot.toml").read_text(encoding="utf-8")
    code = WRITING.format(module=module, side=side, write=write)
    done = run(sys.executable, "-c", code, "move-database", url, unmoved.basedir)
    assert done.returncode == 1
    written = f"{source} was written to while it was moved; litebot.toml still names {source}"
    assert unquote(written) in unquote(done.stderr)
    assert (unmoved.basedir / "litebot.toml").read_text(encoding="utf-8") == before
    again = succeeded(unmoved.run("move-database", url))
    assert "earlier attempt" not in again.stdout
    if back:
        db = apsw.Connection(str(unmoved.state_file))
        assert db.execute("SELECT identifier FROM users").fetchall() == [("late",)]
        db.close()
    else:
        assert postgres.rows(database, "SELECT identifier FROM users") == [("late",)]


def test_another_masters_unfinished_move_is_left_alone(
    large: Master, stopped_elsewhere: Master, postgres: Postgres, database: str
) -> None:
    process = begin_move(large, postgres, database)
    process.kill()
    process.communicate()
    refused = stopped_elsewhere.run("move-database", postgres.url(database))
    assert refused.returncode == 1
    assert f"holds an unfinished move of {large.state_file}" in refused.stderr
    assert "earlier attempt" in succeeded(large.run("move-database", postgres.url(database))).stdout


@pytest.fixture
def stopped_elsewhere(created: Master, tmp_path: Path) -> Master:
    basedir = tmp_path / "other"
    shutil.copytree(created.basedir, basedir)
    return Master(basedir)


def test_a_move_whose_last_step_failed_goes_on(
    unmoved: Master, postgres: Postgres, database: str
) -> None:
    (unmoved.basedir / ".litebot.toml.new").mkdir()  # in the way of the new litebot.toml
    refuses(unmoved, postgres.url(database), "litebot.toml can't be written")
    (unmoved.basedir / ".litebot.toml.new").rmdir()
    done = succeeded(unmoved.run("move-database", postgres.url(database)))
    found = re.search(r"moved (\d+) rows .*, (\d+) of them in an earlier attempt", done.stdout)
    assert found, done.stdout
    assert found[1] == found[2]


def test_what_was_moved_to_is_never_overwritten(
    unmoved: Master, postgres: Postgres, database: str
) -> None:
    """Not even where the last step failed, and somebody has used it since."""
    (unmoved.basedir / ".litebot.toml.new").mkdir()
    refuses(unmoved, postgres.url(database), "litebot.toml can't be written")
    postgres.execute(database, "INSERT INTO users (identifier) VALUES ('new')")
    refuses(unmoved, postgres.url(database), "table users, row uid=1 is in", "and not in")
    change(unmoved.state_file, "INSERT INTO users (identifier) VALUES ('other')")
    refuses(unmoved, postgres.url(database), "holds tables (alembic_version, ...)")
    assert postgres.rows(database, "SELECT identifier FROM users") == [("new",)]


# refusals


@pytest.fixture
def unmoved(created: Master, tmp_path: Path) -> Master:
    """A new master's basedir; a refusal must leave it as it is."""
    basedir = tmp_path / "ci"
    shutil.copytree(created.basedir, basedir)
    return Master(basedir)


def refuses(master: Master, url: str, *expected: str, **kwargs: Any) -> None:
    """Check that a move is refused with these words and that nothing has changed."""
    before = master.contents()
    done = master.run("move-database", url, **kwargs)
    assert done.returncode == 1
    for text in expected:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert master.contents() == before


def test_a_running_master_is_not_moved(stopped: Master, postgres: Postgres, database: str) -> None:
    stopped.start()
    done = stopped.run("move-database", postgres.url(database))
    assert done.returncode == 1
    assert f"master with pid {stopped.pid}; a move needs it stopped" in done.stderr
    assert f"litebot stop {stopped.basedir}" in done.stderr
    assert postgres.rows(database, TABLES) == []


def test_a_target_that_holds_something_is_left_alone(
    unmoved: Master, postgres: Postgres, database: str
) -> None:
    postgres.execute(database, "CREATE TABLE accounts AS SELECT 1 AS id")
    refuses(unmoved, postgres.url(database), f"/{database}?host", "holds tables (accounts)")
    assert postgres.rows(database, "SELECT id FROM accounts") == [(1,)]
    assert postgres.rows(database, TABLES) == [("accounts",)]
    copy = unmoved.basedir / "other.sqlite"
    shutil.copy(unmoved.state_file, copy)
    refuses(unmoved, "sqlite:///other.sqlite", f"{copy} holds tables (alembic_version, ...)")


def test_a_database_is_not_moved_onto_itself(
    unmoved: Master, postgres: Postgres, database: str
) -> None:
    itself = f"is the database of {unmoved.basedir} itself"
    refuses(unmoved, "sqlite:///state.sqlite", itself)
    refuses(unmoved, f"sqlite:///{unmoved.state_file}", itself)
    succeeded(unmoved.run("move-database", postgres.url(database)))
    refuses(unmoved, postgres.url(database), itself)
    refuses(unmoved, f"{postgres.url(database)}&application_name=again", itself)


def test_a_database_that_somebody_uses_is_not_moved_away(
    unmoved: Master, postgres: Postgres, database: str
) -> None:
    """Another master of the same database has a basedir, and a lock, of its own."""
    succeeded(unmoved.run("move-database", postgres.url(database)))
    with postgres.connect(database) as conn:
        pid = f"server process {conn.info.backend_pid} of user bench"
        refuses(unmoved, "sqlite:///state.sqlite", "is open in another program", pid)
    succeeded(unmoved.run("move-database", "sqlite:///state.sqlite"))


def test_sessions_of_other_roles_are_seen_by_a_plain_one(
    unmoved: Master, postgres: Postgres
) -> None:
    """Of those the server tells it little more than that they are there."""
    role = postgres.new_role()
    database = postgres.new_database(f"OWNER {role}")
    url = postgres.url(database, role)
    succeeded(unmoved.run("move-database", url))
    with postgres.connect(database) as conn:
        pid = f"server process {conn.info.backend_pid} of user {USER}"
        refuses(unmoved, "sqlite:///state.sqlite", "is open in another program", pid, "hidden")
    # What streams it to a replica writes nothing.
    with postgres.connect(database, replication="database"):
        succeeded(unmoved.run("move-database", "sqlite:///state.sqlite"))


def test_without_psycopg_the_extra_is_named(unmoved: Master) -> None:
    code = "import sys; sys.modules['psycopg'] = None; from litebot.cli.main import main; main()"
    before = unmoved.contents()
    arguments = ("move-database", "postgresql://ci@db/ci", unmoved.basedir)
    done = run(sys.executable, "-c", code, *arguments)
    assert done.returncode == 1
    assert "postgresql://ci@db/ci needs psycopg 3" in done.stderr
    assert "Try: pip install 'litebot[postgres]'" in done.stderr
    assert unmoved.contents() == before


def test_what_the_server_says_is_told(unmoved: Master, postgres: Postgres) -> None:
    (port,) = free_ports(1)
    nobody = f"postgresql://ci@127.0.0.1:{port}/ci"
    refuses(unmoved, nobody, nobody, "Connection refused")
    refuses(unmoved, postgres.url("absent"), 'database "absent" does not exist')


def test_a_password_is_found_where_it_belongs_and_never_shown(
    unmoved: Master, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    url = postgres.tcp_url(database)
    postgres.execute("postgres", "ALTER ROLE bench PASSWORD 'hunter2'")
    told = url.replace("bench@", "bench:hunter2@")
    refuses(unmoved, told, "it must not hold a password")
    assert "hunter2" not in unmoved.run("move-database", told).stderr
    refuses(unmoved, url, "no password supplied")
    secret = unmoved.basedir / "secrets" / "database-password"
    secret.write_text("hunter3\n", encoding="utf-8")
    refuses(unmoved, url, "password authentication failed")
    assert "hunter3" not in unmoved.run("move-database", url).stderr
    secret.write_text("hunter2\n", encoding="utf-8")
    done = succeeded(unmoved.run("move-database", url))
    assert "hunter2" not in done.stdout + done.stderr
    assert "hunter2" not in (unmoved.basedir / "litebot.toml").read_text(encoding="utf-8")
    secret.chmod(0o600)  # Buildbot reads no secrets that others can read
    unmoved.start()
    assert "hunter2" not in unmoved.log
    unmoved.stop()
    secret.unlink()
    env = {"PATH": "/usr/bin:/bin", "PGPASSWORD": "hunter2"}
    succeeded(unmoved.run("move-database", "sqlite:///state.sqlite", env=env))


def test_a_server_of_another_encoding_is_refused(unmoved: Master, postgres: Postgres) -> None:
    latin = postgres.new_database("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    refuses(unmoved, postgres.url(latin), "has the encoding LATIN1", "createdb --encoding=UTF8")
    assert postgres.rows(latin, TABLES) == []


def test_tables_of_an_older_buildbot_are_not_moved(
    unmoved: Master, postgres: Postgres, database: str
) -> None:
    change(unmoved.state_file, "UPDATE alembic_version SET version_num = '068'")
    refuses(
        unmoved,
        postgres.url(database),
        "has not the tables of this Buildbot",
        f"litebot upgrade-master {unmoved.basedir}",
    )
    assert postgres.rows(database, TABLES) == []


A_LOG = (
    "INSERT INTO builders (id, name, name_hash) VALUES (1, 'b', 'b')",
    "INSERT INTO masters (id, name, name_hash, active, last_active) VALUES (1, 'm', 'm', 0, 0)",
    "INSERT INTO buildsets (id, submitted_at, complete) VALUES (1, 0, 1)",
    """INSERT INTO buildrequests (id, buildsetid, builderid, complete, submitted_at)
       VALUES (1, 1, 1, 1, 0)""",
    """INSERT INTO builds (id, number, builderid, buildrequestid, masterid, started_at,
           state_string, locks_duration_s) VALUES (1, 1, 1, 1, 1, 0, '', 0)""",
    """INSERT INTO steps (id, number, name, buildid, state_string, urls_json, hidden)
       VALUES (1, 1, 's', 1, '', '[]', 0)""",
    """INSERT INTO logs (id, name, slug, stepid, complete, num_lines, type)
       VALUES (1, 'l', 'l', 1, 1, 4000, 's')""",
)
CHANGE = (
    "INSERT INTO sourcestamps (id, ss_hash, created_at) VALUES (1, 'a', 0)",
    """INSERT INTO changes (changeid, author, comments, when_timestamp, sourcestampid)
       VALUES (5, 'Ada', 'fine', 0, 1)""",
)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "UPDATE changes SET comments = 'a' || char(0) || 'b'",
            "table changes, row changeid=5: column comments holds a NUL character",
        ),
        (
            "UPDATE changes SET author = printf('%.*c', 256, 'x')",
            "row changeid=5: column author is longer than 255 characters",
        ),
        (
            "UPDATE changes SET comments = CAST(x'c3a4' AS BLOB)",
            "row changeid=5: column comments is no text",
        ),
        (
            "UPDATE changes SET when_timestamp = 3000000000",
            "row changeid=5: column when_timestamp is an integer of more than 32 bits",
        ),
        (
            "UPDATE changes SET when_timestamp = 'noon'",
            "row changeid=5: column when_timestamp is no integer",
        ),
    ],
)
def test_what_postgres_cannot_take_is_named_and_can_be_mended(
    statement: str, expected: str, unmoved: Master, postgres: Postgres, database: str
) -> None:
    change(unmoved.state_file, *CHANGE, statement)
    refuses(unmoved, postgres.url(database), expected, "UPDATE changes SET")
    assert postgres.rows(database, TABLES) == []
    said = unmoved.run("move-database", postgres.url(database)).stderr
    (command,) = re.findall(r"again: (python -m apsw .*)", said)
    command = command.replace("= ...", "= 42").replace("python ", f"{sys.executable} ", 1)
    succeeded(run("sh", "-c", command))
    succeeded(unmoved.run("move-database", postgres.url(database)))


def test_text_that_is_not_utf8_is_named(unmoved: Master, postgres: Postgres, database: str) -> None:
    """Half a surrogate pair, as other programs may have stored it, has bytes that UTF-8 has not."""
    surrogate = "UPDATE changes SET comments = CAST(x'61eda080' AS TEXT)"
    change(unmoved.state_file, *CHANGE, surrogate)
    refuses(
        unmoved,
        postgres.url(database),
        "table changes, row changeid=5: column comments is not UTF-8: byte 0xed at 1",
    )
    change(unmoved.state_file, "UPDATE changes SET comments = 'mended'")
    succeeded(unmoved.run("move-database", postgres.url(database)))


def test_a_row_that_refers_to_nothing_is_named(
    unmoved: Master, postgres: Postgres, database: str
) -> None:
    change(unmoved.state_file, *CHANGE, "UPDATE changes SET sourcestampid = 77")
    refuses(
        unmoved,
        postgres.url(database),
        "row changeid=5: column sourcestampid refers to sourcestamps 77, which is not there",
        f"litebot copy-db --ignore-fk-error-rows sqlite:///whole.sqlite {unmoved.basedir}",
    )
    assert postgres.rows(database, TABLES) == []
    succeeded(unmoved.run("copy-db", "--ignore-fk-error-rows", "sqlite:///whole.sqlite"))
    unmoved.set("database", "url", "sqlite:///whole.sqlite")
    succeeded(unmoved.run("move-database", postgres.url(database)))


# others that share the old database


@pytest.fixture
def site(postgres: Postgres, tmp_path: Path, watch: Callable[[Master], Master]) -> Site:
    return Site(postgres, tmp_path, watch, 'builder("b", shell("true"))')


@pytest.fixture
def one(site: Site) -> Master:
    """The first of two masters on one Postgres database, that do not run."""
    return site.master("one")


@pytest.fixture
def two(site: Site, one: Master) -> Master:
    return site.master("two")


def name_of(url: str) -> str:
    """The name of the database in a url."""
    return url.partition("@/")[2].partition("?")[0]


DYING = """
import os, signal
from litebot.cli.main import main
from litebot.master.moving import move, unfinished
from litebot.master.moving.server import PostgresSide
from litebot.master.moving.sqlite import SqliteSide

def {name}(*args, _call={where}.{name}, **kwargs):
    _call(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

{where}.{name} = {name}
main()
"""
# The last steps of a move, in order.
ANNOUNCED = ("PostgresSide", "announce")
ALL_THERE = ("unfinished", "set_moved")
NAMED = ("move", "set_value")
PUT_ASIDE = ("PostgresSide", "put_aside")


def die_after(step: tuple[str, str], master: Master, url: str) -> None:
    """A move that is killed as soon as it has done this."""
    code = DYING.format(where=step[0], name=step[1])
    done = run(sys.executable, "-c", code, "move-database", url, master.basedir)
    assert done.returncode == -signal.SIGKILL, done.stderr


def refused_to_start(master: Master, *expected: str, url: str = "") -> None:
    """Check that a master refuses its database, or the one that it is given, with these words."""
    before = url_of(master)
    if url:
        master.set("database", "url", url)
    done = master.run("start")
    assert done.returncode == 1
    for text in expected:
        assert unquote(text) in unquote(done.stderr)
    assert "Traceback" not in done.stderr
    master.set("database", "url", before)


def test_the_other_masters_are_told_where_their_database_is(
    site: Site, one: Master, two: Master, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    url = postgres.url(database)
    succeeded(one.run("move-database", url))
    went = f"was moved to {url} on "
    remedy = f'Try: write url = "{url}" under [database] in litebot.toml'
    refused_to_start(two, f"{site.url} {went}", f"by the master {os.uname().nodename}:", remedy)
    for command in ("cleanupdb", "upgrade-master", "move-database"):
        arguments = [postgres.url(postgres.new_database())] if command == "move-database" else []
        done = two.run(command, *arguments)
        assert done.returncode == 1
        assert went in unquote(done.stderr)
    for option in ("--join", "--database"):
        done = litebot("create-master", option, site.url, tmp_path / "three")
        assert done.returncode == 1
        assert went in unquote(done.stderr)
    assert site.rows("SELECT 1 FROM litebot_starts") == []
    # What only reads may go on.
    assert succeeded(two.run("check")).stdout == "nothing is wrong\n"
    succeeded(two.run("copy-db", "sqlite:///copy.sqlite"))

    two.set("database", "url", url)
    two.start()
    succeeded(two.force("b"))
    assert postgres.rows(database, "SELECT results FROM builds") == [(SUCCESS,)]
    succeeded(litebot("create-master", "--join", url, tmp_path / "three"))


def test_a_file_that_the_database_went_to_has_one_master(
    site: Site, one: Master, two: Master
) -> None:
    succeeded(one.run("move-database", "sqlite:///state.sqlite"))
    went = f"{site.url} was moved to sqlite:///{one.state_file} on "
    refused_to_start(two, went, f": litebot start {one.basedir}   (a file has one master)")


def test_the_way_back_is_to_an_empty_database(
    site: Site, one: Master, two: Master, postgres: Postgres, database: str
) -> None:
    succeeded(one.run("move-database", postgres.url(database)))
    refuses(one, site.url, "holds tables (alembic_version, ...)", "remove or rename this one")
    name = name_of(site.url)
    postgres.execute("postgres", f"DROP DATABASE {name}")
    postgres.execute("postgres", f"CREATE DATABASE {name} TEMPLATE template0")
    succeeded(one.run("move-database", site.url))
    two.start()
    succeeded(two.force("b"))


def test_whoever_wants_the_old_state_removes_the_table(
    site: Site, one: Master, postgres: Postgres, database: str
) -> None:
    succeeded(one.run("move-database", postgres.url(database)))
    refused_to_start(one, "was moved to", url=site.url)
    name = name_of(site.url)
    postgres.execute(name, "DROP TABLE litebot_moved")
    one.set("database", "url", site.url)
    one.start()


@pytest.mark.parametrize("step", [ANNOUNCED, ALL_THERE, NAMED, PUT_ASIDE])
def test_what_was_killed_at_its_end_is_ended(
    step: tuple[str, str], site: Site, one: Master, two: Master, postgres: Postgres, database: str
) -> None:
    url = postgres.url(database)
    die_after(step, one, url)
    assert url_of(one) == (site.url if step in (ANNOUNCED, ALL_THERE) else url)
    command = f": litebot move-database '{url}' {one.basedir}   (ends it)"
    if step == PUT_ASIDE:
        refused_to_start(two, f"{site.url} was moved to {url}")
    else:
        refused_to_start(two, f"{site.url} is being moved to {url}", command)
    refused_to_start(two, f"{url} holds an unfinished move of {site.url}", command, url=url)

    ended = succeeded(one.run("move-database", url))
    is_late = "all rows were moved by an earlier attempt, which is ended now"
    assert (is_late in ended.stdout) == (step in (NAMED, PUT_ASIDE))
    assert f"the old database is {site.url}" in unquote(ended.stdout)
    assert url_of(one) == url
    refused_to_start(two, f"{site.url} was moved to {url}")
    tables = {name for (name,) in postgres.rows(database, TABLES)}
    assert tables.isdisjoint({"litebot_move", "litebot_moved"})
    refuses(one, url, f"is the database of {one.basedir} itself")


@pytest.mark.parametrize("step", [ANNOUNCED, ALL_THERE])
def test_a_master_stays_where_its_move_was_killed_before_it_counted(
    step: tuple[str, str], site: Site, one: Master, two: Master, postgres: Postgres, database: str
) -> None:
    url = postgres.url(database)
    die_after(step, one, url)
    one.start()
    refused_to_start(two, f"{url} holds an unfinished move", url=url)
    two.start()
    succeeded(two.force("b"))
    assert site.rows("SELECT results FROM builds") == [(SUCCESS,)]


def test_a_master_is_moved_where_its_move_was_killed_after_that(
    site: Site, one: Master, two: Master, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    url = postgres.url(database)
    die_after(NAMED, one, url)
    one.start()
    succeeded(one.force("b"))
    refused_to_start(two, f"{site.url} is being moved to {url}")
    one.stop()
    succeeded(one.run("move-database", url))
    refused_to_start(two, f"{site.url} was moved to {url}")
    succeeded(litebot("create-master", "--join", url, tmp_path / "three"))


def test_a_state_file_is_put_aside_late(unmoved: Master, postgres: Postgres, database: str) -> None:
    url = postgres.url(database)
    die_after(NAMED, unmoved, url)
    assert unmoved.state_file.exists()
    ended = succeeded(unmoved.run("move-database", url))
    assert f"the old database is {put_aside(unmoved)}" in ended.stdout
    assert not unmoved.state_file.exists()


def test_an_old_database_that_is_another_ones_by_now_is_left_alone(
    site: Site, one: Master, two: Master, postgres: Postgres, database: str
) -> None:
    url = postgres.url(database)
    die_after(NAMED, one, url)
    name = name_of(site.url)
    postgres.execute(name, "DROP TABLE litebot_moved")
    postgres.execute(name, "INSERT INTO users (identifier) VALUES ('new')")
    succeeded(one.run("move-database", url))
    two.start()


def test_a_database_that_is_opened_meanwhile_is_not_moved_away(
    site: Site, one: Master, two: Master, postgres: Postgres, database: str
) -> None:
    """A master that starts while rows are compared has not read that it is moved."""
    code = f"""
import psycopg
from litebot.cli.main import main
from litebot.master.moving.server import PostgresSide

def announce(*args, _call=PostgresSide.announce):
    global conn
    conn = psycopg.connect({site.url!r}, application_name="late")
    _call(*args)

PostgresSide.announce = announce
main()
"""
    url = postgres.url(database)
    done = run(sys.executable, "-c", code, "move-database", url, one.basedir)
    assert done.returncode == 1
    assert "is open in another program" in done.stderr
    assert "(late, on this machine)" in done.stderr
    two.start()  # as nothing has come of it
    two.stop()


def test_a_master_that_was_cut_off_meanwhile_stops(
    site: Site, one: Master, two: Master, postgres: Postgres, database: str
) -> None:
    proxy = Proxy(postgres.folder, postgres.port)
    name = name_of(site.url)
    two.set("database", "url", proxy.url(USER, name))
    try:
        two.start()
        proxy.cut()
        wait_for(lambda: two.status()["outage"], "it to notice")
        postgres.rows("postgres", END_SESSIONS.format(name))
        url = postgres.url(database)
        succeeded(one.run("move-database", url))
        proxy.mend()
        wait_for(lambda: not is_running(two.pid), "it to stop")
        assert f"was moved to {url} on" in two.log
    finally:
        two.end()
        proxy.close()


# size

# Not ru_maxrss: that begins with the size of the process which forked this one.
MEASURED = """
import re
from litebot.cli.main import litebot
litebot(standalone_mode=False)
with open("/proc/self/status") as status:
    print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
"""


NUMBERS = """WITH RECURSIVE numbers(n) AS (
    SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT {count}
)"""
CHUNKS = "INSERT INTO logchunks SELECT 1, n, n, randomblob(64 * 1024), 0 FROM numbers"
PROPERTIES = """
    INSERT INTO build_properties SELECT 1, 'name ' || n, '"value ' || n || '"', 'test' FROM numbers
"""


@pytest.mark.parametrize(
    ("rows", "count"), [(CHUNKS, 4_000), (PROPERTIES, 300_000)], ids=["chunks", "small"]
)
def test_memory_does_not_grow_with_what_is_moved(
    rows: str, count: int, unmoved: Master, postgres: Postgres, database: str
) -> None:
    db = apsw.Connection(str(unmoved.state_file))
    with db:
        for statement in A_LOG:
            db.execute(statement)
        db.execute(NUMBERS.format(count=count) + rows)
    db.close()
    for url in (postgres.url(database), "sqlite:///state.sqlite"):
        arguments = ("move-database", url, unmoved.basedir)
        done = succeeded(run(sys.executable, "-c", MEASURED, *arguments))
        (peak_kib,) = re.findall(r"peak (\d+)", done.stdout)
        assert int(peak_kib) < 200 * 1024
