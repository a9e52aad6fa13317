"""litebot create-master --join and --like: a further master on the database of others."""

from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import unquote

import psycopg
import pytest

from litebot.settings import load
from litebot.settings import set_value
from support.commands import litebot
from support.commands import succeeded
from support.master import Master
from support.postgres import Postgres


@pytest.fixture
def url(postgres: Postgres) -> str:
    """An empty database."""
    return postgres.url(postgres.new_database())


@pytest.fixture
def first(url: str, tmp_path: Path) -> Path:
    """The basedir of a master on it."""
    basedir = tmp_path / "ci"
    succeeded(litebot("create-master", "--database", url, basedir))
    return basedir


def refused(tmp_path: Path, *options: str | Path) -> str:
    """Check that nothing is made; what is said."""
    done = litebot("create-master", *options, tmp_path / "ci2")
    assert done.returncode == 1
    assert not (tmp_path / "ci2").exists()
    return unquote(done.stderr)


def test_a_database_without_masters_is_not_joined(url: str, tmp_path: Path) -> None:
    said = refused(tmp_path, "--join", url)
    assert "holds no master's tables, so there is nothing to join" in said
    assert f"Try: litebot create-master --database '{url}' BASEDIR" in said


def test_an_unfinished_move_is_not_joined(
    first: Path, url: str, postgres: Postgres, tmp_path: Path
) -> None:
    postgres.execute(url.partition("@/")[2].partition("?")[0], "CREATE TABLE litebot_move (a int)")
    assert "holds an unfinished move" in refused(tmp_path, "--join", url)


@pytest.mark.parametrize("running", ["bench", "stranger"])
def test_who_can_not_end_the_connections_of_the_others_is_refused(
    running: str, first: Path, url: str, postgres: Postgres, tmp_path: Path
) -> None:
    postgres.execute("postgres", "DROP ROLE IF EXISTS stranger")
    postgres.execute("postgres", "CREATE ROLE stranger LOGIN")
    other = {"bench": "stranger", "stranger": "bench"}[running]
    set_value(first / "litebot.toml", "database.url", url.replace("bench@", f"{running}@"))
    with psycopg.connect(url, user=running, application_name="litebot master 1"):
        said = refused(tmp_path, "--join", url.replace("bench@", f"{other}@"))
        assert f"connects as the user {running}, and this one would as {other};" in said
        if running == "stranger":
            set_value(first / "litebot.toml", "database.url", url)
            started = litebot("start", first)
            assert started.returncode == 1
            assert "connects as the user stranger" in started.stderr
    succeeded(litebot("create-master", "--join", url, tmp_path / "ci2"))


def test_a_state_file_is_not_shared(created: Master, tmp_path: Path) -> None:
    assert "is a file, which one master can have" in refused(tmp_path, "--join", "sqlite:///a")
    said = refused(tmp_path, "--like", created.basedir)
    assert f"{created.basedir} keeps its state in a file, which one master can have" in said
    assert f"Try: litebot move-database postgresql://USER@HOST/NAME {created.basedir}" in said


def test_one_joins_or_has_a_database_of_its_own(url: str, tmp_path: Path) -> None:
    done = litebot("create-master", "--join", url, "--database", url, tmp_path / "ci2")
    assert done.returncode == 2
    assert "joins others or has a database of its own" in done.stderr


def test_what_masters_have_alike_is_copied(first: Path, url: str, tmp_path: Path) -> None:
    (first / "master.cfg").write_text("from steps import c\n")
    (first / "steps.py").write_text("c = {}\n")
    (first / "secrets" / "token").write_text("secret")
    (first / "users").chmod(0o600)
    set_value(first / "litebot.toml", "web.url", "https://ci.example.org/")
    set_value(first / "litebot.toml", "stop.grace", 7)
    other = tmp_path / "ci2"
    done = succeeded(litebot("create-master", "--like", first, other))
    assert f"Next: litebot start {other}" in done.stdout
    for name in ("master.cfg", "steps.py", "secrets/token", "users"):
        assert (other / name).read_bytes() == (first / name).read_bytes()
        assert stat.S_IMODE((other / name).stat().st_mode) == stat.S_IMODE(
            (first / name).stat().st_mode
        )
    assert stat.S_IMODE((other / "secrets").stat().st_mode) == 0o700
    theirs, ours = load(first / "litebot.toml"), load(other / "litebot.toml")
    assert (ours.database.url, ours.stop.grace, ours.web.url) == (url, 7, "")
    assert ours.web.port > theirs.web.port
    assert ours.workers.port > theirs.workers.port
    assert sorted(path.name for path in other.iterdir()) == [
        *("buildbot.tac", "litebot.toml", "master.cfg", "secrets", "steps.py", "users")
    ]


def test_without_another_basedir_it_is_said_what_to_copy(
    first: Path, url: str, tmp_path: Path
) -> None:
    other = tmp_path / "ci2"
    done = succeeded(litebot("create-master", "--join", url, other))
    assert "Copy from another master: master.cfg with its modules, users, secrets/" in done.stdout
    assert load(other / "litebot.toml").database.url == url
    names = sorted(path.name for path in other.iterdir())
    assert names == ["buildbot.tac", "litebot.toml", "secrets"]
