"""The fixture of a pool."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from litebot.master.db.postgres import watch
from support.pool import Store
from support.pool import contents
from support.postgres import Postgres
from support.stand_in import Log


@pytest.fixture
def store(postgres: Postgres, logged: Log) -> Iterator[Store]:
    store = Store(postgres)
    store.open()
    yield store
    store.close()


@pytest.fixture
def slow(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The network takes 2 s for a megabyte, which is longer than a look waits."""
    monkeypatch.setattr(watch, "CHECK_AFTER_S", 1.0)
    monkeypatch.setattr(watch, "IDLE_S", 1.0)
    store.wait(store.do(contents))
    store.proxy.bytes_a_second = 500_000
    return store
