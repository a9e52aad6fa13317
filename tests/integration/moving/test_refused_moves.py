"""Moves of a database that are refused: nothing is changed, and a remedy is named."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import apsw
import pytest

from bench.postgres import USER
from support.commands import run
from support.commands import succeeded
from support.master import Master
from support.moving import TABLES
from support.moving import change
from support.moving import refuses
from support.ports import free_ports
from support.postgres import Postgres


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
        "does not have the tables of this Buildbot",
        f"litebot upgrade-master {unmoved.basedir}",
    )
    assert postgres.rows(database, TABLES) == []


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


def test_a_copy_on_a_server_is_checked_and_numbered_like_a_move(
    unmoved: Master, postgres: Postgres, database: str
) -> None:
    url = postgres.url(database)
    change(unmoved.state_file, *CHANGE)
    db = apsw.Connection(str(unmoved.state_file))
    columns = [row[1] for row in db.execute("PRAGMA table_info(changes)")]
    db.close()
    values = ["6" if c == "changeid" else "77" if c == "sourcestampid" else c for c in columns]
    orphan = f"INSERT INTO changes SELECT {', '.join(values)} FROM changes"
    change(unmoved.state_file, orphan)
    before = unmoved.contents()
    refused = unmoved.run("copy-db", url)
    assert refused.returncode == 1
    assert "row changeid=6: column sourcestampid refers to sourcestamps 77" in refused.stderr
    assert postgres.rows(database, TABLES) == []

    succeeded(unmoved.run("copy-db", "--ignore-fk-error-rows", url))
    assert unmoved.contents() == before
    assert postgres.rows(database, "SELECT changeid, author FROM changes") == [(5, "Ada")]
    added = (
        "INSERT INTO changes (author, comments, when_timestamp, sourcestampid)"
        " VALUES ('Eve', 'new', 0, 1) RETURNING changeid"
    )
    assert postgres.rows(database, added) == [(6,)]
    again = unmoved.run("copy-db", url)
    assert again.returncode == 1
    assert "holds tables (alembic_version, ...)" in again.stderr
