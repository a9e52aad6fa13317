"""SQLAlchemy on the adapter, with what Buildbot's components ask of it."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
import sqlalchemy as sa
from buildbot.db.model import Model
from buildbot.util.sautils import get_upsert_method
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from litebot.errors import StoreError
from litebot.master.db.sqlite.state_file import create_file
from litebot.store import dbapi
from litebot.store.connection import MASTER
from litebot.store.connection import READER
from litebot.store.connection import connect
from litebot.store.dialect import engine_for
from litebot.store.dialect import engine_on
from support.faulty_vfs import faulty_disk

metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), unique=True),
    sa.Column("text", sa.Text),
    sa.Column("blob", sa.LargeBinary),
    sa.Column("big", sa.BigInteger),
    sa.Column("yes", sa.Boolean),
    sa.Column("when", sa.DateTime),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.sqlite"
    create_file(path)
    engine = engine_for(path)
    metadata.create_all(engine)
    return path


@pytest.fixture
def handle(path: Path) -> Iterator[apsw.Connection]:
    handle = connect(path, MASTER, busy_timeout_ms=0)
    yield handle
    handle.close()


@pytest.fixture
def engine(handle: apsw.Connection) -> sa.Engine:
    """All of whose connections share `handle`."""
    return engine_on(handle)


@pytest.fixture
def conn(engine: sa.Engine) -> Iterator[sa.Connection]:
    with engine.connect() as conn:
        yield conn


def add(conn: sa.Connection, *names: str) -> None:
    for name in names:
        conn.execute(things.insert().values(name=name))


def names(where: sa.Connection | Path) -> list[str | None]:
    """The names in the table: those that this connection sees, or a new one."""
    query = sa.select(things.c.name).order_by(things.c.id)
    if isinstance(where, Path):
        with engine_for(where).connect() as conn:
            return list(conn.execute(query).scalars())
    return list(where.execute(query).scalars())


# engines


def test_to_buildbot_it_is_sqlite(engine: sa.Engine) -> None:
    assert engine.dialect.name == "sqlite"
    assert isinstance(engine.dialect, SQLiteDialect)
    assert engine.dialect.driver == "apsw"
    assert get_upsert_method(engine) is not get_upsert_method(None)
    assert str(engine.url) == f"sqlite+apsw:///{engine.url.database}"


def test_the_url_opens_a_file_anew_for_each_connection(path: Path) -> None:
    engine = sa.create_engine(f"sqlite+apsw:///{path}")
    with engine.connect() as one, engine.connect() as other:
        add(one, "a")
        assert names(other) == []
        one.commit()
        assert names(other) == ["a"]


def test_the_url_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        engine_for(tmp_path / "missing").connect()
    assert list(tmp_path.iterdir()) == []


def test_a_url_in_memory_is_one_database() -> None:
    engine = sa.create_engine("sqlite+apsw://")
    metadata.create_all(engine)
    with engine.begin() as conn:
        add(conn, "a")
    with engine.connect() as conn:
        assert names(conn) == ["a"]


def test_connections_on_one_handle_are_one_database(engine: sa.Engine, path: Path) -> None:
    with engine.connect() as one, engine.connect() as other:
        add(one, "a")
        assert names(other) == ["a"]
        assert names(path) == []


def test_closing_a_connection_leaves_its_handle(engine: sa.Engine, handle: apsw.Connection) -> None:
    with engine.connect() as conn:
        add(conn, "a")
    engine.dispose()
    assert handle.execute("SELECT count(*) FROM things").get == 0


def test_an_engine_may_refuse_to_connect(handle: apsw.Connection) -> None:
    def refuse() -> None:
        raise dbapi.ProgrammingError("not in this thread")

    engine = engine_on(handle, check=refuse)
    with pytest.raises(sa.exc.ProgrammingError, match="not in this thread"):
        engine.connect()


# values


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("text", "äöü \N{SNOWMAN} \U0001f600\0 after a zero\r\n"),
        ("text", ""),
        ("text", "x" * 1_000_000),
        ("text", None),
        ("blob", b""),
        ("blob", bytes(range(256)) * 1000),
        ("blob", None),
        ("big", 2**63 - 1),
        ("big", -(2**63)),
        ("big", None),
        ("yes", True),
        ("yes", False),
        ("yes", None),
        ("when", datetime.datetime(2026, 2, 28, 23, 59, 59, 999999)),
    ],
)
def test_values_come_back_as_they_were(conn: sa.Connection, column: str, value: object) -> None:
    conn.execute(things.insert().values(name="a", **{column: value}))
    conn.execute(things.insert(), [{"name": "b", column: value}, {"name": "c", column: value}])
    found = list(conn.execute(sa.select(things.c[column])).scalars())
    assert found == [value] * 3
    assert {type(x) for x in found} == {type(value)}
    where = things.c[column] == value
    assert conn.execute(sa.select(sa.func.count()).where(where)).scalar() == 3


def test_a_row_without_rows_has_its_columns(conn: sa.Connection) -> None:
    result = conn.execute(sa.select(things.c.id, things.c.name.label("called")))
    assert list(result.keys()) == ["id", "called"]
    assert result.fetchall() == []


def test_ids_and_counts(conn: sa.Connection) -> None:
    result = conn.execute(things.insert().values(name="a"))
    assert result.inserted_primary_key is not None
    assert tuple(result.inserted_primary_key) == (1,)
    add(conn, "b", "c")
    assert conn.execute(things.update().values(text="x")).rowcount == 3
    assert conn.execute(things.delete().where(things.c.name == "b")).rowcount == 1
    assert conn.execute(things.delete().where(things.c.name == "b")).rowcount == 0


def test_rows_that_are_read_while_others_are_written(conn: sa.Connection) -> None:
    add(conn, "a", "b", "c")
    for thing in conn.execute(sa.select(things.c.id)):
        conn.execute(things.update().where(things.c.id == thing.id).values(text="seen"))
    assert list(conn.execute(sa.select(things.c.text)).scalars()) == ["seen"] * 3


def test_the_schema_of_buildbot(tmp_path: Path) -> None:
    create_file(tmp_path / "state.sqlite")
    engine = engine_for(tmp_path / "state.sqlite")
    Model.metadata.create_all(engine)
    inspector = sa.inspect(engine)
    assert set(inspector.get_table_names()) == set(Model.metadata.tables)
    for name, table in Model.metadata.tables.items():
        assert [c["name"] for c in inspector.get_columns(name)] == [c.name for c in table.columns]
        found = {(index["name"], bool(index["unique"])) for index in inspector.get_indexes(name)}
        assert found == {(index.name, bool(index.unique)) for index in table.indexes}


# errors


Fault = Callable[[sa.Connection], object]


@pytest.mark.parametrize(
    ("fault", "wrapped", "original"),
    [
        (lambda conn: add(conn, "a", "a"), sa.exc.IntegrityError, dbapi.IntegrityError),
        (
            lambda conn: conn.exec_driver_sql("SELECT * FROM missing"),
            sa.exc.OperationalError,
            dbapi.OperationalError,
        ),
        (
            lambda conn: conn.exec_driver_sql("SELECT ?", (1, 2)),
            sa.exc.ProgrammingError,
            dbapi.ProgrammingError,
        ),
        (
            lambda conn: conn.exec_driver_sql("SELECT zeroblob(2000000000)"),
            sa.exc.DataError,
            dbapi.DataError,
        ),
    ],
    ids=["constraint", "no-table", "bindings", "too-big"],
)
def test_errors_that_buildbot_branches_on(
    conn: sa.Connection, fault: Fault, wrapped: type[sa.exc.DBAPIError], original: type[dbapi.Error]
) -> None:
    with pytest.raises(wrapped) as raised:
        fault(conn)
    assert type(raised.value) is wrapped
    assert type(raised.value.orig) is original


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (apsw.SQLITE_FULL, dbapi.FullDiskError),
        (apsw.SQLITE_IOERR_WRITE, dbapi.DiskIOError),
    ],
)
def test_a_failing_disk_is_an_operational_error_and_is_reported(
    path: Path, code: int, kind: type[dbapi.Error]
) -> None:
    fatal: list[dbapi.Error] = []
    with faulty_disk() as disk:
        handle = connect(path, MASTER)
        conn = engine_on(handle, on_fatal=fatal.append).connect()
        add(conn, "a")
        disk.refuse("write", "-wal", code)
        with pytest.raises(sa.exc.OperationalError) as raised:
            conn.commit()
        assert fatal == [raised.value.orig]
        assert type(raised.value.orig) is kind
        assert not raised.value.connection_invalidated
        disk.heal()
        conn.close()
        handle.close()
    assert names(path) == []


def test_a_reader_that_writes(path: Path) -> None:
    conn = engine_on(connect(path, READER)).connect()
    with pytest.raises(sa.exc.OperationalError) as raised:
        add(conn, "a")
    assert type(raised.value.orig) is dbapi.ReadOnlyError


def test_a_lock(conn: sa.Connection, path: Path) -> None:
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sa.exc.OperationalError) as raised:
        add(conn, "a")
    assert type(raised.value.orig) is dbapi.BusyError


# transactions


def test_commit_and_rollback(conn: sa.Connection, path: Path) -> None:
    add(conn, "a")
    conn.commit()
    add(conn, "b")
    conn.rollback()
    assert names(path) == ["a"]


def test_begin_commits_at_its_end_and_undoes_on_an_error(conn: sa.Connection, path: Path) -> None:
    with conn.begin():
        add(conn, "a")

    def break_off() -> None:
        with conn.begin():
            add(conn, "b")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert names(path) == ["a"]


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside a transaction"])
def test_begin_nested(engine: sa.Engine, handle: apsw.Connection, *, inside: bool) -> None:
    if inside:
        handle.execute("BEGIN IMMEDIATE")
    with engine.connect() as conn:
        with conn.begin_nested():  # before anything else
            add(conn, "a")
        add(conn, "b")
        with pytest.raises(sa.exc.IntegrityError), conn.begin_nested():
            add(conn, "c", "c")
        with conn.begin_nested() as undone:
            add(conn, "d")
            with conn.begin_nested():
                add(conn, "e")
            undone.rollback()
        add(conn, "f")
        conn.commit()
        add(conn, "g")
        assert names(conn) == ["a", "b", "f", "g"]
        conn.rollback()
        assert names(conn) == ["a", "b", "f"]
    assert handle.in_transaction is inside


def test_inside_a_transaction_of_the_handle_that_has_the_last_word(
    engine: sa.Engine, handle: apsw.Connection, path: Path
) -> None:
    handle.execute("BEGIN IMMEDIATE")
    with engine.begin() as conn:
        add(conn, "a")
    handle.execute("ROLLBACK; BEGIN IMMEDIATE")
    with engine.begin() as conn:
        add(conn, "b")
    assert names(path) == []
    handle.execute("COMMIT")
    assert names(path) == ["b"]


def test_autocommit_and_vacuum(conn: sa.Connection, path: Path) -> None:
    add(conn, "a", *(f"{n:>60}" for n in range(2000)))
    conn.execute(things.delete().where(things.c.name != "a"))
    conn.commit()
    add(conn, "b")
    with pytest.raises(sa.exc.OperationalError, match="VACUUM"):
        conn.exec_driver_sql("VACUUM")
    conn.rollback()
    pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
    assert conn.get_isolation_level() == "SERIALIZABLE"
    conn.rollback()
    conn = conn.execution_options(isolation_level="AUTOCOMMIT")
    assert conn.get_isolation_level() == "AUTOCOMMIT"
    conn.exec_driver_sql("VACUUM")
    assert conn.exec_driver_sql("PRAGMA page_count").scalar_one() < pages / 10
    assert names(path) == ["a"]


def test_autocommit_ends_with_its_connection(engine: sa.Engine, path: Path) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        add(conn, "a")
    with engine.connect() as conn:
        assert conn.get_isolation_level() == "SERIALIZABLE"
        add(conn, "b")
    assert names(path) == ["a"]
