"""Reads of visitors on a real Postgres."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from litebot.errors import ServerAway
from support.pool import Store
from support.pool import add
from support.pool import contents
from support.timing import require_less


def test_a_visitor_sees_what_was_asked_before(store: Store) -> None:
    for x in "abc":
        store.do(add, x)
    seen = store.browse(contents)
    store.do(add, "d")
    assert store.wait(seen)[:3] == ["a", "b", "c"]


def test_what_writes_for_a_visitor_is_done_where_writing_works(store: Store) -> None:
    store.wait(store.browse(add, "a"))
    assert store.content() == ["a"]


def test_a_visitor_holds_up_no_work(store: Store) -> None:
    slow = store.browse(lambda conn: conn.execute(sa.text("SELECT pg_sleep(2)")).scalar())
    store.wait(store.do(add, "a"))
    assert not slow.called
    store.wait(slow)


def test_a_visitor_is_told_that_the_server_is_away(store: Store) -> None:
    store.wait(store.browse(contents))
    store.proxy.cut()
    began_at = time.monotonic()
    with pytest.raises(ServerAway, match="is away: "):
        store.wait(store.browse(contents))
    require_less(time.monotonic() - began_at, 8)
    store.proxy.mend()
    assert store.wait(store.browse(contents)) == []


def test_a_visitor_behind_work_that_waits_is_told_so_too(store: Store) -> None:
    store.proxy.cut()
    asked = store.do(add, "a")
    before = store.browse(contents)  # what has been asked before it must be done
    store.reactor.run_until(lambda: store.pool.outage is not None)
    began_at = time.monotonic()
    after = store.browse(contents)
    for each in (before, after):
        with pytest.raises(ServerAway, match="is away: "):
            store.wait(each)
    took_s = time.monotonic() - began_at
    assert took_s > 4
    require_less(took_s, 8)
    store.proxy.mend()
    store.wait(asked)
    assert store.wait(store.browse(contents)) == ["a"]
