"""Totals of long lists: counted on from what was counted before, and exact all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from litebot.store.connection import MASTER
from litebot.store.connection import READER
from litebot.store.connection import connect
from litebot.store.dialect import engine_on
from litebot.store.sql import CountingSql
from support.worlds import make_state_file

ADD = "INSERT INTO changes (author, comments, when_timestamp, project, branch, sourcestampid)"
FILTERS = (("1", ()), ("branch = ?", ("main",)), ("branch = ?", ("next",)))


class Both:
    """The connection that writes a state file, and one that counts."""

    def __init__(self, path: Path) -> None:
        self.writer = connect(path, MASTER)
        self.writer.pragma("foreign_keys", False)
        self.reader = connect(path, READER)
        self.sql = CountingSql(self.reader, engine_on(self.reader), {})
        self.statements: list[str] = []
        self.reader.trace_v2(
            apsw.SQLITE_TRACE_STMT, lambda event: self.statements.append(event["sql"])
        )

    def add(self, branch: str, count: int = 1) -> None:
        for _ in range(count):
            self.writer.execute(f"{ADD} VALUES ('a', '', 0, '', ?, 1)", (branch,))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self.reader.execute("BEGIN")
        try:
            yield
        finally:
            self.reader.execute("ROLLBACK")

    def counts(self) -> list[int]:
        with self.snapshot():
            return [self.sql.count("changes c", where, *values) for where, values in FILTERS]

    def really(self) -> list[int]:
        query = "SELECT count(*) FROM changes WHERE "
        return [self.writer.execute(query + where, values).get for where, values in FILTERS]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    path = tmp_path / "state.sqlite"
    make_state_file(path)
    both = Both(path)
    yield both
    both.reader.close()
    both.writer.close()


def test_what_was_counted_is_not_counted_again(both: Both) -> None:
    both.add("main", 3)
    assert both.counts() == [3, 3, 0]
    both.statements.clear()
    assert both.counts() == [3, 3, 0]
    assert not [sql for sql in both.statements if "count(" in sql]
    both.add("next")
    assert both.counts() == [4, 3, 1]
    counting = [sql for sql in both.statements if "count(" in sql]
    plans = [
        list(both.writer.execute(f"EXPLAIN QUERY PLAN {sql}", (1, "x")[: sql.count("?")]))
        for sql in counting
    ]
    assert all("INTEGER PRIMARY KEY (rowid>?)" in plan[0][-1] for plan in plans)


def test_a_deletion_is_noticed(both: Both) -> None:
    both.add("main", 3)
    assert both.counts() == [3, 3, 0]
    both.writer.execute("DELETE FROM changes WHERE changeid = 2")
    assert both.counts() == [2, 2, 0]


def test_an_id_that_is_given_twice_is_noticed(both: Both) -> None:
    both.add("main", 3)
    assert both.counts() == [3, 3, 0]
    both.writer.execute("DELETE FROM changes WHERE changeid = 3")
    both.add("next")
    assert both.counts() == [3, 2, 1]


def test_a_snapshot_counts_what_it_shows(both: Both) -> None:
    both.add("main", 3)
    with both.snapshot():
        assert both.sql.count("changes", "1") == 3
        both.writer.execute("DELETE FROM changes WHERE changeid = 1")
        both.add("main", 2)
        assert both.sql.count("changes", "1") == 3
    assert both.counts()[0] == 4


def test_a_file_without_the_table_of_deletions(both: Both) -> None:
    both.add("main", 2)
    both.writer.execute("DELETE FROM litebot_deletions")
    assert both.counts() == [2, 2, 0]
    both.writer.execute("DELETE FROM changes WHERE changeid = 1")
    assert both.counts() == [1, 1, 0]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(["main", "next"])),
        st.tuples(st.just("delete"), st.integers(1, 12)),
        st.tuples(st.just("undo"), st.integers(1, 12)),
        st.tuples(st.just("count"), st.none()),
    )
)


@given(steps=STEPS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_always_exact(both: Both, steps: list[tuple[str, str | int | None]]) -> None:
    for step, value in steps:
        if step == "add":
            both.add(str(value))
        elif step == "delete":
            both.writer.execute("DELETE FROM changes WHERE changeid = ?", (value,))
        elif step == "undo":
            both.writer.execute("BEGIN IMMEDIATE")
            both.add("main", 2)
            both.writer.execute("DELETE FROM changes WHERE changeid = ?", (value,))
            both.counts()
            both.writer.execute("ROLLBACK")
        else:
            assert both.counts() == both.really()
    assert both.counts() == both.really()
