"""The states of objects, read and written in a transaction that the caller begins and ends."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model

states = Model.object_state


def get_state(conn: sa.engine.Connection, objectid: int, name: str) -> Any:
    """Return a state of an object, or None if it has none of this name."""
    mine = sa.and_(states.c.objectid == objectid, states.c.name == name)
    value = conn.execute(sa.select(states.c.value_json).where(mine)).scalar()
    return None if value is None else json.loads(value)


def set_state(conn: sa.engine.Connection, objectid: int, name: str, value: Any) -> None:
    """Set a state of an object; commits nothing."""
    mine = sa.and_(states.c.objectid == objectid, states.c.name == name)
    text = json.dumps(value)
    if conn.execute(states.update().where(mine).values(value_json=text)).rowcount == 0:
        conn.execute(states.insert().values(objectid=objectid, name=name, value_json=text))
