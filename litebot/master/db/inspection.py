"""Reads the database of a basedir on a connection of its own, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from litebot.basedir import Basedir
from litebot.master.db import move_away
from litebot.master.db import postgres
from litebot.settings import Database
from litebot.store.connection import open_for_inspection
from litebot.store.dialect import engine_on


@contextmanager
def inspected(files: Basedir, database: Database, *, stopped: bool) -> Iterator[sa.Connection]:
    """Yield a connection that reads the database; touches no file.

    With `stopped` the caller knows that no master runs on a state file.  Raises StoreError if the
    database can't be read or was moved away.
    """
    url, path = database.url, database.sqlite_path(files.path)
    if path is not None:
        handle = open_for_inspection(path, stopped=stopped)
        try:
            with engine_on(handle).connect() as conn:
                yield conn
        finally:
            handle.close()
        return
    engine = postgres.engine_for(url, files.path).execution_options(postgresql_readonly=True)
    try:
        with postgres.translated_errors(url), engine.connect() as conn:
            move_away.refuse_others(conn, postgres.shown(url), files.master_name)
            yield conn
    finally:
        engine.dispose()
