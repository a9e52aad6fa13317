"""Reading a table by COPY."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any


def copied(cursor: Any, query: str, kinds: list[str]) -> Generator[tuple[Any, ...], None, None]:
    """The rows of a query whose columns are of these types, as they come.  Raises psycopg.Error.

    psycopg's own copy.rows() takes three times as long: it gets ready to wait before each row, also
    for what is there already.
    """
    with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)") as copy:
        copy.set_types(kinds)
        libpq, parse = cursor.connection.pgconn, copy.formatter.parse_row
        while True:
            size, data = libpq.get_copy_data(1)
            if size == 0:  # nothing yet
                row = copy.read_row()
            elif size > 0:
                row = parse(data)
                if row is None:
                    copy.read()  # the end is psycopg's to see
            else:
                raise _refusal(libpq)
            if row is None:
                return
            yield row


def _refusal(libpq: Any) -> Exception:
    """What the server says where it ends a COPY early."""
    from psycopg.errors import error_from_result  # the move that needs no Postgres has none

    result = libpq.get_result()
    while libpq.get_result() is not None:
        """Until nothing is left of it the connection can't be used."""
    return error_from_result(result)
