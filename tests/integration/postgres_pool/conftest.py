"""The fixture of a pool."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.pool import Store
from support.postgres import Postgres
from support.stand_in import Log


@pytest.fixture
def store(postgres: Postgres, logged: Log) -> Iterator[Store]:
    store = Store(postgres)
    store.open()
    yield store
    store.close()
