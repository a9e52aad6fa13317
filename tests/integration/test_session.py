"""Sessions of masters on a real Postgres, without the masters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool
from twisted.internet import defer

from bench.postgres import USER
from litebot.errors import StoreError
from litebot.errors import TakenOver
from litebot.master.cluster import peers
from litebot.master.cluster import session as module
from litebot.master.cluster.peers import MASTER_LOCK
from litebot.master.cluster.session import RELEASE_WITHIN_S
from litebot.master.cluster.session import Session
from litebot.master.db.postgres import driver_url
from litebot.master.db.postgres.server import Server
from support.commands import wait_for
from support.listener import Heard
from support.postgres import Postgres
from support.proxy import Proxy
from support.stand_in import Asked
from support.stand_in import Log
from support.stand_in import Reactor
from support.timing import require_less


class Site(Heard):
    """A master's session, and what it reports."""

    def __init__(self, url: str, masterid: int, reactor: Reactor) -> None:
        self.reactor = reactor
        super().__init__()
        self.suspects: list[int] = []
        server = Server(url, Path("/nowhere"))
        name = f"host:/{masterid}"
        self.session = Session(server, reactor, masterid, name, lambda *_: self.suspects, self)

    def start(self) -> Site:
        asked = Asked(self.session.start())
        self.reactor.run_now(lambda: asked.called)
        if asked.error is not None:
            raise asked.error
        return self

    def stop(self) -> None:
        asked = Asked(self.session.stop())
        self.reactor.run_now(lambda: asked.called)

    def tell(self, *numbers: int) -> None:
        for number in numbers:
            self.session.send(("numbers", str(number)), {"number": number})

    @property
    def is_alone(self) -> bool:
        return self.session._peers.is_alone

    def knows_others(self) -> None:
        self.until(lambda: not self.is_alone and self.session._due_at["poll"] > 0)

    def until(self, done: Callable[[], object]) -> None:
        """Take turns until this is so."""

        def turn() -> object:
            self.reactor.turn()
            return done()

        wait_for(turn, "what a session is to do")


@pytest.fixture(scope="module")
def name(postgres: Postgres) -> str:
    return postgres.database_with_tables()


@pytest.fixture
def sites(postgres: Postgres, name: str, logged: Log) -> Iterator[Callable[..., Site]]:
    """Call it with a masterid for a session of its own; all are stopped at the end."""
    made: list[Site] = []
    reactor = Reactor()

    def make(masterid: int, url: str | None = None) -> Site:
        made.append(Site(url or postgres.url(name), masterid, reactor))
        return made[-1]

    yield make
    for site in made:
        if site.session._thread is not None:
            site.stop()


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    proxy = Proxy(postgres.socket)
    yield proxy
    proxy.close()


def locked(postgres: Postgres, name: str) -> set[int]:
    """The masters whose lock somebody has."""
    query = f"SELECT objid FROM pg_locks WHERE classid = {MASTER_LOCK} AND granted"
    return {int(row[0]) for row in postgres.rows(name, query)}


def end_sessions(postgres: Postgres, name: str) -> int:
    """End what holds a master's lock; how many."""
    query = (
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_locks"
        f" WHERE classid = {MASTER_LOCK} AND granted"
    )
    return int(postgres.rows(name, query)[0][0])


def pass_time(seconds: float) -> Callable[[], bool]:
    ends_at = time.monotonic() + seconds
    return lambda: time.monotonic() > ends_at


def test_who_comes_hears_what_was_told_before_it_was_noticed(sites: Any) -> None:
    one = sites(1).start()
    one.until(lambda: one.is_alone)
    two = sites(2).start()
    one.tell(1, 2, 3)
    assert one.is_alone  # it has not looked since
    one.until(lambda: two.heard == [1, 2, 3])
    one.tell(4)
    one.until(lambda: two.heard == [1, 2, 3, 4])


def test_who_is_alone_keeps_nothing(sites: Any, postgres: Postgres, name: str) -> None:
    postgres.execute(name, "TRUNCATE litebot_events")
    one = sites(1).start()
    one.until(lambda: one.is_alone)
    one.tell(*range(1000))
    one.until(lambda: not one.session._events.outgoing)
    assert postgres.rows(name, "SELECT count(*) FROM litebot_events") == [(0,)]


