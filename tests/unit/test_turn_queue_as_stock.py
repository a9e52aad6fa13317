"""Random work has the outcome that it has on connections of its own, as in stock Buildbot."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from buildbot.db import enginestrategy
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from litebot.master.db.pool import EXPECTED
from litebot.master.db.sqlite import turn_queue
from support.stand_in import Reactor
from support.turning import Connection
from support.turning import Store

pytestmark = pytest.mark.usefixtures("logged")

Piece = list[tuple[str, int]]
simple = st.tuples(st.sampled_from(["insert", "insert", "commit", "rollback", "raise"]), st.just(0))
pieces = st.lists(st.lists(simple, max_size=8), max_size=12)


def numbered(drawn: list[Piece]) -> list[Piece]:
    """With a number of its own for each insert."""
    numbers = iter(range(1000))
    return [[(op, next(numbers)) for op, _ in piece] for piece in drawn]


def perform(conn: Connection, piece: Piece) -> list[Any]:
    """A piece of work; what it sees at its end."""
    for op, value in piece:
        if op == "insert":
            conn.execute(table.insert().values(x=value))
        elif op == "raise":
            raise EXPECTED[0]
        else:
            getattr(conn, op)()
    return list(conn.execute(sa.select(table.c.x).order_by(table.c.x)).scalars())


table = sa.Table("t", sa.MetaData(), sa.Column("x", sa.Integer))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> sa.Engine:
    """Stock Buildbot's engine, on a file of its own."""
    basedir = str(tmp_path_factory.mktemp("stock"))
    engine: sa.Engine = enginestrategy.create_engine("sqlite:///stock.sqlite", basedir=basedir)
    table.create(engine)
    return engine


@settings(deadline=None, max_examples=60)
@given(drawn=pieces, piece_s=st.sampled_from([0.0, 0.004, 1.0]), together=st.booleans())
def test_the_outcome_is_that_of_a_connection_for_each_piece(
    stock: sa.Engine, drawn: list[Piece], piece_s: float, *, together: bool
) -> None:
    work = numbered(drawn)
    with pytest.MonkeyPatch.context() as patch:
        reactor = Reactor()
        patch.setattr(turn_queue, "time", reactor)
        store = Store(reactor, None)
        with store.queue.engine.begin() as conn:
            table.create(conn)

        def timed(conn: Connection, piece: Piece) -> list[Any]:
            reactor.now += piece_s
            return perform(conn, piece)

        asked = []
        for piece in work:
            asked.append(store.do(timed, piece))
            if not together:
                reactor.turn()
        reactor.settle()
        ours = [a.result for a in asked]
        in_the_end = store.handle.execute("SELECT x FROM t ORDER BY x").fetchall()
        store.stop()

    theirs: list[list[Any] | None] = []
    for piece in work:
        with stock.connect() as conn:
            try:
                theirs.append(perform(conn, piece))
            except EXPECTED:
                theirs.append(None)
    with stock.begin() as conn:
        theirs_in_the_end = [tuple(row) for row in conn.execute(sa.select(table))]
        conn.execute(table.delete())
    assert ours == theirs
    assert in_the_end == theirs_in_the_end


nested = st.recursive(
    st.lists(st.just("insert"), max_size=3),
    lambda inner: st.lists(
        st.one_of(st.just("insert"), st.tuples(st.sampled_from(["keep", "undo"]), inner)),
        max_size=5,
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=60)
@given(works=st.lists(st.tuples(nested, st.sampled_from(["commit", "rollback", "raise", "end"]))))
def test_savepoints_in_pieces_nest(works: list[tuple[list[Any], str]]) -> None:
    """Against a model, since Python's own sqlite3 module does not get nested savepoints right."""
    numbers = iter(range(10_000))
    expected: list[int] = []

    def number(ops: list[Any]) -> tuple[list[Any], list[int]]:
        """The operations with numbers to insert, and the numbers that are kept."""
        numbered: list[Any] = []
        kept: list[int] = []
        for op in ops:
            if op == "insert":
                numbered.append(next(numbers))
                kept.append(numbered[-1])
            else:
                inside, kept_inside = number(op[1])
                numbered.append((op[0], inside))
                kept += kept_inside if op[0] == "keep" else []
        return numbered, kept

    def run(conn: Connection, ops: list[Any]) -> None:
        for op in ops:
            if isinstance(op, int):
                conn.execute(table.insert().values(x=op))
            else:
                with conn.begin_nested() as savepoint:
                    run(conn, op[1])
                    if op[0] == "undo":
                        savepoint.rollback()

    def work(conn: Connection, ops: list[Any], end: str) -> None:
        run(conn, ops)
        if end == "raise":
            raise EXPECTED[0]
        if end != "end":
            getattr(conn, end)()

    reactor = Reactor()
    store = Store(reactor, None)
    with store.queue.engine.begin() as conn:
        table.create(conn)
    for ops, end in works:
        numbered, kept = number(ops)
        store.do(work, numbered, end)
        expected += kept if end == "commit" else []
    reactor.settle()
    assert [x for (x,) in store.handle.execute("SELECT x FROM t ORDER BY x")] == expected
    store.stop()
