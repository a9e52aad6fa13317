"""The questions of recovery, asked of tables that a crash left half done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.master import recovery
from litebot.master.db import tables
from support.master import Master
from support.master import on_both

pytestmark = on_both


@pytest.fixture
def conn(created: Master, tmp_path: Path) -> Iterator[sa.engine.Connection]:
    """The tables of a master that died after writing a chunk of a log, before its line count."""
    with created.copy(tmp_path / "ci").connection() as conn:
        named = {"name": "x", "name_hash": "x"}
        conn.execute(Model.masters.insert().values(id=1, active=0, last_active=0, **named))
        conn.execute(Model.builders.insert().values(id=1, **named))
        conn.execute(Model.buildsets.insert().values(id=1, submitted_at=0, complete=0))
        request = {"id": 1, "buildsetid": 1, "builderid": 1, "submitted_at": 0, "complete": 0}
        conn.execute(Model.buildrequests.insert().values(request))
        build = {"id": 1, "number": 1, "builderid": 1, "buildrequestid": 1, "masterid": 1}
        more = {"started_at": 0, "locks_duration_s": 0, "state_string": "building"}
        conn.execute(Model.builds.insert().values(**build, **more))
        step = {"id": 1, "number": 0, "name": "s", "buildid": 1, "state_string": ""}
        conn.execute(Model.steps.insert().values(**step, urls_json="[]"))
        log = {"id": 1, "name": "stdio", "slug": "stdio", "stepid": 1, "type": "s"}
        conn.execute(Model.logs.insert().values(**log, complete=0, num_lines=3))
        chunk = {"logid": 1, "compressed": 0}
        for first, last, content in ((0, 2, b"oa\nob\noc"), (3, 4, b"od\noe")):
            lines = {"first_line": first, "last_line": last, "content": content}
            conn.execute(Model.logchunks.insert().values(**chunk, **lines))
        conn.commit()
        yield conn


def begin(conn: sa.engine.Connection) -> tuple[int, list[recovery.Finding]]:
    """Record a start of that master, as the sole one on its database."""
    return recovery.begin(conn, "x", True, 3, should_hold=None, masterid=1)


def test_lines_that_were_stored_last_are_shown_and_the_log_is_finished(
    conn: sa.engine.Connection,
) -> None:
    begin(conn)
    logs = Model.logs
    (row,) = conn.execute(sa.select(logs.c.num_lines, logs.c.complete))
    assert tuple(row) == (5, 1)


def test_a_second_start_finds_nothing(conn: sa.engine.Connection) -> None:
    _, findings = begin(conn)
    assert [finding.kind for finding in findings] == ["interrupted build"]
    _, findings = begin(conn)
    assert findings == []


def test_after_a_stock_buildbot_schedulers_begin_anew(conn: sa.engine.Connection) -> None:
    conn.execute(tables.scheduler_positions.insert().values(schedulerid=1, changeid=3))
    conn.execute(Model.masters.update().values(last_active=10))
    begin(conn)
    assert conn.execute(sa.select(tables.scheduler_positions.c.changeid)).scalars().all() == [3]
    stock = {"id": 2, "name": "host:/srv/ci", "name_hash": "y", "active": 0, "last_active": 11}
    conn.execute(Model.masters.insert().values(stock))
    _, findings = begin(conn)
    assert [finding.kind for finding in findings] == ["another master"]
    assert conn.execute(sa.select(tables.scheduler_positions)).all() == []