def test_who_is_away_for_a_moment_hears_what_was_told_meanwhile(
    sites: Any, proxy: Proxy, name: str
) -> None:
    one, two = sites(1).start(), sites(2, proxy.url(USER, name)).start()
    one.suspects = [2]
    one.until(lambda: not one.is_alone)
    proxy.cut()
    two.until(lambda: two.session.outage)
    one.tell(1)
    looks = one.session._due_at["poll"]
    one.until(lambda: one.session._due_at["poll"] > looks)  # it finds nobody else connected
    one.tell(2)
    proxy.mend()
    two.until(lambda: two.heard == [1, 2])


def test_what_waits_is_told_at_a_stop(sites: Any) -> None:
    one, two = sites(1).start(), sites(2).start()
    one.until(lambda: not one.is_alone)
    one.tell(*range(2000))
    one.stop()
    two.until(lambda: len(two.heard) == 2000)
    assert two.heard == list(range(2000))


@pytest.fixture
def full(postgres: Postgres, name: str) -> Iterator[Callable[[], None]]:
    """The disk has no space for events; call it to end that."""
    refuse = (
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN"
        " RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$ LANGUAGE plpgsql"
    )
    trigger = "CREATE TRIGGER refuse BEFORE INSERT ON litebot_events EXECUTE FUNCTION refuse()"
    postgres.execute(name, f"{refuse}; {trigger}")
    yield lambda: postgres.execute(name, "DROP TRIGGER IF EXISTS refuse ON litebot_events")
    postgres.execute(name, "DROP FUNCTION refuse() CASCADE")


def test_one_whose_events_find_no_space_keeps_its_lock(
    sites: Any, postgres: Postgres, name: str, full: Callable[[], None], logged: Log
) -> None:
    one, two = sites(1).start(), sites(2).start()
    one.knows_others()
    tries: list[float] = []
    send = one.session._events.send

    def count(conn: Any) -> None:
        tries.append(time.monotonic())
        send(conn)

    one.session._events.send = count
    ends, sent, free = pass_time(3), 0, 0
    while not ends():
        if sent < 300:
            one.tell(sent)
            sent += 1
        one.reactor.turn()
        free += not {1, 2} <= locked(postgres, name)
    assert free == 0
    assert one.session._connections == 1
    assert 3 <= len(tries) <= 6  # after 0.1 s, 0.2 s, ...
    assert one.session.outage is not None
    assert len(one.outages) == 1
    assert one.outages[0].startswith("could not extend file ")
    two.tell(1000)  # refused as well, and kept
    two.until(lambda: two.session.outage is not None)
    full()
    two.until(lambda: len(two.heard) >= sent)
    one.until(lambda: one.heard == [1000] and one.session.outage is None)
    two.until(pass_time(0.5))
    assert two.heard == list(range(sent))
    assert one.session.outage is None
    assert one.outages[1:] == ["over"]
    assert two.session._connections == 1
    assert len([line for line in logged.messages if "the session on" in line]) == 4  # of both


def test_one_that_is_cut_off_while_it_waits_for_space_is_not_dead(
    sites: Any,
    postgres: Postgres,
    name: str,
    full: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "grace_s", lambda _: 0.0)
    one, two = sites(1).start(), sites(2).start()
    two.suspects = [1]
    one.knows_others()
    one.tell(1)
    end = f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE classid = {MASTER_LOCK}"
    for _ in range(3):
        one.until(pass_time(2))  # by then it waits for longer than it takes to be found dead
        postgres.rows(name, f"{end} AND objid = 1")
    two.until(pass_time(3))
    assert two.dead == []
    full()
    two.until(lambda: two.heard == [1])


def test_one_event_that_finds_no_space_is_sent_without_another(
    sites: Any, full: Callable[[], None]
) -> None:
    one, two = sites(1).start(), sites(2).start()
    one.knows_others()
    one.tell(1)
    one.until(lambda: one.session.outage)
    full()
    two.until(lambda: two.heard == [1])


def test_one_whose_connections_last_for_a_moment_takes_its_time(
    sites: Any, postgres: Postgres, name: str, full: Callable[[], None], logged: Log
) -> None:
    dies = (
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger AS $$ BEGIN"
        " PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$ LANGUAGE plpgsql"
    )
    postgres.execute(name, dies)
    one, two = sites(1).start(), sites(2).start()
    one.knows_others()
    one.tell(1)
    one.until(pass_time(3))
    assert 3 <= one.session._connections <= 7
    assert len([line for line in logged.messages if "the session on" in line]) == 1
    full()
    two.until(lambda: two.heard == [1])


