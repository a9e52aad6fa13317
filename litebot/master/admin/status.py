"""Reads from a master's database what the master does, whether it runs or not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.basedir import Basedir
from litebot.errors import StoreError
from litebot.master.db import postgres
from litebot.master.db import tables
from litebot.master.db.sqlite import commit_watermark
from litebot.master.preflight import TABLES
from litebot.master.preflight import require_tables
from litebot.settings import Settings
from litebot.settings import load
from litebot.store.connection import open_for_inspection
from litebot.store.dialect import engine_on

PENDING_SHOWN = 100


@dataclass
class Status:
    """The answer of `litebot status`; times are in epoch seconds, sizes in bytes."""

    basedir: str
    running: bool
    pid: int | None
    started_at: float | None
    url: str | None
    database: dict[str, Any]
    builders: list[str] = field(default_factory=list)
    running_builds: list[dict[str, Any]] = field(default_factory=list)
    pending: int = 0
    # The oldest PENDING_SHOWN of the pending requests.
    pending_requests: list[dict[str, Any]] = field(default_factory=list)
    # How many pending requests are for a builder that no master has, by the name of the builder.
    without_builder: dict[str, int] = field(default_factory=dict)
    last_start: dict[str, Any] | None = None
    # The names of the other masters that run on the same database.
    masters: list[str] = field(default_factory=list)
    # The reports that have not been delivered yet, from the outbox.
    reports: list[dict[str, Any]] = field(default_factory=list)
    # In words, what was on disk but is missing in the state file; None once a start has handled it.
    missing: str | None = None
    # While the database server of a running master is away: `since` when, and why, in `words`.
    outage: dict[str, Any] | None = None
    # How often the limits of a running master have refused something, by reason, since its start.
    refused: dict[str, int] = field(default_factory=dict)
    last_refused: dict[str, str] = field(default_factory=dict)  # who or what, by the same reasons
    # What the change sources of a running master can't do: see delivery.source_problems.Problem.
    sources: list[dict[str, Any]] = field(default_factory=list)
    # The workers that a running master has taken for lost as they did not answer, by name: `since`
    # when, and how long, in `words`.
    lost_workers: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Why the database could not be read; everything that comes from it is empty then.
    unreachable: str | None = None


def status(files: Basedir) -> Status:
    """Return the status of a basedir.

    Raises SettingsError, and StoreError if its state file can't be read.  If a database on a server
    can't be read, `unreachable` says why.
    """
    settings = load(files.settings_file)
    owner = files.owner()
    result = Status(
        basedir=str(files.path),
        running=owner is not None,
        pid=owner.pid if owner else None,
        started_at=owner.started_at if owner else None,
        url=owner.url if owner else None,
        outage=owner.outage if owner else None,
        database=_database(settings, files.path),
    )
    path = settings.database.sqlite_path(files.path)
    should_hold = commit_watermark.read(path) if path else None
    if path is None:
        try:
            with postgres.translated_errors(settings.database.url):
                engine = postgres.engine_for(settings.database.url, files.path)
                _fill(result, engine, master=files.master_name)
        except StoreError as error:
            result.unreachable = error.what
        return result
    handle = open_for_inspection(path)
    try:
        require_tables({name for (name,) in handle.execute(TABLES)}, path, files)
        _fill(result, engine_on(handle), should_hold)
    finally:
        handle.close()
    return result


def _fill(
    result: Status,
    engine: sa.Engine,
    should_hold: commit_watermark.Content | None = None,
    master: str | None = None,
) -> None:
    """Add what is in the database; `master` is this master's name if there may be others."""
    with engine.connect() as conn:
        result.builders = _builders(conn)
        result.running_builds = _running_builds(conn)
        result.pending, result.pending_requests = _pending(conn)
        result.without_builder = _without_builder(conn)
        pages = Pages(conn, result.url)
        result.last_start = _last_start(conn, pages, master)
        if master is not None:
            result.masters = _others(conn, master)
        result.reports = _reports(conn, pages)
        result.missing = commit_watermark.missing(should_hold, commit_watermark.content_of(conn))


def _database(settings: Settings, basedir: Path) -> dict[str, Any]:
    path = settings.database.sqlite_path(basedir)
    if path is None:
        return {"url": settings.database.url}
    sizes = {}
    for name, suffix in (("size_bytes", ""), ("log_bytes", "-wal")):
        try:
            sizes[name] = os.stat(f"{path}{suffix}").st_size
        except FileNotFoundError:
            sizes[name] = 0
    return {"path": str(path), **sizes}


def _builders(conn: sa.engine.Connection) -> list[str]:
    """Return the builders that a master has; former builders have no row in builder_masters."""
    b, bm = Model.builders, Model.builder_masters
    query = sa.select(b.c.name).where(b.c.id.in_(sa.select(bm.c.builderid))).order_by(b.c.name)
    return list(conn.execute(query).scalars())


