"""Masters on one Postgres: events of one reach the others, and a dead one is found."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import SUCCESS
from conftest import Master
from conftest import wait_for
from postgres import Postgres

from litebot.master import schema
from litebot.master.postgres import driver_url
from litebot.master.postgres.peers import GRACE_S

CONFIGURATION = """
c["builders"] = []
c["schedulers"] = []
c["change_source"] = []
"""

# Each says which events of builds it hears, its own and others'.
LISTENER = """
from buildbot.util import service as _service
from twisted.python import log as _log
from twisted.internet import defer as _defer

class Listener(_service.BuildbotService):
    name = "listener"

    @_defer.inlineCallbacks
    def startService(self):
        yield super().startService()
        self.heard = []
        yield self.master.mq.startConsuming(self.hear, ("builds", None, None))

    def hear(self, key, message):
        _log.msg(f"HEARD {'.'.join(key)} {message['started_at']!r} {message['complete_at']!r}")

c.setdefault("services", []).append(Listener())
"""


@pytest.fixture
def url(postgres: Postgres) -> str:
    """A new database with all tables."""
    url = postgres.url(postgres.new_database())
    engine = sa.create_engine(driver_url(url))
    with engine.connect() as conn:
        schema.make_buildbots(conn)
        schema.upgrade(conn)
        conn.commit()
    engine.dispose()
    return url


@pytest.fixture
def join(
    created: Master, watch: Callable[[Master], Master], tmp_path: Path, url: str
) -> Callable[[str], Master]:
    """Call it with a name for a new master on the database, not started yet."""
    from conftest import _copy

    def join(name: str) -> Master:
        master = watch(_copy(created, tmp_path / name))
        master.set("database", "url", url)
        master.configure(CONFIGURATION)
        master.configure(LISTENER)
        return master

    return join


def heard(master: Master) -> list[str]:
    return re.findall(r"HEARD (builds\.\d+\.\w+) ", master.log)


def test_events_of_one_master_reach_another(join: Callable[[str], Master]) -> None:
    one, two = join("one"), join("two")
    for each in (one, two):
        each.define_builder("b" if each is one else "c", "true")
        each.start()
    done = one.force("b")
    assert done.returncode == SUCCESS, done.stderr
    wait_for(lambda: "builds.1.finished" in heard(two), "the event at the other master")
    events = [line for line in one.log.splitlines() if "HEARD" in line]
    others = [line for line in two.log.splitlines() if "HEARD" in line]
    assert [e.partition("HEARD")[2] for e in others] == [e.partition("HEARD")[2] for e in events]


def test_a_dead_master_is_found(join: Callable[[str], Master]) -> None:
    one, two = join("one"), join("two")
    for each in (one, two):
        each.define_builder("b", "true")
        each.start()
    ready_at = time.monotonic() + GRACE_S
    wait_for(lambda: time.monotonic() > ready_at, "the time in which nobody is judged")
    os.kill(one.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    wait_for(lambda: "is dead; " in two.log, "the other to find it")
    print(time.monotonic() - killed_at)