def test_who_stops_while_cut_off_may_have_had_something_to_tell(
    sites: Any, proxy: Proxy, name: str
) -> None:
    one, two = sites(1).start(), sites(2, proxy.url(USER, name)).start()
    one.suspects, two.suspects = [2], [1]
    one.knows_others()
    two.knows_others()
    proxy.cut()
    two.tell(1)
    two.until(lambda: two.session.outage)
    one.until(pass_time(2 * module.POLL_EVERY_S))
    assert one.gaps == 0  # it may come back
    two.stop()
    one.suspects = []
    one.until(lambda: one.gaps)
    one.until(pass_time(2 * module.POLL_EVERY_S))
    assert (one.heard, one.gaps) == ([], 1)


def test_order_survives_that_both_are_cut_off(sites: Any, postgres: Postgres, name: str) -> None:
    one, two = sites(1).start(), sites(2).start()
    one.suspects, two.suspects = [2], [1]
    ended = 0
    for number in range(300):
        one.tell(number)
        if number % 50 == 10:
            ended += end_sessions(postgres, name)
        one.reactor.turn()
    two.until(lambda: len(two.heard) >= 300)
    assert two.heard == list(range(300))
    assert ended >= 2
    assert two.gaps == 0


def test_nobody_is_judged_when_all_come_back(
    sites: Any, proxy: Proxy, postgres: Postgres, name: str
) -> None:
    """As after a restart of the server, to which some find back sooner than others."""
    one, two = sites(1).start(), sites(2, proxy.url(USER, name)).start()
    one.suspects, two.suspects = [2], [1]
    one.until(pass_time(one.session._peers.grace_s))
    proxy.cut()
    assert end_sessions(postgres, name) >= 1
    one.until(lambda: locked(postgres, name) == {1})
    one.until(pass_time(peers.CONFIRM_S + module.POLL_EVERY_S))
    proxy.mend()
    two.until(lambda: locked(postgres, name) == {1, 2})
    assert one.dead == two.dead == []


def test_nobody_is_judged_who_has_to_try_several_hosts(
    sites: Any, postgres: Postgres, name: str
) -> None:
    """As after a fail-over, of which those hear last who try the lost hosts first."""
    lost = [Proxy(postgres.socket) for _ in range(2)]
    there = f"{postgres.folder}:{postgres.port}"

    def url(*hosts: str) -> str:
        options = "".join(f"&host={host}" for host in hosts)
        return f"postgresql://{USER}@/{name}?sslmode=disable{options}"

    places = [f"127.0.0.1:{proxy.port}" for proxy in lost]
    one = sites(1, url(there, *places)).start()
    two = sites(2, url(*places, there)).start()
    one.suspects, two.suspects = [2], [1]
    one.until(pass_time(1))
    for proxy in lost:
        proxy.freeze()
        proxy.leave()
    assert end_sessions(postgres, name) >= 1
    one.until(lambda: locked(postgres, name) == {1})
    alone_at = time.monotonic()
    one.until(lambda: locked(postgres, name) == {1, 2})
    assert time.monotonic() - alone_at > 7
    assert one.dead == two.dead == []
    for proxy in lost:
        proxy.close()


def test_a_dead_one_is_locked_while_it_is_taken_over(
    sites: Any, postgres: Postgres, name: str, measured: Callable[[str], None]
) -> None:
    one, two = sites(1).start(), sites(2).start()
    one.suspects, two.suspects = [2], [1]
    two.until(pass_time(two.session._peers.grace_s))
    two.taking = defer.Deferred()
    one.stop()
    stopped_at = time.monotonic()
    two.until(lambda: two.dead)
    measured(f"found after {time.monotonic() - stopped_at:.1f} s")
    assert two.dead == [1]
    assert locked(postgres, name) == {1, 2}
    two.suspects = []
    two.taking.callback(None)
    two.until(lambda: locked(postgres, name) == {2})
    assert two.dead == [1]


def test_a_take_over_that_fails_is_tried_again(
    sites: Any, logged: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "grace_s", lambda _: 0.0)
    monkeypatch.setattr(module, "TAKE_OVER_RETRY_S", 0.0)
    two = sites(2).start()
    two.taking = defer.fail(ZeroDivisionError())
    two.suspects = [1]
    two.until(lambda: two.dead == [1])
    two.taking = defer.succeed(None)
    two.until(lambda: len(two.dead) > 1)
    assert logged.take() == [ZeroDivisionError]
    two.suspects = []


