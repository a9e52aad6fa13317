"""What `litebot upgrade-master` would do."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.basedir import Basedir
from litebot.master.admin.create import Choices
from litebot.master.admin.create import lacking
from litebot.master.admin.offline import inspected_database
from litebot.master.admin.upgrade import NEED
from litebot.master.admin.upgrade import changed_tac
from litebot.master.admin.upgrade import require_database
from litebot.master.admin.upgrade import shown
from litebot.master.admin.upgrade import stock_database_url
from litebot.master.cluster.checks import refuse_two_sites
from litebot.master.db import postgres
from litebot.master.db import schema
from litebot.master.db import tables as ours
from litebot.settings import Database
from litebot.settings import load

# The place in the header of a SQLite file of the byte that says how the file is written, and the
# value that means a write-ahead log.
# Source: https://sqlite.org/fileformat2.html#the_database_header
MODE_AT, WRITE_AHEAD = 18, 2


def plan(files: Basedir) -> list[str]:
    """Return what would be done to a basedir whose master is stopped; [] if it is up to date.

    Raises what the command would raise.
    """
    files.require()
    files.refuse_owner(NEED)
    files.require_writable()
    settings_file = files.settings_file
    if settings_file.exists():
        database = load(settings_file).database
    else:
        sys.dont_write_bytecode = True  # master.cfg may import modules beside it
        database = Database(stock_database_url(files))
    require_database(files, database)
    return [*_files(files, database), *_database(files, database)]


def _files(files: Basedir, database: Database) -> Iterator[str]:
    settings_file = files.settings_file
    if not settings_file.exists():
        yield f"would make {settings_file}, which names {database.url}"
    text, changed, is_stock = changed_tac(files.tac_file)
    if changed != text:
        starts = "start litebot" if is_stock else "start the master of the folder that it lies in"
        kept = f"; the old one would be {files.tac_file}.stock" if is_stock else ""
        yield f"would change {files.tac_file} to {starts}{kept}"
    added = [
        name
        for name in lacking(files.path, Choices(database_url=database.url))
        if name != settings_file.name
    ]
    if added:
        yield f"would add to {files.path}: {', '.join(added)}"
    path = database.sqlite_path(files.path)
    mode = 0o600 if path is None else stat.S_IMODE(path.stat().st_mode)
    if mode != 0o600:
        yield f"would let nobody but its owner read {path}: mode {mode:04o} would be 0600"


def _database(files: Basedir, database: Database) -> Iterator[str]:
    name = shown(files, database)
    path = database.sqlite_path(files.path)
    with inspected_database(files, NEED, database=database) as conn:
        if path is None:
            encoding = conn.exec_driver_sql("SHOW server_encoding").scalar_one()
            postgres.refuse_encoding(encoding, name)
            refuse_two_sites(conn, name)
        schema.refuse_upgrade(conn, name)
        if path is not None and not _has_log(path):
            yield f"would have {name} use a write-ahead log"
        yield from (f"would {change} in {name}" for change in _tables(conn))


def _has_log(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(MODE_AT + 1)[MODE_AT:] == bytes([WRITE_AHEAD])


def _tables(conn: sa.engine.Connection) -> Iterator[str]:
    """Yield the changes that would bring the tables up to date."""
    inspector = sa.inspect(conn)
    there = set(inspector.get_table_names())
    revision, known = schema.buildbots_revision(conn), schema.buildbots_revisions()
    if revision is None and "migrate_version" in there:
        revision = known[0]  # as Buildbot assumes for tables of older versions
    if revision is not None and revision != known[-1]:
        pending = known[known.index(revision) + 1 :]
        yield f"run Buildbot's migrations {', '.join(pending)}"
    version, newest = schema.version(conn), len(schema.MIGRATIONS)
    if version != newest:
        yield f"bring litebot's tables from version {version} to {newest}"
    for tables in (Model.metadata.tables.values(), ours.metadata.tables.values()):
        missing = sorted(table.name for table in tables if table.name not in there)
        if missing:
            yield f"make the tables {', '.join(missing)}"
        for table in tables:
            if table.name not in there:
                continue
            columns = {column["name"] for column in inspector.get_columns(table.name)}
            new = [column.name for column in table.columns if column.name not in columns]
            if new:
                rows = conn.execute(sa.select(sa.func.count()).select_from(table)).scalar()
                word = "column" if len(new) == 1 else "columns"
                yield f"add the {word} {', '.join(new)} to {table.name}, of {rows} rows,"
    if missing := list(schema.missing_indexes_and_triggers(conn)):
        yield f"make {', '.join(missing)}"
