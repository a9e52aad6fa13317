"""Masters on one Postgres: events of one reach the others, and a dead one is found."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.postgres import USER
from litebot.master.cluster.peers import CONFIRM_S
from litebot.master.cluster.peers import MASTER_LOCK
from support.commands import is_running
from support.commands import succeeded
from support.commands import wait_for
from support.master import RETRY
from support.master import SUCCESS
from support.master import Master
from support.postgres import Postgres
from support.proxy import Proxy
from support.several import GRACE_S
from support.several import JUDGES_SOON
from support.timing import require_less

# How long it may take until the death of a master's process is found.
FOUND_WITHIN_S = 8.0

# Each master says which events of builds it hears, its own and others'.
CONFIGURATION = """
from buildbot.util import service as _service
from twisted.internet import defer as _defer
from twisted.python import log as _log

class Listener(_service.BuildbotService):
    name = "listener"

    @_defer.inlineCallbacks
    def startService(self):
        yield super().startService()
        yield self.master.mq.startConsuming(self.hear, ("builds", None, None))
        yield self.master.mq.startConsuming(self.hear, ("builds", None, "steps", None, None))

    def hear(self, key, message):
        _log.msg(f"HEARD {'.'.join(key)} {message['started_at']!r} {message['complete_at']!r}")

c["builders"] = []
c["schedulers"] = []
c["change_source"] = []
c["services"] = [Listener()]
"""


@pytest.fixture
def name(postgres: Postgres) -> str:
    """A database with all tables."""
    return postgres.database_with_tables()


TABLES = ("builds", "steps", "logs", "buildrequests", "buildsets", "litebot_outbox")

Join = Callable[..., Master]


@pytest.fixture
def join(watch: Callable[[Master], Master], tmp_path: Path, postgres: Postgres, name: str) -> Join:
    """Call it with a name, which its builder has too, and steps, for a new master."""

    def join(title: str, *commands: str, builder: str = "", url: str = "") -> Master:
        master = watch(Master(tmp_path / title))
        master.create()
        master.set("database", "url", url or postgres.url(name))
        master.configure(CONFIGURATION)
        master.define_builder(builder or title, *(commands or ["true"]))
        return master

    return join


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    proxy = Proxy(postgres.socket)
    yield proxy
    proxy.close()


def heard(master: Master) -> list[str]:
    """The events of builds that it has heard."""
    return re.findall(r"HEARD (.*)", master.log)


def build(master: Master) -> None:
    done = master.force(master.basedir.name)
    assert done.returncode == SUCCESS, done.stderr


def wait_for_all(one: Master, other: Master, builds: int = 1) -> None:
    """Until the other has heard of as many builds' ends as the one, and of all else before."""

    def ends(master: Master) -> int:
        return len(re.findall(r"HEARD builds\.\d+\.finished ", master.log))

    wait_for(lambda: ends(one) == ends(other) == builds, "the event at the other master")
    assert heard(other) == heard(one)


def wait_for_judgements() -> None:
    """Until masters with JUDGES_SOON that have been connected for a while judge each other."""
    ready_at = time.monotonic() + GRACE_S + 1
    wait_for(lambda: time.monotonic() > ready_at, "the time in which nobody is judged")


def test_events_reach_the_other_master_as_they_are(join: Join) -> None:
    one, two = join("one", "true", "true"), join("two")
    one.start()
    two.start()
    build(one)
    wait_for_all(one, two)
    assert any("datetime.datetime(" in event for event in heard(two))
    build(two)
    wait_for_all(two, one, 2)


def test_a_listener_that_is_cut_off_catches_up(join: Join, postgres: Postgres, name: str) -> None:
    one, two = join("one", *["sleep 0.1"] * 20), join("two")
    one.start()
    two.start()
    sessions = (
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_locks JOIN masters ON objid = id"
        f" WHERE classid = {MASTER_LOCK} AND name LIKE '%/two'"
    )

    def cut(times: list[int]) -> bool:
        """End the session of two, wherever it is with the build's events."""
        ((ended,),) = postgres.rows(name, sessions)
        times.append(ended)
        return ".finished" in one.log and "builds.1.finished" in one.log

    succeeded(one.run("build", "--no-wait", "one"))
    times: list[int] = []
    wait_for(lambda: cut(times), "the end of the build")
    assert sum(times) >= 3
    wait_for_all(one, two)