def test_whose_connections_can_not_be_ended_is_let_go_of_for_now(
    sites: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "grace_s", lambda _: 0.0)
    monkeypatch.setattr(module, "TAKE_OVER_RETRY_S", 0.0)
    end, refused = peers.Peers.end_connections, [psycopg.errors.InsufficientPrivilege()]

    def refuse(*args: Any) -> None:
        if refused:
            raise refused.pop()
        end(*args)

    monkeypatch.setattr(peers.Peers, "end_connections", refuse)
    two = sites(2).start()
    two.suspects = [1]
    two.until(lambda: two.dead == [1])
    assert refused == []
    assert two.session._connections == 1
    two.suspects = []


def test_one_lock_one_master(
    sites: Any, postgres: Postgres, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OWN_LOCK_S", 0.5)
    one = sites(1).start()
    with pytest.raises(StoreError, match="a running master named host:/1"):
        sites(1).start()
    assert locked(postgres, name) == {1}
    one.stop()
    sites(1).start()


def test_a_former_self_may_take_a_moment_to_go(sites: Any) -> None:
    one, again = sites(1).start(), sites(1)
    asked = Asked(again.session.start())
    again.until(lambda: again.session._connections == 1)
    assert not asked.called
    one.stop()
    again.until(lambda: asked.called)
    assert asked.error is None


def test_one_that_was_taken_over_says_so_and_lets_go(
    sites: Any, postgres: Postgres, name: str
) -> None:
    postgres.execute(
        name,
        "INSERT INTO litebot_starts (id, master, pid, version, started_at, taken_over_at,"
        " taken_over_by) VALUES (17, 'host:/1', 1, '0', 1, 1, 'host:/2')",
    )
    one = sites(1).start()
    one.session.started_as(17)
    one.until(lambda: one.failures)
    assert isinstance(one.failures[0], TakenOver)
    assert "host:/2 found it dead" in one.failures[0].what
    assert locked(postgres, name) == set()


def test_a_new_connection_waits_for_who_is_taking_over(postgres: Postgres, name: str) -> None:
    postgres.execute(
        name,
        "INSERT INTO litebot_starts (id, master, pid, version, started_at)"
        " VALUES (18, 'host:/1', 1, '0', 1)",
    )
    engine = sa.create_engine(driver_url(postgres.url(name)), poolclass=NullPool)
    with engine.begin() as conn:
        peers.fence(conn, 18)  # as long as nobody has taken it over
    raised: list[TakenOver] = []

    def connect_again() -> None:
        with engine.begin() as conn:
            try:
                peers.fence(conn, 18)
            except TakenOver as error:
                raised.append(error)

    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    thread = threading.Thread(target=connect_again)
    with engine.begin() as conn:
        values = "taken_over_at = 1, taken_over_by = 'host:/2'"
        conn.exec_driver_sql(f"UPDATE litebot_starts SET {values} WHERE id = 18")
        thread.start()
        wait_for(lambda: postgres.rows(name, waiting) == [(1,)], "it to wait")
    thread.join()
    assert "host:/2 found it dead" in raised[0].what


def test_what_a_proxy_keeps_open_of_a_former_connection_is_ended(
    sites: Any, proxy: Proxy, postgres: Postgres, name: str
) -> None:
    one = sites(1, proxy.url(USER, name)).start()
    one.suspects = [2]
    proxy.leave()
    one.until(lambda: one.session.outage)
    began_at = time.monotonic()
    one.until(lambda: one.session.outage is None or one.failures)
    assert one.failures == []
    require_less(time.monotonic() - began_at, 5)
    assert locked(postgres, name) == {1}


def test_a_stop_does_not_wait_for_a_server_that_says_nothing(
    sites: Any, proxy: Proxy, name: str
) -> None:
    one = sites(1, proxy.url(USER, name)).start()
    one.suspects = [2]
    proxy.freeze()
    one.tell(1)
    asked = Asked(one.session.stop())
    one.reactor.turn()
    assert not asked.called
    one.reactor.advance(RELEASE_WITHIN_S)
    one.until(lambda: asked.called)


def test_a_server_that_is_not_there(sites: Any, postgres: Postgres) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        sites(1, postgres.url("missing")).start()


def test_it_comes_back_and_says_how_long_it_was_away(
    sites: Any, proxy: Proxy, name: str, logged: Log
) -> None:
    one = sites(1, proxy.url(USER, name)).start()
    two = sites(2).start()
    two.suspects = [1]
    one.suspects = [2]
    proxy.cut()
    one.until(lambda: one.session.outage)
    two.tell(1, 2)
    two.until(lambda: not two.session._events.outgoing)
    proxy.mend()
    one.until(lambda: one.heard == [1, 2])
    assert one.session.outage is None
    assert len([line for line in logged.messages if "the session on" in line]) == 2
