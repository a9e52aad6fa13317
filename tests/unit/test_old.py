"""Deleting what is old: a piece a turn, and the same in the end as by Buildbot's statements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.defer import ensureDeferred

from litebot.master.db.components import pruning
from litebot.master.db.sqlite.state_file import make_state_file
from litebot.store.connection import connect
from support.stand_in import Asked
from support.stand_in import Reactor
from support.turning import Store

pytestmark = pytest.mark.usefixtures("logged")

LOGS = 1200
OLD_STEPS = 900  # of as many as there are logs
CHUNKS = 3
DATA = 200


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Steps that began at the time of their number, with a log each, and data of two builds."""
    path = tmp_path / "state.sqlite"
    make_state_file(path)
    with connect(path) as db:
        db.execute(
            f"""
            INSERT INTO builds (id, number, builderid, buildrequestid, masterid, started_at,
                complete_at, state_string, locks_duration_s)
                VALUES (1, 1, 1, 1, 1, 0, 10, '', 0), (2, 2, 1, 1, 1, 0, NULL, '', 0);
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {LOGS})
            INSERT INTO steps (id, number, name, buildid, started_at, state_string, urls_json,
                hidden) SELECT i, i, 's' || i, 1, i, '', '[]', 0 FROM n;
            INSERT INTO logs (id, name, slug, stepid, complete, num_lines, type)
                SELECT id, 'stdio', 'stdio', id, 1, {CHUNKS}, 's' FROM steps;
            WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT {CHUNKS})
            INSERT INTO logchunks SELECT logs.id, i, i, 'oline', 0 FROM logs, n;
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {DATA})
            INSERT INTO build_data SELECT i, 1 + i % 2, i, 'value', 5, 'source' FROM n;
            """
        )
    db.close()
    return path


class Database:
    """As much of the database as deleting asks for; counts what it writes at once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.largest = 0

    def do_sql(self, work: Any, *args: Any) -> Deferred[Any]:
        def run(sql: Any) -> Any:
            before = self.store.handle.total_changes()
            result = work(sql, *args)
            self.largest = max(self.largest, self.store.handle.total_changes() - before)
            return result

        return self.store.queue.do_sql(run)


@pytest.fixture
def database(reactor: Reactor, path: Path) -> Iterator[Database]:
    store = Store(reactor, path)
    yield Database(store)
    store.stop()


def rows(path: Path, query: str) -> list[Any]:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def test_log_chunks(database: Database, path: Path) -> None:
    deleting = Asked(ensureDeferred(pruning.delete_log_chunks(database, OLD_STEPS + 1)))
    assert database.store.wait(deleting) == OLD_STEPS * CHUNKS
    assert database.largest <= max(pruning.LOGS_A_PIECE, pruning.CHUNKS_A_PIECE)
    assert database.store.commits > OLD_STEPS * CHUNKS / pruning.CHUNKS_A_PIECE
    types = rows(path, "SELECT type, count(*), max(id) FROM logs GROUP BY type ORDER BY type")
    assert types == [("d", OLD_STEPS, OLD_STEPS), ("s", LOGS - OLD_STEPS, LOGS)]
    kept = rows(path, "SELECT count(*), min(logid) FROM logchunks")
    assert kept == [((LOGS - OLD_STEPS) * CHUNKS, OLD_STEPS + 1)]
    again = Asked(ensureDeferred(pruning.delete_log_chunks(database, OLD_STEPS + 1)))
    assert database.store.wait(again) == 0


def test_what_an_interrupted_one_left_is_deleted_too(database: Database, path: Path) -> None:
    database.store.handle.execute("UPDATE logs SET type = 'd' WHERE id = 7")
    deleting = Asked(ensureDeferred(pruning.delete_log_chunks(database, 0)))
    assert database.store.wait(deleting) == CHUNKS
    assert rows(path, "SELECT count(*) FROM logchunks WHERE logid = 7") == [(0,)]


def test_build_data(database: Database, path: Path) -> None:
    deleting = Asked(ensureDeferred(pruning.delete_build_data(database, 11)))
    assert database.store.wait(deleting) == DATA // 2
    assert database.largest <= pruning.BUILD_DATA_A_PIECE
    assert rows(path, "SELECT DISTINCT buildid FROM build_data") == [(2,)]
