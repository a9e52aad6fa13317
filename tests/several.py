"""A database that several masters share, and masters on it."""

from __future__ import annotations

import sqlalchemy as sa
from postgres import Postgres

from litebot.master import schema
from litebot.master.postgres import driver_url


def new_database(postgres: Postgres) -> str:
    """The name of a new database with all tables."""
    name = postgres.new_database()
    engine = sa.create_engine(driver_url(postgres.url(name)))
    with engine.connect() as conn:
        schema.make(conn)
        conn.commit()
    engine.dispose()
    return name
