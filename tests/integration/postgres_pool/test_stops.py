"""How the pool on a real Postgres starts and stops."""

from __future__ import annotations

import time

import pytest

from litebot.errors import StoreError
from litebot.errors import StoreFailed
from support.pool import Connection
from support.pool import Store
from support.pool import add
from support.pool import contents
from support.postgres import Postgres
from support.timing import require_less


def test_the_first_connection_is_not_waited_for(postgres: Postgres) -> None:
    store = Store(postgres)
    store.proxy.cut()
    with pytest.raises(StoreError) as raised:
        store.open()
    assert str(store.proxy.port) in raised.value.what
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("psql 'postgresql://")
    store.proxy.close()


def test_a_stop_does_not_wait_for_ever(store: Store) -> None:
    store.proxy.cut()
    asked = store.do(add, "a")
    store.reactor.run_until(lambda: store.pool.outage is not None)
    store.pool.give_up_after(0.5)
    with pytest.raises(StoreFailed, match="has been away for"):
        store.wait(asked)
    assert [str(failure) for failure in store.failures] == [str(store.pool.failure)]
    with pytest.raises(StoreFailed):
        store.wait(store.do(add, "b"))
    store.proxy.mend()
    assert store.content() == []


def test_a_silent_server_keeps_no_stop_waiting(store: Store) -> None:
    store.pool.give_up_after(0.5)
    store.proxy.freeze()
    asked = store.do(add, "a")
    began_at = time.monotonic()
    with pytest.raises(StoreFailed):
        store.wait(asked)
    require_less(time.monotonic() - began_at, 12)


def test_the_hook_is_called_after_a_reconnection(store: Store) -> None:
    calls: list[list[str]] = []
    store.pool.before_batch_after_reconnect = lambda conn: calls.append(contents(conn))
    store.wait(store.do(add, "a"))
    assert calls == []
    store.proxy.cut()
    store.proxy.mend()
    store.wait(store.do(add, "b"))
    store.wait(store.do(add, "c"))
    assert calls == [["a"]]

    def refuse(_conn: Connection) -> None:
        raise StoreFailed("no more")

    store.pool.before_batch_after_reconnect = refuse
    store.proxy.cut()
    store.proxy.mend()
    with pytest.raises(StoreFailed, match="no more"):
        store.wait(store.do(add, "d"))
    assert store.content() == ["a", "b", "c"]


def test_the_server_knows_the_connections_by_name(store: Store) -> None:
    store.pool.application_name = "litebot one"
    store.wait(store.do(contents))
    store.wait(store.browse(contents))
    query = f"SELECT application_name FROM pg_stat_activity WHERE datname = '{store.name}'"
    names = [row[0] for row in store.postgres.rows("postgres", query)]
    assert names == ["litebot one"] * 2
