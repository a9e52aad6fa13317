"""litebot create-master --database: a master that begins on Postgres."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from bench.postgres import USER
from bench.postgres import programs
from litebot.errors import StoreError
from litebot.master.admin.create_tables import tables_made
from support.commands import LITEBOT
from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import Master
from support.ports import free_ports
from support.postgres import Postgres

TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
# Whoever makes the table waits for a lock, with the tables before it made.
HOLDS_BUILDS = """
    CREATE SCHEMA holding;
    CREATE FUNCTION holding.hold() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        IF EXISTS (
            SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'public.builds'
        ) THEN PERFORM pg_advisory_xact_lock(hashtext('held')); END IF;
    END $$;
    CREATE EVENT TRIGGER hold ON ddl_command_end EXECUTE FUNCTION holding.hold();
"""
# Whoever makes tables is refused as the last thing of all.
REFUSES_COMMIT = """
    CREATE SCHEMA refusing;
    CREATE TABLE refusing.made (command text);
    CREATE FUNCTION refusing.note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO refusing.made VALUES (tg_tag);
    END $$;
    CREATE FUNCTION refusing.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE 'the disk is full' USING ERRCODE = 'disk_full';
    END $$;
    CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON refusing.made DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION refusing.refuse();
    CREATE EVENT TRIGGER note ON ddl_command_end WHEN tag IN ('CREATE TABLE')
        EXECUTE FUNCTION refusing.note();
