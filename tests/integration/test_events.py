"""The table of events on a real Postgres: in order, each once, whatever becomes of a connection."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from bench.postgres import USER
from litebot.master.cluster import events as module
from litebot.master.cluster.events import DROPPED
from litebot.master.cluster.events import Event
from litebot.master.cluster.events import Events
from support.postgres import Postgres
from support.proxy import Proxy
from support.stand_in import Log

Connect = Callable[[], psycopg.Connection[Any]]
Conn = psycopg.Connection[Any]

# Begins when it is told to, so that all write at the same time.
WRITER = """
import sys
import psycopg
from litebot.master.cluster.events import Events

dsn, masterid, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
conn = psycopg.connect(dsn, autocommit=True)
events = Events(masterid)
events.listen(conn)
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    events.add(("numbers", str(number)), {"number": number, "ballast": "x" * (number % 500)})
    if number % (10 + masterid) == 0:
        events.send(conn)
events.send(conn)
"""
WRITERS, EVENTS = 3, 4000


@pytest.fixture(scope="module")
def name(postgres: Postgres) -> str:
    return postgres.database_with_tables()


@pytest.fixture
def connect(postgres: Postgres, name: str) -> Iterator[Connect]:
    """Call it for a new connection."""
    connections: list[Conn] = []

    postgres.execute(name, "TRUNCATE litebot_events")

    def connect() -> Conn:
        connections.append(postgres.connect(name))
        return connections[-1]

    yield connect
    for conn in connections:
        conn.close()


@pytest.fixture
def conn(connect: Connect) -> Conn:
    return connect()


def listening(masterid: int, conn: Conn) -> Events:
    events = Events(masterid)
    events.listen(conn)
    return events


def all_of(events: Events, conn: Conn) -> list[Event]:
    """What there is to read."""
    found, more = events.read(conn)
    while more:
        some, more = events.read(conn)
        found += some
    return found


def numbers(found: list[Event]) -> list[Any]:
    return [event.message["number"] for event in found]


def send_numbers(events: Events, conn: Conn, first: int, last: int) -> None:
    for number in range(first, last + 1):
        events.add(("numbers", str(number)), {"number": number})
    events.send(conn)


def test_a_reader_misses_nothing_of_what_several_processes_write(
    postgres: Postgres, name: str, conn: Conn
) -> None:
    dsn = f"host={postgres.folder} port={postgres.port} user={USER} dbname={name}"
    reader = listening(99, conn)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, dsn, str(masterid), str(EVENTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for masterid in range(1, WRITERS + 1)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        found: list[Event] = []
        while any(writer.poll() is None for writer in writers):
            found += all_of(reader, conn)
        found += all_of(reader, conn)
        assert [writer.returncode for writer in writers] == [0] * WRITERS
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    for masterid in range(1, WRITERS + 1):
        assert numbers([e for e in found if e.masterid == masterid]) == list(range(EVENTS))
    assert len(found) == WRITERS * EVENTS


def test_ones_own_are_not_read(conn: Conn) -> None:
    one, two = listening(1, conn), listening(2, conn)
    send_numbers(one, conn, 1, 3)
    send_numbers(two, conn, 4, 4)
    assert numbers(all_of(one, conn)) == [4]
    assert numbers(all_of(two, conn)) == [1, 2, 3]


def test_what_came_before_is_not_read(conn: Conn) -> None:
    one = listening(1, conn)
    send_numbers(one, conn, 1, 3)
    two = listening(2, conn)
    assert all_of(two, conn) == []


def test_large_ones(connect: Connect) -> None:
    """A NOTIFY has room for 8,000 bytes, and a client for more than one of these."""
    conn = connect()
    one, two = listening(1, conn), listening(2, conn)
    message = {"text": "ä\\'\"\0" * 200_000}
    for _ in range(12):
        one.add(("logs", "1", "new"), message)
    one.send(conn)
    heard = connect()
    heard.execute("LISTEN litebot_events")
    one.add(("logs", "2", "new"), message)
    one.send(conn)
    found = all_of(two, conn)
    assert [event.message for event in found] == [message] * 13
    assert [event.key for event in found] == [("logs", "1", "new")] * 12 + [("logs", "2", "new")]
    assert len(list(heard.notifies(timeout=10, stop_after=1))) == 1


def test_what_was_sent_while_cut_off_is_read(connect: Connect) -> None:
    one_conn, two_conn = connect(), connect()
    one, two = listening(1, one_conn), listening(2, two_conn)
    send_numbers(one, one_conn, 1, 3)
    assert numbers(all_of(two, two_conn)) == [1, 2, 3]
    two_conn.close()
    send_numbers(one, one_conn, 4, 300)
    two_conn = connect()
    two.listen(two_conn)
    assert numbers(all_of(two, two_conn)) == list(range(4, 301))


def test_what_was_not_sent_is_sent_by_the_next_connection(connect: Connect) -> None:
    one_conn, two_conn = connect(), connect()
    one, two = listening(1, one_conn), listening(2, two_conn)
    two_conn.execute("SELECT pg_terminate_backend(%s, 5000)", (one_conn.info.backend_pid,))
    with pytest.raises(psycopg.OperationalError):
        send_numbers(one, one_conn, 1, 3)
    one.add(("numbers", "4"), {"number": 4})
    one_conn = connect()
    one.listen(one_conn)
    one.send(one_conn)
    assert numbers(all_of(two, two_conn)) == [1, 2, 3, 4]


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    proxy = Proxy(postgres.socket)
    yield proxy
    proxy.close()


def send_in_vain(sender: Events, conn: Conn, proxy: Proxy) -> None:
    """Send the numbers 1 to 3; they arrive, and the answer that says so is lost."""
    proxy.lose_next_answer(b"pg_notify")
    with pytest.raises(psycopg.OperationalError):
        send_numbers(sender, conn, 1, 3)
    assert proxy.lost_answer.is_set()


def test_what_was_sent_is_not_sent_again_though_the_answer_is_lost(
    proxy: Proxy, name: str, conn: Conn
) -> None:
    one_conn = psycopg.connect(proxy.url(USER, name), autocommit=True)
    one, two = listening(1, one_conn), listening(2, conn)
    send_in_vain(one, one_conn, proxy)
    one_conn = psycopg.connect(proxy.url(USER, name), autocommit=True)
    one.listen(one_conn)
    send_numbers(one, one_conn, 4, 4)
    one_conn.close()
    assert numbers(all_of(two, conn)) == [1, 2, 3, 4]


def test_what_may_be_pruned_already_is_not_sent_again(
    proxy: Proxy, name: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_conn = psycopg.connect(proxy.url(USER, name), autocommit=True)
    one, two = listening(1, one_conn), listening(2, conn)
    send_in_vain(one, one_conn, proxy)
    assert numbers(all_of(two, conn)) == [1, 2, 3]
    make_old(conn)
    send_numbers(two, conn, 7, 7)
    two.prune(conn)
    monkeypatch.setattr(module, "RECHECK_AFTER_S", -1.0)  # as if it had taken that long
    one.listen(conn)
    send_numbers(one, conn, 4, 4)
    assert [event.key for event in all_of(two, conn)] == [DROPPED, ("numbers", "4")]


def make_old(conn: Conn) -> None:
    conn.execute("UPDATE litebot_events SET sent_at = sent_at - %s", (module.KEEP_EVENTS_S + 60,))


def test_old_ones_go_and_who_has_not_read_them_is_told(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn, two_conn = connect(), connect()
    one, two = listening(1, conn), listening(2, two_conn)
    away = listening(3, connect())
    send_numbers(one, conn, 1, 3)
    assert numbers(all_of(two, two_conn)) == [1, 2, 3]
    make_old(conn)
    send_numbers(one, conn, 4, 5)
    one.prune(conn)
    assert conn.execute("SELECT count(*) FROM litebot_events").fetchall() == [(2,)]
    monkeypatch.setattr(module, "RECHECK_AFTER_S", -1.0)  # as if both had slept for that long
    assert numbers(all_of(two, two_conn)) == [4, 5]
    assert [event.key for event in all_of(away, conn)] == [
        DROPPED,
        ("numbers", "4"),
        ("numbers", "5"),
    ]


def test_the_newest_stays_however_old(conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    away = listening(3, conn)
    one = listening(1, conn)
    send_numbers(one, conn, 1, 3)
    make_old(conn)
    one.prune(conn)
    monkeypatch.setattr(module, "RECHECK_AFTER_S", -1.0)
    assert [event.key for event in all_of(away, conn)] == [DROPPED, ("numbers", "3")]


def test_pruning_many_takes_no_more_than_there_is(
    conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DELETE_AT_ONCE", 10)
    one = listening(1, conn)
    send_numbers(one, conn, 1, 35)
    make_old(conn)
    send_numbers(one, conn, 36, 40)
    one.prune(conn)
    rows = conn.execute("SELECT number FROM litebot_events ORDER BY id").fetchall()
    assert [row[0] for row in rows] == list(range(36, 41))


def test_more_than_can_wait_are_dropped_and_that_is_told(
    conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    one, two = listening(1, conn), listening(2, conn)
    send_numbers(one, conn, 1, 15)
    found = all_of(two, conn)
    assert numbers(found[:-1]) == list(range(1, 11))
    assert found[-1].key == DROPPED


def test_what_can_not_be_told_is_left_out(conn: Conn, logged: Log) -> None:
    one, two = listening(1, conn), listening(2, conn)
    loop: dict[str, Any] = {}
    loop["itself"] = loop
    one.add(("numbers", "1"), loop)
    send_numbers(one, conn, 2, 2)
    assert numbers(all_of(two, conn)) == [2]
    assert logged.take() == [ValueError]
