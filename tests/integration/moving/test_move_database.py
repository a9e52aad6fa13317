"""litebot move-database: everything arrives, and the master goes on there."""

from __future__ import annotations

import base64
import os
import pty
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
import sqlalchemy as sa
from buildbot.db.logs import LogsConnectorComponent

from bench.history import load_builds
from litebot.master.admin.move.postgres_side import PostgresSide
from litebot.master.admin.move.sqlite_side import SqliteSide
from litebot.master.admin.move.tables import Column
from litebot.master.admin.move.tables import Moved
from litebot.master.admin.move.tables import all_tables
from litebot.master.db import schema
from support.commands import LITEBOT
from support.commands import begin
from support.commands import succeeded
from support.master import SUCCESS
from support.master import Master
from support.moving import TABLES
from support.moving import digests
from support.moving import put_aside
from support.moving import url_of
from support.postgres import Postgres

VERSION = "litebot_schema"


def rest_answers(master: Master) -> dict[str, Any]:
    """What the REST API says of all builds, and their logs."""
    answers: dict[str, Any] = {}
    visitor = master.visitor()
    for path in ("builds", "buildsets", "buildrequests", "sourcestamps", "changes"):
        answers[path] = visitor.rest(path)
    for build in answers["builds"]["builds"]:
        path = f"builds/{build['buildid']}"
        for part in ("properties", "changes", "steps"):
            answers[f"{path}/{part}"] = visitor.rest(f"{path}/{part}")
        for step in answers[f"{path}/steps"]["steps"]:
            for log in visitor.rest(f"steps/{step['stepid']}/logs")["logs"]:
                raw = visitor.request("GET", f"/api/v2/logs/{log['logid']}/raw")
                answers[f"log {log['logid']}"] = raw.body
    return answers


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


def test_after_a_move_back_the_master_has_its_history_and_builds_on(
    stopped: Master, postgres: Postgres, database: str
) -> None:
    stopped.start()
    answers = rest_answers(stopped)
    stopped.stop()
    parents = {buildset["parent_buildid"] for buildset in answers["buildsets"]["buildsets"]}
    rebuilt = {buildset["rebuilt_buildid"] for buildset in answers["buildsets"]["buildsets"]}
    assert len(parents) > 1
    assert len(rebuilt) > 1
    succeeded(stopped.run("move-database", postgres.url(database)))
    succeeded(stopped.run("move-database", "sqlite:///state.sqlite"))
    stopped.start()
    assert rest_answers(stopped) == answers
    assert stopped.force("hello").returncode == 0


def test_a_moved_master_runs_on_postgres_and_takes_its_builds_back(
    stopped: Master, postgres: Postgres, database: str
) -> None:
    stopped.start()
    answers = rest_answers(stopped)
    stopped.stop()
    succeeded(stopped.run("move-database", postgres.url(database)))
    stopped.start()
    assert rest_answers(stopped) == answers
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
