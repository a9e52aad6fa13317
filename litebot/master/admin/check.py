"""Checks a master's database: what a start would repair, and whether its file is sound."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.basedir import Basedir
from litebot.errors import StoreError
from litebot.master import recovery
from litebot.master.db import postgres
from litebot.master.db import tables
from litebot.master.db.sqlite import commit_watermark
from litebot.master.preflight import TABLES
from litebot.master.preflight import require_tables
from litebot.master.recovery import Finding
from litebot.master.recovery import Scene
from litebot.master.startup import SOLE_MASTER
from litebot.settings import Settings
from litebot.settings import load
from litebot.store.dialect import engine_for

# A running master leaves half done what it is working on, but not for this long.  So while a master
# runs, the questions are asked twice.
AGAIN_AFTER_S = 2.0
# The type of a log whose chunks a janitor has deleted, or is deleting.
DELETED = "d"


def check(files: Basedir) -> list[Finding]:
    """Return everything that is wrong with the database; change nothing.  The master may run.

    Raises SettingsError, and StoreError if the database can't be read.
    """
    settings = load(files.settings_file)
    path = settings.database.sqlite_path(files.path)
    if path is not None and not path.exists():
        raise StoreError(f"{path} does not exist")
    if path is None:
        with postgres.translated_errors(settings.database.url):
            return _findings(
                files, settings, postgres.engine_for(settings.database.url, files.path), None
            )
    return _findings(files, settings, engine_for(path), path)


def _findings(
    files: Basedir, settings: Settings, engine: sa.Engine, path: Path | None
) -> list[Finding]:
    try:
        found = [] if path is None else list(_file(engine, path))
        if found:
            return found  # the tables of a damaged file can't be trusted
        if path is not None:
            with engine.connect() as conn:
                require_tables(set(conn.exec_driver_sql(TABLES).scalars()), path, files)
        runs = files.owner() is not None
        half_done = _ask(engine, settings, path, runs, files.master_name)
        if runs and half_done:
            time.sleep(AGAIN_AFTER_S)
            still = _ask(engine, settings, path, runs, files.master_name)
            half_done = [finding for finding in half_done if finding in still]
        with engine.connect() as conn:
            return [*half_done, *_references(conn), *_logs(conn)]
    finally:
        engine.dispose()


def _ask(
    engine: sa.Engine, settings: Settings, path: Path | None, runs: bool, name: str
) -> list[Finding]:
    """Return what is half done; `name` is the master's, for a database that others may share."""
    should_hold = commit_watermark.read(path) if path is not None else None
    with engine.connect() as conn:
        if not sa.inspect(conn).has_table(tables.subscriptions.name):
            lost = commit_watermark.missing(should_hold, None)
            return [Finding(recovery.LOST, 0, lost)] if lost else []  # litebot never used it
        attempts = settings.recovery.max_attempts
        if runs:
            # Which masters are alive can't be seen from here.
            scene = Scene(conn, SOLE_MASTER, False, (), attempts, should_hold)
        elif path is not None:
            scene = Scene.at_start(conn, SOLE_MASTER, True, attempts, should_hold)
        else:
            scene = Scene.at_start(conn, name, False, attempts)
        return [finding for pair in recovery.PAIRS for finding in pair.question(scene)]


def _file(engine: sa.Engine, path: Path) -> Iterator[Finding]:
    """Yield what SQLite's own check finds in the file.

    Source: https://sqlite.org/pragma.html#pragma_integrity_check
    """
    with engine.connect() as conn:
        for (message,) in conn.exec_driver_sql("PRAGMA integrity_check"):
            if message != "ok":
                yield Finding("damage", 0, f"{path}: {message}")


def _references(conn: sa.engine.Connection) -> Iterator[Finding]:
    """Yield a finding for each pair of tables with rows that refer to rows that do not exist."""
    if conn.dialect.name != "sqlite":
        return  # the other databases enforce references
    broken: dict[tuple[str, str], int] = {}
    for table, _, parent, _ in conn.exec_driver_sql("PRAGMA foreign_key_check"):
        broken[table, parent] = broken.get((table, parent), 0) + 1
    for (table, parent), count in sorted(broken.items()):
        yield Finding("reference", 0, f"{count} rows of {table} refer to rows that {parent} lacks")


def _logs(conn: sa.engine.Connection) -> Iterator[Finding]:
    """Yield finished logs whose chunks have gaps, or other than the log's number of lines."""
    logs, chunks = Model.logs, Model.logchunks
    stored = (
        sa.select(
            chunks.c.logid,
            (sa.func.max(chunks.c.last_line) + 1).label("end"),
            sa.func.sum(chunks.c.last_line - chunks.c.first_line + 1).label("lines"),
        )
        .group_by(chunks.c.logid)
        .subquery()
    )
    count = sa.func.coalesce(stored.c.lines, 0)
    query = (
        sa.select(logs.c.id, logs.c.name, logs.c.num_lines, count, Model.steps.c.buildid)
        .outerjoin_from(logs, stored, stored.c.logid == logs.c.id)
        .join(Model.steps, Model.steps.c.id == logs.c.stepid)
        .where(logs.c.complete == 1)
        .where(logs.c.type != DELETED)
        .where(sa.or_(logs.c.num_lines != count, stored.c.end != stored.c.lines))
        .order_by(logs.c.id)
    )
    for logid, name, shown, lines, buildid in conn.execute(query):
        message = f"log {name!r} of build id {buildid} shows {shown} lines and has {lines}"
        yield Finding("log", logid, message, buildid)
