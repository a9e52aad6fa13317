"""Statements that take long on a real Postgres are told from those whose answer was lost."""

from __future__ import annotations

import time
from typing import Any

import pytest
import sqlalchemy as sa

from bench.postgres import USER
from litebot.master.db.pool import Outage
from litebot.master.db.postgres import watch
from litebot.master.db.postgres.writer import Writer
from support.pool import Connection
from support.pool import Store
from support.pool import add
from support.pool import contents
from support.proxy import Proxy
from support.timing import TookTooLong

LARGE = 3_000_000
CHECK_AFTER_S = 1.5
IDLE_S = 0.3
# Longer than until an answer would count as lost, and shorter than until a second look.
SLOW_S = 2.3


@pytest.fixture
def store(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A pool that looks at slow statements sooner."""
    monkeypatch.setattr(watch, "CHECK_AFTER_S", CHECK_AFTER_S)
    monkeypatch.setattr(watch, "IDLE_S", IDLE_S)
    return store


@pytest.fixture
def slow(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The network takes 3 s for what is LARGE, which is longer than a look waits."""
    monkeypatch.setattr(watch, "CHECK_AFTER_S", 0.5)
    monkeypatch.setattr(watch, "IDLE_S", 0.5)
    store.wait(store.do(contents))
    store.proxy.bytes_a_second = 1_000_000
    return store


def tries(store: Store) -> int:
    """How often a piece was run that takes long, and where no outage was told of."""
    runs: list[int] = []
    outages: list[Outage | None] = []
    store.pool._on_outage = outages.append

    def work(conn: Connection) -> None:
        runs.append(1)
        conn.execute(sa.text(f"SELECT pg_sleep({SLOW_S})")).all()

    store.wait(store.do(contents))
    outages.clear()
    store.wait(store.do(work))
    assert outages == []
    return len(runs)


def test_a_statement_that_takes_long_is_left_alone(store: Store) -> None:
    assert tries(store) == 1


@pytest.mark.parametrize("way", ["there", "back"])
def test_what_takes_long_to_be_sent_is_sent_once(slow: Store, way: str) -> None:
    runs: list[int] = []
    outages: list[Outage | None] = []
    slow.pool._on_outage = outages.append

    def work(conn: Connection) -> int:
        runs.append(1)
        query = "SELECT length(:x)" if way == "there" else "SELECT repeat('x', :x)"
        value: Any = LARGE * "x" if way == "there" else LARGE
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('a')"))
        found = conn.execute(sa.text(query), {"x": value}).scalar()
        conn.commit()
        return len(found) if isinstance(found, str) else int(found or 0)

    began_at = time.monotonic()
    assert slow.wait(slow.do(work)) == LARGE
    assert time.monotonic() - began_at > 2
    assert (len(runs), outages) == (1, [])
    assert slow.content() == ["a"]


def test_what_takes_long_where_nobody_counts_gets_through_in_the_end(
    slow: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "traffic", None)
    runs: list[int] = []

    def work(conn: Connection) -> int | None:
        runs.append(1)
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('a')"))
        length = conn.execute(sa.text("SELECT length(:x)"), {"x": LARGE * "x"}).scalar()
        conn.commit()
        return length

    assert slow.wait(slow.do(work)) == LARGE
    assert slow.content() == ["a"]
    assert len(runs) > 1
    if len(runs) >= 5:
        raise TookTooLong(f"it took {len(runs)} tries")


def test_it_is_left_alone_where_the_server_does_not_say_what_it_does(store: Store) -> None:
    off = f"ALTER DATABASE {store.name} SET track_activities = off"
    store.postgres.execute("postgres", off)
    store.use(store.proxy.url(USER, store.name))
    assert tries(store) == 1


def test_limits_of_a_database_are_not_for_a_master(store: Store) -> None:
    for name in ("statement_timeout", "lock_timeout", "idle_session_timeout"):
        store.postgres.execute(store.name, f"ALTER DATABASE {store.name} SET {name} = '250ms'")
    store.use(store.proxy.url(USER, store.name))
    there = store.proxy.connections
    with store.postgres.connect(store.name) as conn, conn.transaction():
        conn.execute("SET idle_session_timeout = 0")
        conn.execute("LOCK TABLE t")
        asked = store.do(add, "a")
        waits_until = time.monotonic() + 1  # longer than any of these
        while time.monotonic() < waits_until:
            assert not asked.called
            store.reactor.turn()
            time.sleep(0.01)
    store.wait(asked)
    store.wait(store.do(lambda conn: conn.execute(sa.text("SELECT pg_sleep(0.5)")).scalar()))
    time.sleep(0.5)  # an idle session that the server would have ended
    store.wait(store.do(add, "b"))
    assert store.content() == ["a", "b"]
    assert store.proxy.connections == there


def test_it_is_left_alone_behind_a_pooler(store: Store) -> None:
    store.proxy.makes_up_pids = True
    store.proxy.cut()
    store.proxy.mend()
    assert tries(store) == 1


def test_it_is_left_alone_where_a_standby_is_named_first(store: Store) -> None:
    standing_by = sa.text("SELECT pg_is_in_recovery()")
    with store.postgres.standby() as standby:
        before = Proxy(standby.socket)
        hosts = f"host=127.0.0.1:{before.port}&host=127.0.0.1:{store.proxy.port}"
        store.use(f"postgresql://{USER}@/{store.name}?sslmode=disable&{hosts}")
        assert tries(store) == 1
        assert store.wait(store.browse(lambda conn: conn.execute(standing_by).scalar())) is False
        assert before.connections == 4  # the writer's, a reader's, two that look
        before.close()


def test_it_is_left_alone_where_there_is_no_room_to_ask(store: Store) -> None:
    store.postgres.execute("postgres", "DROP ROLE IF EXISTS crowded")
    store.postgres.execute("postgres", "CREATE ROLE crowded LOGIN CONNECTION LIMIT 1")
    store.postgres.execute(store.name, "GRANT SELECT ON t TO crowded")
    store.use(store.proxy.url("crowded", store.name))
    there = store.proxy.connections
    assert tries(store) == 1
    assert store.proxy.connections > there
    store.use(store.proxy.url(USER, store.name))
    store.postgres.execute(store.name, "DROP OWNED BY crowded")
    store.postgres.execute(store.name, "DROP ROLE crowded")