def test_status_tells_why_the_others_hear_nothing(
    join: Join, postgres: Postgres, name: str
) -> None:
    one, two = join("one"), join("two")
    one.start()
    two.start()
    full = (
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN"
        " RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$ LANGUAGE plpgsql;"
        " CREATE TRIGGER refuse BEFORE INSERT ON litebot_events EXECUTE FUNCTION refuse()"
    )
    postgres.execute(name, full)
    build(one)
    outage = wait_for(lambda: one.status()["outage"], "status to tell of it")
    assert outage["words"].startswith("could not extend file ")
    postgres.execute(name, "DROP TRIGGER refuse ON litebot_events")
    wait_for_all(one, two)
    wait_for(lambda: one.status()["outage"] is None, "status to tell that it is over")
    assert one.log.count("could not extend file") == 1
    assert " is dead" not in two.log


def test_one_that_stands_still_is_not_dead_and_one_that_is_killed_is(
    join: Join, measured: Callable[[str], None]
) -> None:
    one, two = join("one", *["true"] * 5), join("two")
    for master in (one, two):
        master.configure(JUDGES_SOON)
        master.start()
    wait_for_judgements()
    os.kill(two.pid, signal.SIGSTOP)
    try:
        build(one)
        ready_at = time.monotonic() + 2 * CONFIRM_S
        wait_for(lambda: time.monotonic() > ready_at, "the time that a judgement takes")
    finally:
        os.kill(two.pid, signal.SIGCONT)
    wait_for_all(one, two)
    assert " is dead" not in one.log
    os.kill(two.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    wait_for(lambda: " is dead" in one.log, "the other to find it")
    found_s = time.monotonic() - killed_at
    measured(f"found after {found_s:.1f} s")
    require_less(found_s, FOUND_WITHIN_S)


def test_one_that_was_taken_over_while_cut_off_writes_nothing_and_stops(
    join: Join,
    postgres: Postgres,
    name: str,
    proxy: Proxy,
    tmp_path: Path,
    measured: Callable[[str], None],
) -> None:
    go = tmp_path / "go"
    step = f"until [ -e {go} ]; do sleep 0.1; done"
    one = join("one", step, builder="b", url=proxy.url(USER, name))
    two = join("two", step, builder="b")
    two.configure(JUDGES_SOON)
    one.start()
    one.run("build", "--no-wait", "b")
    wait_for(lambda: one.builds("b"), "the build")
    two.start()
    wait_for_judgements()
    proxy.cut()
    cut_at = time.monotonic()
    builds = "SELECT id, masterid, results FROM builds ORDER BY id"
    wait_for(lambda: len(postgres.rows(name, builds)) == 2, "the second attempt")
    measured(f"built elsewhere after {time.monotonic() - cut_at:.1f} s")
    go.touch()
    assert two.finished_build("b", 2)["results"] == SUCCESS
    wait_for(lambda: "rc=0" in one.log, "the end of the step of which nothing can be written")
    history = [postgres.rows(name, f"SELECT * FROM {table} ORDER BY id") for table in TABLES]
    proxy.mend()
    wait_for(lambda: not is_running(one.pid), "the master to stop")
    assert f"{two.basedir} found it dead" in one.log
    assert [
        postgres.rows(name, f"SELECT * FROM {table} ORDER BY id") for table in TABLES
    ] == history
    assert postgres.rows(name, builds) == [(1, 1, RETRY), (2, 2, SUCCESS)]
    one.start()
    one.stop()


def test_another_one_of_the_same_name_is_refused(join: Join, postgres: Postgres, name: str) -> None:
    one = join("one")
    one.start()
    one.stop()
    # As if it had been started on a host that has the same name and folder.
    postgres.execute(name, "UPDATE masters SET active = 1")
    with postgres.connect(name) as other:
        other.execute("SELECT pg_advisory_lock(%s, id) FROM masters", (MASTER_LOCK,))
        done = one.run("start")
    assert done.returncode == 1
    assert "a running master named" in done.stderr
    assert postgres.rows(name, "SELECT active FROM masters") == [(1,)]
