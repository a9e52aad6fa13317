"""Moves of a database that several masters share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from bench.postgres import USER
from support.commands import is_running
from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import SUCCESS
from support.master import Master
from support.moving import END_SESSIONS
from support.moving import TABLES
from support.moving import put_aside
from support.moving import refuses
from support.moving import url_of
from support.postgres import Postgres
from support.proxy import Proxy
from support.several import Site


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
from litebot.master.admin.move import move, unfinished
from litebot.master.admin.move.postgres_side import PostgresSide
from litebot.master.admin.move.sqlite_side import SqliteSide

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
from litebot.master.admin.move.postgres_side import PostgresSide

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
    proxy = Proxy(postgres.socket)
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
        proxy.close()
