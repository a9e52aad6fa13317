"""Creates state files."""

from __future__ import annotations

import os
from pathlib import Path

from litebot.master.db import schema
from litebot.store.connection import NEW_FILE
from litebot.store.connection import connect
from litebot.store.dialect import engine_on


def create_file(path: Path) -> None:
    """Create an empty state file that only its owner can read.  Raises OSError."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    connect(path, NEW_FILE).close()


def make_state_file(path: Path) -> None:
    """Create a state file with the tables of Buildbot and litebot.  Raises OSError, StoreError."""
    create_file(path)
    handle = connect(path)
    with engine_on(handle).connect() as conn:
        schema.make(conn)
        conn.commit()
    handle.close()