"""


@pytest.fixture
def database(postgres: Postgres) -> str:
    return postgres.new_database()


def refuses(basedir: Path, url: str, *expected: str, **kwargs: Any) -> str:
    """Check that nothing is made, for a reason that is told in these words; what is said."""
    done = litebot("create-master", "--database", url, basedir, **kwargs)
    assert done.returncode == 1
    for text in expected:
        assert text in unquote(done.stderr)
    assert "Traceback" not in done.stderr
    assert not basedir.exists()
    assert not list(basedir.parent.glob(f".{basedir.name}*"))
    return done.stderr


def test_a_new_master_builds_at_once(
    postgres: Postgres, database: str, watch: Callable[[Master], Master], tmp_path: Path
) -> None:
    master = watch(Master(tmp_path / "ci"))
    done = master.create("--database", postgres.url(database))
    assert f"Next: litebot start {master.basedir}" in done.stdout
    assert not master.state_file.exists()
    assert f'url = "{postgres.url(database)}"' in (master.basedir / "litebot.toml").read_text()
    master.start()
    assert master.force("hello").returncode == 0
    assert postgres.rows(database, "SELECT results FROM builds") == [(0,)]


def test_a_name_may_need_to_be_encoded(
    postgres: Postgres, watch: Callable[[Master], Master], tmp_path: Path
) -> None:
    postgres.execute("postgres", 'DROP DATABASE IF EXISTS "our 5% ci"')
    url = postgres.url("our%205%25%20ci")
    refuses(tmp_path / "ci", url, 'database "our 5% ci" does not exist', "'our 5% ci'")
    postgres.execute("postgres", 'CREATE DATABASE "our 5% ci"')
    master = watch(Master(tmp_path / "ci"))
    master.create("--database", url)
    master.start()
    assert master.status()["running"]
    assert postgres.rows("our 5% ci", "SELECT count(*) FROM masters") == [(1,)]


def test_a_standby_may_be_named_first(postgres: Postgres, database: str, tmp_path: Path) -> None:
    with postgres.standby() as standby:
        hosts = "&".join(f"host={each.folder}:{each.port}" for each in (standby, postgres))
        url = f"postgresql://{USER}@/{database}?{hosts}"
        succeeded(litebot("create-master", "--database", url, tmp_path / "ci"))
        succeeded(litebot("check", tmp_path / "ci"))


def test_a_database_with_a_master_is_left_to_it(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    url = postgres.url(database)
    succeeded(litebot("create-master", "--database", url, tmp_path / "ci"))
    there = postgres.rows(database, TABLES)
    join = f"litebot create-master --join '{url}' BASEDIR"
    refuses(tmp_path / "other", url, "holds the tables of a master already", f"Try: {join}")
    # Buildbot's name of the option, and its names of drivers.
    url = url.replace("postgresql:", "postgresql+psycopg2:")
    done = litebot("create-master", "--db", url, tmp_path / "other")
    assert "holds the tables of a master already" in done.stderr
    assert postgres.rows(database, TABLES) == there


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("accounts", "holds tables (accounts); a new master needs an empty database"),
        ("alembic_version", "holds the tables of a stock Buildbot"),
        ("litebot_move", "holds an unfinished move of a database"),
    ],
)
def test_a_database_that_holds_something_else_is_left_alone(
    table: str, said: str, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    postgres.execute(database, f"CREATE TABLE {table} AS SELECT 1 AS id")
    with pytest.raises(StoreError, match=re.escape(said)):
        with tables_made(postgres.url(database), tmp_path, must_be_empty=True):
            pass
    with tables_made(postgres.url(database), tmp_path, must_be_empty=False) as made:
        assert not made
    assert postgres.rows(database, TABLES) == [(table,)]


def test_two_sites_in_one_database_are_refused(
    postgres: Postgres, database: str, watch: Callable[[Master], Master], tmp_path: Path
) -> None:
    master = watch(Master(tmp_path / "ci"))
    master.create("--database", postgres.url(database))
    postgres.execute(database, "CREATE SCHEMA other")
    url = f"{postgres.url(database)}&options=-csearch_path%3Dother"
    said = "holds the tables of a master, too"
    refuses(tmp_path / "other", url, "the schema public of postgresql:", said, "Try: createdb")
    postgres.execute(database, "CREATE TABLE other.litebot_starts (id int)")
    started = master.run("start")
    assert started.returncode == 1
    assert "the schema other of postgresql:" in started.stderr
    assert said in started.stderr
    postgres.execute(database, "DROP SCHEMA other CASCADE")
    master.start()


def test_a_basedir_that_can_not_be_made_takes_the_tables_along(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    def make_and_fail() -> None:
        with tables_made(postgres.url(database), tmp_path, must_be_empty=True) as made:
            assert made
            tmp_path.mkdir()

    with pytest.raises(FileExistsError):
        make_and_fail()
    assert postgres.rows(database, TABLES) == []


def test_an_interrupted_one_leaves_nothing(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    basedir = tmp_path / "ci"
    command = [LITEBOT, "create-master", "--database", postgres.url(database), str(basedir)]
    with postgres.connect(database) as conn:
        conn.execute(HOLDS_BUILDS)
        conn.execute("BEGIN")
        conn.execute("SELECT pg_advisory_xact_lock(hashtext('held'))")
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_for(lambda: postgres.rows(database, WAITING), "the table of builds to be made")
        process.kill()
        process.wait()
    assert not basedir.exists()
    succeeded(run(*command))
    assert "litebot_schema" in {name for (name,) in postgres.rows(database, TABLES)}


def test_tables_that_are_not_committed_take_the_basedir_along(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    postgres.execute(database, REFUSES_COMMIT)
    url, basedir = postgres.url(database), tmp_path / "ci"
    refuses(basedir, url, "the disk is full")
    basedir.mkdir()  # as a mount point, which stays
    done = litebot("create-master", "--database", url, basedir)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert list(basedir.iterdir()) == []
    assert postgres.rows(database, TABLES) == []
    postgres.execute(database, "DROP EVENT TRIGGER note")
    succeeded(litebot("create-master", "--database", url, basedir))


def test_of_two_at_once_one_is_refused(postgres: Postgres, database: str, tmp_path: Path) -> None:
    url = postgres.url(database)
    with postgres.connect(database) as conn:
        conn.execute("BEGIN")
        conn.execute("SELECT pg_advisory_xact_lock(hashtext('litebot_schema'))")
        both = [
            subprocess.Popen(
                [LITEBOT, "create-master", "--database", url, str(tmp_path / name / "ci")],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in ("one", "other")
        ]
        wait_for(lambda: len(postgres.rows(database, WAITING)) == 2, "both to wait")
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert "holds the tables of a master already" in "".join(said)
    assert len(list(tmp_path.glob("*/ci"))) == 1


def test_force_makes_what_is_missing_and_keeps_what_is_there(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    """As where a create-master was interrupted between its last two steps."""
    basedir = tmp_path / "ci"
    url = postgres.url(database)
    succeeded(litebot("create-master", "--database", url, basedir))
    again = succeeded(litebot("create-master", "--force", basedir))
    assert "has all it needs; nothing was changed" in again.stdout
    postgres.execute("postgres", f"DROP DATABASE {database}")
    postgres.execute("postgres", f"CREATE DATABASE {database}")
    again = succeeded(litebot("create-master", "--force", basedir))
    assert f"added to {basedir}: {url}" in again.stdout
    assert len(postgres.rows(database, TABLES)) > 20


# what the server refuses


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    url = f"postgresql://ci@127.0.0.1:{port}/ci"
    refuses(tmp_path / "ci", url, url, "Connection refused", f"Try: psql '{url}'")


@pytest.mark.parametrize("may_create", [True, False])
def test_a_database_that_is_missing_can_be_created_as_it_says(
    may_create: bool, postgres: Postgres, tmp_path: Path
) -> None:
    postgres.execute("postgres", "DROP DATABASE IF EXISTS nowhere")
    postgres.execute("postgres", "DROP ROLE IF EXISTS anybody")
    postgres.execute("postgres", f"CREATE ROLE anybody LOGIN {'CREATEDB' * may_create}")
    url = postgres.url("nowhere").replace("bench@", "anybody@")
    said = refuses(tmp_path / "ci", url, 'database "nowhere" does not exist')
    found = re.search(r"Try: (as a superuser of the server: )?(createdb .*)", said)
    assert found, said
    assert bool(found[1]) is not may_create
    folder = programs()
    env = {"PATH": f"{folder}:/usr/bin:/bin"} | ({} if may_create else {"PGUSER": "bench"})
    succeeded(run("sh", "-c", found[2], env=env))
    succeeded(litebot("create-master", "--database", url, tmp_path / "ci"))


def test_a_password_that_is_missing_or_wrong(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    postgres.execute("postgres", "ALTER ROLE bench PASSWORD 'hunter2'")
    url, basedir = postgres.tcp_url(database), tmp_path / "ci"
    (home := tmp_path / "home").mkdir()
    env = {**os.environ, "HOME": str(home)}
    said = refuses(basedir, url, "no password supplied", "~/.pgpass", env=env)
    refuses(basedir, url, "password authentication failed", env={**env, "PGPASSWORD": "hunter3"})
    told = url.replace("bench@", "bench:hunter2@")
    assert "hunter2" not in refuses(basedir, told, "--database: the url holds a password", env=env)
    found = re.search(r"Try: (.*), or set", said)
    assert found, said
    succeeded(run("sh", "-c", found[1].replace("PASSWORD", "hunter2"), env=env))
    done = succeeded(litebot("create-master", "--database", url, basedir, env=env))
    assert "hunter2" not in done.stdout + done.stderr


def test_a_role_without_the_right_to_make_tables(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    postgres.execute("postgres", "CREATE ROLE guest LOGIN")
    url = postgres.url(database).replace("bench@", "guest@")
    said = refuses(tmp_path / "ci", url, "permission denied for schema public")
    found = re.search(r"Try: as a superuser of the server: psql -c '(.*)'", said)
    assert found, said
    postgres.execute("postgres", found[1])
    succeeded(litebot("create-master", "--database", url, tmp_path / "ci"))


def test_a_database_that_does_not_hold_every_text(postgres: Postgres, tmp_path: Path) -> None:
    latin = postgres.new_database("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    refuses(tmp_path / "ci", postgres.url(latin), "has the encoding LATIN1", "Try: createdb")


def test_without_psycopg_the_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['psycopg'] = None; from litebot.cli.main import main; main()"
    arguments = ("create-master", "--database", "postgresql://ci@db/ci", tmp_path / "ci")
    done = run(sys.executable, "-c", code, *arguments)
    assert done.returncode == 1
    assert "postgresql://ci@db/ci needs psycopg 3" in done.stderr
    assert "Try: pip install 'litebot[postgres]'" in done.stderr
    assert not list(tmp_path.iterdir())
