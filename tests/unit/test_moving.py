"""What a move copies, in which order, and how it tells a difference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.master.admin.move.compare import Difference
from litebot.master.admin.move.compare import canonical
from litebot.master.admin.move.compare import compare
from litebot.master.admin.move.sqlite_side import SqliteSide
from litebot.master.admin.move.tables import BYTES_A_BATCH
from litebot.master.admin.move.tables import ROWS_A_BATCH
from litebot.master.admin.move.tables import all_tables
from litebot.master.admin.move.tables import moved
from litebot.master.db.sqlite.state_file import make_state_file

CHUNKS = moved(Model.logchunks)
USERS = moved(Model.users)

Sides = tuple[SqliteSide, SqliteSide]


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    """Two state files with the same users and chunks."""
    made = []
    for name in ("here.sqlite", "there.sqlite"):
        make_state_file(tmp_path / name)
        side = SqliteSide(tmp_path / name, target=True)
        side.write(USERS, [[(n, f"user {n}", None, None) for n in (1, 2, 4)]])
        side.write(CHUNKS, [[(1, n, n, b"chunk", 0)] for n in range(3)])
        made.append(side)
    yield made[0], made[1]
    for side in made:
        side.close()


def refused(sides: Sides, statement: str) -> str:
    """What is told after a change to the second side."""
    sides[1].handle.execute(statement)
    table = USERS if "users" in statement else CHUNKS
    with pytest.raises(Difference) as caught:
        compare(*sides, table, lambda _rows: None)
    return caught.value.what.replace(str(sides[0].path.parent) + "/", "")


def test_every_table_has_an_order_that_leaves_nothing_open() -> None:
    tables = all_tables()
    assert {table.name for table in tables} >= {"builds", "logchunks", "litebot_starts"}
    for table in tables:
        unique = {column.name for column in table.table.primary_key.columns}
        wanted = unique or {column.name for column in table.columns}
        assert {column.name for column in table.order} == wanted


def test_rows_without_a_key_are_ordered_by_an_index_first() -> None:
    names = [column.name for column in CHUNKS.order]
    assert names == ["logid", "first_line", "last_line", "content", "compressed"]
    assert [column.name for column in CHUNKS.key] == ["logid", "first_line"]


def test_a_column_of_no_known_kind_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"column t\.x is of no known kind: DateTime"):
        moved(sa.Table("t", sa.MetaData(), sa.Column("x", sa.DateTime)))


def test_batches_are_bounded_in_rows_and_bytes() -> None:
    rows = ((1, n, n, b"", 0) for n in range(2 * ROWS_A_BATCH + 1))
    assert [len(batch) for batch in CHUNKS.batches(rows)] == [ROWS_A_BATCH, ROWS_A_BATCH, 1]
    large = bytes(BYTES_A_BATCH // 2)
    rows = ((1, n, n, large, 0) for n in range(5))
    assert [len(batch) for batch in CHUNKS.batches(rows)] == [2, 2, 1]


def test_the_same_rows_have_the_same_hash_however_they_are_listed(sides: Sides) -> None:
    rows = [(1, "a", None), (2, "ä" * 300, b"\0\xff"), (2**40, "", 0.1)]
    parts = b"".join(bytes(canonical([row])) for row in rows)
    assert bytes(canonical(rows)) == parts
    # Texts and bytes that are one object, or interned, are hashed as others are.
    text = "".join(["us", "ers"])
    assert canonical([(text, text)]) == canonical([("users", "".join(["u", "sers"]))])
    assert compare(*sides, USERS, lambda _rows: None)[0] == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, "1"), ("a", b"a"), (None, ""), (0, False), ("a\n", "a"), (0.0, -0.0)],
)
def test_values_of_another_type_have_another_hash(one: object, other: object) -> None:
    assert canonical([(one,)]) != canonical([(other,)])


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            "UPDATE users SET identifier = 'x' WHERE uid = 2",
            "table users, row uid=2: column identifier differs",
        ),
        (
            "UPDATE users SET identifier = 'x', bb_username = '' WHERE uid = 4",
            "table users, row uid=4: columns identifier, bb_username differ",
        ),
        (
            "DELETE FROM users WHERE uid = 2",
            "table users, row uid=2 is in here.sqlite and not in there.sqlite",
        ),
        (
            "DELETE FROM users WHERE uid = 4",
            "table users, row uid=4 is in here.sqlite and not in there.sqlite",
        ),
        (
            "INSERT INTO users (uid, identifier) VALUES (3, 'new')",
            "table users, row uid=3 is in there.sqlite and not in here.sqlite",
        ),
        (
            "INSERT INTO users (uid, identifier) VALUES (5, 'new')",
            "table users, row uid=5 is in there.sqlite and not in here.sqlite",
        ),
        (
            "UPDATE logchunks SET content = CAST(content AS TEXT) WHERE first_line = 1",
            "table logchunks, row logid=1, first_line=1: column content differs",
        ),
        (
            "UPDATE logchunks SET content = NULL WHERE first_line = 2",
            "table logchunks, row logid=1, first_line=2: column content differs",
        ),
        (
            "INSERT INTO logchunks SELECT * FROM logchunks WHERE first_line = 0",
            "table logchunks, row logid=1, first_line=0 is in there.sqlite and not in here.sqlite",
        ),
    ],
)
def test_a_difference_is_named(sides: Sides, statement: str, told: str) -> None:
    between = (
        " between here.sqlite and there.sqlite" if told.endswith(("differ", "differs")) else ""
    )
    assert refused(sides, statement) == told + between


def test_a_write_to_a_source_changes_its_mark(sides: Sides) -> None:
    path = sides[0].path
    sides[0].close()
    side = SqliteSide(path, target=False)
    tables = all_tables()
    before = side.mark(tables)
    side.take_snapshot()
    list(side.rows(USERS))
    assert side.mark(tables) == before
    writer = apsw.Connection(str(path))
    writer.execute("UPDATE users SET identifier = 'x' WHERE uid = 2")
    assert side.mark(tables) != before
    writer.close()
    side.close()
    sides[0]._open()
