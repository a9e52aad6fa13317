"""Whether a database suits a master of litebot, and its neighbours there."""

from __future__ import annotations

import sqlalchemy as sa

from litebot.errors import StoreError
from litebot.master import postgres

ELSEWHERE = """
SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relname = 'litebot_starts' AND relkind IN ('r', 'p')
    AND pg_class.oid IS DISTINCT FROM to_regclass('litebot_starts')
"""


def refuse_two_sites(conn: sa.engine.Connection, name: str) -> None:
    """Raise StoreError where another schema of the database has masters.

    Their locks, events and connections would be taken for those of masters in this schema, as the
    server tells them apart by database only.
    """
    found = conn.exec_driver_sql(ELSEWHERE).scalars().first()
    if found is not None:
        raise StoreError(
            f"the schema {found} of {name} holds the tables of a master, too; masters that do not"
            " belong together need a database each",
            postgres.CREATE_EMPTY,
        )
