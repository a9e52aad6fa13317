"""Reading a table by COPY, by libpq itself where psycopg takes long."""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.errors import DivisionByZero
from psycopg.errors import UndefinedTable

from litebot.master.db.postgres.copying import copied
from support.postgres import Postgres

pytestmark = pytest.mark.usefixtures("real_commands")


@pytest.fixture(scope="module")
def conn(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect("postgres") as conn:
        yield conn


def rows(
    conn: psycopg.Connection[Any], query: str, *kinds: str
) -> Generator[tuple[Any, ...], None, None]:
    return copied(conn.cursor(), query, list(kinds))


def still_works(conn: psycopg.Connection[Any]) -> bool:
    return list(rows(conn, "SELECT 1", "int4")) == [(1,)]


def test_all_rows_come_as_they_are(conn: psycopg.Connection[Any]) -> None:
    query = "SELECT n, n::text, repeat('x', 100000)::bytea FROM generate_series(1, 300) n"
    expected = [(n, str(n), b"x" * 100_000) for n in range(1, 301)]
    assert list(rows(conn, query, "int4", "text", "bytea")) == expected
    assert list(rows(conn, "SELECT NULL::int WHERE false", "int4")) == []
    assert list(rows(conn, "SELECT NULL::int", "int4")) == [(None,)]


@pytest.mark.parametrize("before", [3, 100_000])
def test_an_error_comes_after_the_rows_before_it(
    before: int, conn: psycopg.Connection[Any]
) -> None:
    query = f"SELECT 1 / ({before + 1} - n) FROM generate_series(1, {2 * before}) n"
    got = 0
    with pytest.raises(DivisionByZero, match="division by zero"):  # noqa: PT012 (how far it comes)
        for _ in rows(conn, query, "int4"):
            got += 1
    assert got == before
    with pytest.raises(UndefinedTable):
        list(rows(conn, "SELECT * FROM nowhere", "int4"))
    assert still_works(conn)


def test_whoever_has_enough_can_stop(conn: psycopg.Connection[Any]) -> None:
    begun = rows(conn, "SELECT n FROM generate_series(1, 1000000) n", "int4")
    assert [next(begun) for _ in range(3)] == [(1,), (2,), (3,)]
    begun.close()
    assert still_works(conn)


def test_a_connection_that_ends_meanwhile_is_an_error(postgres: Postgres) -> None:
    with postgres.connect("postgres") as conn:
        begun = rows(conn, "SELECT n FROM generate_series(1, 10000000) n", "int4")
        next(begun)
        postgres.execute("postgres", f"SELECT pg_terminate_backend({conn.info.backend_pid})")
        with pytest.raises(psycopg.OperationalError):
            list(begun)
