"""Copying the whole database into an empty one, of the same kind or another."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.errors import StoreError
from litebot.master import schema

ROWS_A_BATCH = 2000


def copy(
    source: sa.engine.Connection,
    target: sa.engine.Connection,
    progress: Callable[[str, int], None],
    *,
    skip_orphans: bool = False,
) -> int:
    """Copy every row of Buildbot's and litebot's tables; returns how many.

    What is copied is the source as it is at the beginning, whoever writes to it meanwhile.  The
    target must hold no table; it gets all or nothing.  `progress` is told each table's name
    and rows so far.  With `skip_orphans` rows that refer to one that does not exist are left out,
    and so are those that refer to them.  Raises StoreError where the target holds something or a
    count differs.
    """
    refuse_full(target, target.engine.url.render_as_string())
    _hold_still(source)
    schema.make_buildbots(target)
    schema.metadata.create_all(target)
    total = 0
    tables = _in_order()
    for table in tables:
        total += _copy_table(source, target, table, _wanted(table, skip_orphans), progress)
    for table in tables:
        _fill_late_columns(source, target, table, skip_orphans)
    for table in tables:
        count = sa.select(sa.func.count()).select_from(table)
        here = source.execute(count.where(_wanted(table, skip_orphans))).scalar()
        there = target.execute(count).scalar()
        if here != there:
            raise StoreError(f"table {table.name} has {here} rows and its copy {there}")
        _set_sequence(target, table)
    target.commit()
    return total


def refuse_full(target: sa.engine.Connection, name: str) -> None:
    """Raise StoreError where a database, shown as `name`, holds tables."""
    present = sa.inspect(target).get_table_names()
    if present:
        raise StoreError(f"{name} holds tables ({present[0]}, ...)", "name an empty database")


def count(source: sa.engine.Connection, *, skip_orphans: bool) -> dict[str, tuple[int, int]]:
    """How many rows of each table `copy` would copy, and how many it would leave out."""
    source.rollback()  # a transaction keeps the isolation that it has
    _hold_still(source)
    found = {}
    for table in _in_order():
        query = sa.select(sa.func.count()).select_from(table)
        whole = source.execute(query).scalar() or 0
        copied = whole
        if skip_orphans:
            copied = source.execute(query.where(_wanted(table, True))).scalar() or 0
        found[table.name] = (copied, whole - copied)
    return found


def _hold_still(source: sa.engine.Connection) -> None:
    """Make all that is read from now on one snapshot."""
    if source.dialect.name == "sqlite":
        source.exec_driver_sql("BEGIN")
    else:
        source.execution_options(isolation_level="REPEATABLE READ")


def _in_order() -> list[sa.Table]:
    """Every table after those that it refers to, but for the late columns."""
    tables = [*Model.metadata.tables.values(), *schema.metadata.tables.values()]
    ordered = sa.schema.sort_tables_and_constraints(tables, filter_fn=_is_late)
    return [table for table, _ in ordered if table is not None]


def _is_late(key: sa.ForeignKeyConstraint) -> bool:
    """Whether a reference closes a circle and can be filled in when both tables are copied."""
    return key.use_alter and all(column.nullable for column in key.columns)


def _late_columns(table: sa.Table) -> list[sa.Column[int]]:
    return [next(iter(key.columns)) for key in table.foreign_key_constraints if _is_late(key)]


def _wanted(table: sa.Table, skip_orphans: bool) -> sa.ColumnElement[bool]:
    """Which rows of a table are to be copied."""
    conditions: list[sa.ColumnElement[bool]] = [sa.true()]
    if skip_orphans:
        late = {column.name for column in _late_columns(table)}
        keys = [key for key in table.foreign_keys if key.parent.name not in late]
        conditions += [_refers_to_wanted(key) for key in keys]
    return sa.and_(*conditions)


def _refers_to_wanted(key: sa.ForeignKey) -> sa.ColumnElement[bool]:
    parent, column = key.column.table, key.parent
    there = sa.select(key.column).correlate(None)
    # Among the rows of one table references may go on for ever: there, one that exists will do.
    if parent is not column.table:
        there = there.where(_wanted(parent, True))
    return sa.or_(column.is_(None), column.in_(there))


def _copy_table(
    source: sa.engine.Connection,
    target: sa.engine.Connection,
    table: sa.Table,
    wanted: sa.ColumnElement[bool],
    progress: Callable[[str, int], None],
) -> int:
    late = {column.name: None for column in _late_columns(table)}
    # In the order of the key, since a row may refer to an older one of its own table.
    rows = source.execution_options(yield_per=ROWS_A_BATCH).execute(
        sa.select(table).where(wanted).order_by(*table.primary_key.columns)
    )
    copied = 0
    for batch in rows.partitions():
        target.execute(table.insert(), [{**row._mapping, **late} for row in batch])
        copied += len(batch)
        progress(table.name, copied)
    return copied


def _fill_late_columns(
    source: sa.engine.Connection,
    target: sa.engine.Connection,
    table: sa.Table,
    skip_orphans: bool,
) -> None:
    for column in _late_columns(table):
        wanted = [column.is_not(None), _wanted(table, skip_orphans)]
        if skip_orphans:
            wanted += [_refers_to_wanted(key) for key in column.foreign_keys]
        query = sa.select(table.c.id.label("row_id"), column.label("value")).where(*wanted)
        found = source.execute(query).mappings().all()
        if found:
            update = table.update().where(table.c.id == sa.bindparam("row_id"))
            statement = update.values({column.name: sa.bindparam("value")})
            target.execute(statement, [dict(row) for row in found])


def _set_sequence(target: sa.engine.Connection, table: sa.Table) -> None:
    """Postgres numbers new rows by a sequence, which must go on after the copied ones."""
    column = table.autoincrement_column
    if target.dialect.name != "postgresql" or column is None:
        return
    top = target.execute(sa.select(sa.func.max(column))).scalar()
    if top is not None:
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        target.execute(sa.select(sa.func.setval(sequence, top)))
