"""Giving free pages of a state file back."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from litebot.master.admin.cleanup import free_pages
from litebot.master.admin.cleanup import rewrite
from litebot.master.admin.cleanup import shrink
from litebot.master.admin.cleanup import shrinks_in_pieces
from litebot.master.db.sqlite.state_file import create_file
from litebot.store.connection import connect
from litebot.store.dialect import engine_on

FILL = """
    CREATE TABLE t (x);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000)
    INSERT INTO t SELECT zeroblob(4000) FROM n;
    DELETE FROM t WHERE rowid > 100
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite"


def test_a_piece_is_no_larger_than_asked_for(path: Path) -> None:
    create_file(path)
    handle = connect(path)
    handle.execute(FILL)
    with engine_on(handle).connect() as conn:
        assert shrinks_in_pieces(conn)
        free = free_pages(conn)
        assert free > 800
        for _ in range(3):
            handle.execute("BEGIN IMMEDIATE")
            assert shrink(conn, 200) == free - 200
            handle.execute("COMMIT")
            free -= 200
        assert shrink(conn, 2000) == 0
    handle.close()
    assert path.stat().st_size < 150 * 4096


def test_a_file_that_stock_buildbot_made_shrinks_in_pieces_afterwards(path: Path) -> None:
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", "wal")
    db.execute(FILL)
    db.close()
    handle = connect(path)
    with engine_on(handle).connect() as conn:
        assert not shrinks_in_pieces(conn)
        conn.rollback()
        handle.execute("BEGIN IMMEDIATE")
        rewrite(conn)
    with engine_on(handle).connect() as conn:
        assert shrinks_in_pieces(conn)
        assert free_pages(conn) == 0
        assert conn.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    handle.close()
    assert path.stat().st_size < 150 * 4096