def _running_builds(conn: sa.engine.Connection) -> list[dict[str, Any]]:
    b = Model.builds
    query = (
        sa.select(
            b.c.id.label("buildid"),
            b.c.number,
            Model.builders.c.name.label("builder"),
            Model.workers.c.name.label("worker"),
            b.c.started_at,
            b.c.state_string.label("state"),
        )
        .join_from(b, Model.builders, b.c.builderid == Model.builders.c.id)
        .outerjoin(Model.workers, b.c.workerid == Model.workers.c.id)
        .where(b.c.complete_at.is_(None))
        .order_by(b.c.id)
    )
    return [dict(row) for row in conn.execute(query).mappings()]


def _unclaimed() -> sa.ColumnElement[bool]:
    r, claims = Model.buildrequests, Model.buildrequest_claims
    return sa.and_(r.c.complete == 0, r.c.id.not_in(sa.select(claims.c.brid)))


def _pending(conn: sa.engine.Connection) -> tuple[int, list[dict[str, Any]]]:
    r, unclaimed = Model.buildrequests, _unclaimed()
    count = conn.execute(sa.select(sa.func.count()).where(unclaimed)).scalar() or 0
    query = (
        sa.select(
            r.c.id.label("buildrequestid"),
            Model.builders.c.name.label("builder"),
            r.c.submitted_at,
            r.c.priority,
        )
        .join_from(r, Model.builders, r.c.builderid == Model.builders.c.id)
        .where(unclaimed)
        .order_by(r.c.id)
        .limit(PENDING_SHOWN)
    )
    return count, [dict(row) for row in conn.execute(query).mappings()]


def _without_builder(conn: sa.engine.Connection) -> dict[str, int]:
    r, b = Model.buildrequests, Model.builders
    has_none = b.c.id.not_in(sa.select(Model.builder_masters.c.builderid))
    query = (
        sa.select(b.c.name, sa.func.count())
        .join_from(r, b, r.c.builderid == b.c.id)
        .where(_unclaimed(), has_none)
        .group_by(b.c.name)
        .order_by(b.c.name)
    )
    return {row[0]: row[1] for row in conn.execute(query)}


class Pages:
    """Addresses on the web page at `url`; without `url` all are None."""

    def __init__(self, conn: sa.engine.Connection, url: str | None) -> None:
        self._conn = conn
        self._url = url

    def of_build(self, buildid: int | None) -> str | None:
        """Return the address of a build, or None."""
        b = Model.builds
        query = sa.select(b.c.builderid, b.c.number).where(b.c.id == buildid)
        row = self._conn.execute(query).first() if self._url and buildid else None
        return f"{self._url}#/builders/{row.builderid}/builds/{row.number}" if row else None

    def of_buildset(self, bsid: int) -> str | None:
        """Return the address of the buildset's first request, or None."""
        r = Model.buildrequests
        query = sa.select(sa.func.min(r.c.id)).where(r.c.buildsetid == bsid)
        brid = self._conn.execute(query).scalar() if self._url else None
        return f"{self._url}#/buildrequests/{brid}" if brid else None


def _others(conn: sa.engine.Connection, master: str) -> list[str]:
    masters = Model.masters
    others = sa.select(masters.c.name).where(masters.c.active == 1, masters.c.name != master)
    return list(conn.execute(others.order_by(masters.c.name)).scalars())


def _last_start(
    conn: sa.engine.Connection, pages: Pages, master: str | None
) -> dict[str, Any] | None:
    starts, repairs = tables.starts, tables.repairs
    if not sa.inspect(conn).has_table(starts.name):
        return None  # never started by litebot
    query = sa.select(starts).order_by(starts.c.id.desc()).limit(1)
    if master is not None:
        query = query.where(starts.c.master == master)
    row = conn.execute(query).mappings().first()
    if row is None:
        return None
    found = sa.select(repairs.c.kind, repairs.c.message, repairs.c.buildid)
    mine = found.where(repairs.c.startid == row["id"]).order_by(repairs.c.id)
    found_then = conn.execute(mine).mappings().all()
    return {**row, "repairs": [{**r, "url": pages.of_build(r["buildid"])} for r in found_then]}


def _reports(conn: sa.engine.Connection, pages: Pages) -> list[dict[str, Any]]:
    outbox = tables.outbox
    if not sa.inspect(conn).has_table(outbox.name):
        return []
    found = conn.execute(sa.select(outbox).order_by(outbox.c.id))
    page = {"builds": pages.of_build, "buildsets": pages.of_buildset}
    return [{**row, "url": page[row["kind"]](row["about"])} for row in found.mappings().all()]
