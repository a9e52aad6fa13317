"""What hot components need to know of SQL beside litebot.store.sql."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from litebot.store import dbapi

# What is written, through a connection, in the transaction that ends a build or a buildset.
AlsoEnds = Callable[[sa.engine.Connection], None]

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)

INTEGRITY_ERRORS = (dbapi.IntegrityError, sa.exc.IntegrityError)


def epoch2datetime(epoch: float | None) -> datetime.datetime | None:
    """As Buildbot's, and equal to it, in half its time: the standard library's UTC is in C."""
    return None if epoch is None else datetime.datetime.fromtimestamp(epoch, datetime.UTC)


def epoch_of(time: datetime.datetime) -> int:
    """As Buildbot's datetime2epoch, in a fifth of its time; `time` says of which zone it is."""
    return (time - EPOCH) // SECOND


def fitting(db: Any, column: sa.Column[Any], text: Any) -> Any:
    """A text as the database takes it for a column.

    SQLite takes any.  For Postgres it is cut to the column's length, and without NUL: what is told
    to people should not keep a change or a build from being stored.
    """
    if not db.limits_texts or not isinstance(text, str):
        return text
    return text.replace("\0", "\ufffd")[: getattr(column.type, "length", None)]
