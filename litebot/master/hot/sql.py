"""What hot components need to know of SQL beside litebot.store.sql."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from litebot.store import dbapi

# What is written, through a connection, in the transaction that ends a build or a buildset.
AlsoEnds = Callable[[sa.engine.Connection], None]

INTEGRITY_ERRORS = (dbapi.IntegrityError, sa.exc.IntegrityError)
