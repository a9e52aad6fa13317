"""Moves of a database that are interrupted go on, and nothing is lost."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import apsw
import pytest
from psycopg.errors import UndefinedTable

from bench.history import load_builds
from litebot.master.admin.move.postgres_side import PostgresSide
from litebot.master.admin.move.sqlite_side import SqliteSide
from support.commands import LITEBOT
from support.commands import begin
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import Master
from support.moving import END_SESSIONS
from support.moving import change
from support.moving import digests
from support.moving import put_aside
from support.moving import refuses
from support.moving import url_of
from support.postgres import Postgres

# 220,000 rows: long enough to be interrupted.
MANY_BUILDS = 10_000


@pytest.fixture
def large(created: Master, tmp_path: Path) -> Master:
    """A master with so much history that a move of it can be interrupted."""
    basedir = tmp_path / "ci"
    shutil.copytree(created.basedir, basedir)
    load_builds(basedir / "state.sqlite", MANY_BUILDS)
    return Master(basedir)


# How far a move is: a query that finds something then.
COPYING = "SELECT 1 FROM build_properties LIMIT 1"


INDEXING = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE %INDEX %' LIMIT 1"


COMPARING = "SELECT 1 FROM litebot_move WHERE later = '[]' AND state = 'copying'"


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
from litebot.master.admin.move.{module} import {side}

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
    module, side = "sqlite_side", "SqliteSide"
    write = f"import apsw; apsw.Connection({source!r}).execute({NEW_USER!r})"
    if back:
        succeeded(unmoved.run("move-database", url))
        url, source = "sqlite:///state.sqlite", url
        module, side = "postgres_side", "PostgresSide"
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
