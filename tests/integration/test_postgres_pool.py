"""The database pool on a real Postgres: pieces of work in one transaction, each of them once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from buildbot.data.resultspec import Filter
from sqlalchemy.schema import CreateTable

from bench.postgres import USER
from litebot.errors import ServerAway
from litebot.errors import StoreError
from litebot.errors import StoreFailed
from litebot.master import schema
from litebot.master.data import Query
from litebot.master.handover.effects import NotOurs
from litebot.master.postgres import PASSWORD_FILE
from litebot.master.postgres import watch
from litebot.master.postgres.pool import ServerPool
from litebot.master.postgres.server import Server
from litebot.master.postgres.writer import Writer
from litebot.master.work import Outage
from litebot.store.sql import Sql
from support.commands import wait_for
from support.postgres import Postgres
from support.proxy import Proxy
from support.stand_in import Asked
from support.stand_in import Asks
from support.stand_in import Log
from support.stand_in import Reactor

Connection = sa.engine.Connection

LARGE = 3_000_000


class Mistake(Exception):
    """A programming error in a component."""


class RealTime(Reactor):
    """A reactor whose clock is the world's."""

    def callLater(self, delay_s: float, f: Callable[..., object], *args: Any, **kw: Any) -> Any:
        self.now = time.monotonic()
        return super().callLater(delay_s, f, *args, **kw)

    def run_until(self, done: Callable[[], bool], patience_s: float = 40.0) -> None:
        give_up_at = time.monotonic() + patience_s
        while not done():
            due = [timer.at for timer in self.timers]
            wait_s = min([give_up_at, *due]) - time.monotonic()
            try:
                self._calls.put(self._calls.get(timeout=max(0.0, wait_s)))
            except queue.Empty:
                assert time.monotonic() < give_up_at, "nothing has come"
            self.now = time.monotonic()
            self.turn()


class Store(Asks):
    """A pool on a database of its own, with a table t(id, x unique), behind a proxy."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.name = postgres.new_database()
        table = "t (id serial PRIMARY KEY, x text UNIQUE, number xid8 DEFAULT pg_current_xact_id())"
        postgres.execute(self.name, f"CREATE TABLE {table}")
        postgres.execute(self.name, str(CreateTable(schema.writers)))
        self.proxy = Proxy(postgres.folder, postgres.port)
        self.reactor = RealTime()
        self.failures: list[StoreFailed] = []
        self.pool: ServerPool = self._pool(self.proxy.url(USER, self.name))

    def _pool(self, url: str, basedir: Path = Path("/")) -> ServerPool:
        return ServerPool(Server(url, basedir), self.reactor, self.failures.append)

    def use(self, url: str, basedir: Path = Path("/")) -> None:
        """Go over to a pool on this url."""
        self.wait(Asked(self.pool.stop()))
        self.pool = self._pool(url, basedir)
        self.open()

    def open(self) -> None:
        self.wait(Asked(self.pool.open()))

    def close(self) -> None:
        self.wait(Asked(self.pool.stop()))
        self.proxy.close()

    def do_sql(self, work: Callable[..., Any], *args: Any) -> Asked:
        return Asked(self.pool.do_sql(work, *args))

    def end_writer(self) -> None:
        """Have the server end the connection that writes."""
        identity = self.pool._writer._identity
        assert identity is not None
        self.postgres.rows(self.name, f"SELECT pg_terminate_backend({identity.pid}, 5000)")

    def content(self) -> list[str]:
        """What others see in the table."""
        return [x for (x,) in self.postgres.rows(self.name, "SELECT x FROM t ORDER BY id")]


@pytest.fixture
def store(postgres: Postgres, logged: Log) -> Iterator[Store]:
    store = Store(postgres)
    store.open()
    yield store
    store.close()


def add(conn: Connection, x: str) -> None:
    """A piece of work as Buildbot's are."""
    conn.execute(sa.text("INSERT INTO t (x) VALUES (:x)"), {"x": x})
    conn.commit()


def add_sql(sql: Sql, x: str) -> int:
    return sql.insert("t", x=x)


def contents(conn: Connection) -> list[str]:
    return list(conn.execute(sa.text("SELECT x FROM t ORDER BY id")).scalars())


# pieces


def test_pieces_of_a_turn_are_one_transaction_in_order(store: Store) -> None:
    asked = [store.do(add, "a"), store.do_sql(add_sql, "b"), store.do(contents)]
    asked.append(store.do(add, "c"))
    assert store.wait(asked[2]) == ["a", "b"]
    store.wait(asked[3])
    assert store.content() == ["a", "b", "c"]
    assert asked[1].result == 2
    numbers = store.postgres.rows(store.name, "SELECT DISTINCT number FROM t")
    assert len(numbers) == 1


def test_a_result_is_there_when_it_is_committed(store: Store) -> None:
    seen: list[list[str]] = []
    d = store.pool.do(add, "a")
    d.addCallback(lambda _: seen.append(store.content()))
    store.wait(Asked(d))
    assert seen == [["a"]]


@pytest.mark.parametrize("first", [True, False])
def test_a_piece_that_fails_is_undone_alone(store: Store, logged: Log, first: bool) -> None:
    def fail(conn: Connection) -> None:
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('lost')"))
        raise Mistake

    before = [] if first else [store.do(add, "a")]
    failed = store.do(fail)
    after = store.do(add, "b")
    store.wait(after)
    assert isinstance(failed.error, Mistake)
    assert store.content() == (["b"] if first else ["a", "b"])
    assert before == [] or before[0].error is None
    assert logged.take() == [Mistake]


@pytest.mark.parametrize("first", [True, False])
def test_what_the_server_refuses_ends_a_piece_and_no_other(
    store: Store, logged: Log, first: bool
) -> None:
    store.wait(store.do(add, "taken"))
    before = [] if first else [store.do(add, "a")]
    failed = [store.do(add, "taken"), store.do_sql(add_sql, "taken")]
    wrong = store.do(lambda conn: conn.execute(sa.text("SELECT 1/0")).scalar())
    store.wait(store.do(add, "b"))
    for each in failed:
        assert isinstance(each.error, sa.exc.IntegrityError)
    assert isinstance(wrong.error, sa.exc.DataError)
    assert store.content() == ["taken", *([] if first else ["a"]), "b"]
    assert all(each.error is None for each in before)
    assert logged.take() == [sa.exc.IntegrityError, sa.exc.IntegrityError, sa.exc.DataError]


def test_a_state_that_is_none_of_the_servers_own(store: Store, logged: Log) -> None:
    """What goes by libpq itself, as each COMMIT does, is told of by its five letters only."""
    store.postgres.execute(
        store.name,
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION 'not %', NEW.x USING ERRCODE = 'LB001';
            END
        $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.x = 'that') EXECUTE FUNCTION refuse()
        """,
    )
    with pytest.raises(psycopg.DatabaseError, match="not that"):
        store.wait(store.do(add, "that"))
    store.wait(store.do(add, "this"))
    assert store.content() == ["this"]
    assert store.failures == []
    assert logged.take() == [psycopg.DatabaseError]


def test_commit_and_rollback_end_a_part_of_a_piece(store: Store) -> None:
    def work(conn: Connection) -> None:
        add(conn, "kept")
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('undone')"))
        conn.rollback()
        add(conn, "also")
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('never committed')"))

    first = store.do(work)
    store.wait(store.do(add, "next"))
    assert first.error is None
    assert store.content() == ["kept", "also", "next"]


def test_a_component_may_catch_an_error_and_go_on(store: Store) -> None:
    def add_or_find(conn: Connection, x: str) -> str:
        try:
            add(conn, x)
            return "added"
        except sa.exc.IntegrityError:
            conn.rollback()
            return "found"

    asked = [store.do(add_or_find, x) for x in ("a", "a", "b", "a")]
    store.wait(asked[-1])
    assert [each.result for each in asked] == ["added", "found", "added", "found"]
    assert store.content() == ["a", "b"]


def test_begin_nested_and_do_with_transaction(store: Store) -> None:
    def work(conn: Connection) -> None:
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('outer')"))
        nested = conn.begin_nested()
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('inner')"))
        nested.rollback()

    other = store.do(add, "a")
    store.wait(Asked(store.pool.do_with_transaction(work)))
    assert other.error is None
    assert store.content() == ["a", "outer"]


def test_a_second_connection_undoes_nothing_of_the_first(store: Store) -> None:
    def work(conn: Connection) -> bool:
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('a')"))
        there = sa.inspect(conn.engine).has_table("t")  # as Buildbot's Model does
        conn.commit()
        return there

    assert store.wait(store.do(work)) is True
    assert store.content() == ["a"]


def test_do_with_engine(store: Store) -> None:
    def work(engine: sa.Engine) -> None:
        with engine.begin() as conn:
            conn.execute(sa.text("INSERT INTO t (x) VALUES ('kept')"))
        with engine.connect() as conn:
            conn.execute(sa.text("INSERT INTO t (x) VALUES ('not committed')"))

    store.wait(Asked(store.pool.do_with_engine(work)))
    assert store.content() == ["kept"]


def test_sql_and_a_connection_are_one_transaction(store: Store, logged: Log) -> None:
    def work(sql: Sql, fail: bool) -> int:
        rowid = sql.insert("t", x="sql")
        also = sa.text("UPDATE t SET x = x || ' and connection'")
        sql.with_connection(lambda conn: conn.execute(also))
        assert sql.update("t", rowid + 1, x="none") == 0
        assert sql.count("t", "x LIKE ?", "%and%") == 1
        if fail:
            raise Mistake
        return rowid

    failed = store.do_sql(work, True)
    assert store.wait(store.do_sql(work, False)) == 2
    assert isinstance(failed.error, Mistake)
    assert store.content() == ["sql and connection"]
    assert logged.take() == [Mistake]


def test_that_another_master_was_faster_is_no_fault(store: Store) -> None:
    def effect(_conn: Connection) -> None:
        raise NotOurs

    with pytest.raises(NotOurs):
        store.wait(store.do(effect))


def vacuum(conn: Connection) -> None:
    conn.execution_options(isolation_level="AUTOCOMMIT")
    conn.exec_driver_sql("VACUUM t")


def test_what_must_stand_outside_of_a_transaction_does(store: Store) -> None:
    asked = [store.do(add, "a"), store.do(vacuum), store.do(add, "b"), store.do(contents)]
    store.wait(asked[-1])
    assert [each.error for each in asked] == [None] * 4
    assert store.content() == ["a", "b"]
    query = f"SELECT state FROM pg_stat_activity WHERE datname = '{store.name}'"
    assert store.postgres.rows("postgres", query) == [("idle",)]


def test_outside_of_a_transaction_nothing_may_have_been_written(store: Store, logged: Log) -> None:
    def work(conn: Connection) -> None:
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('lost')"))
        vacuum(conn)

    with pytest.raises(sa.exc.SQLAlchemyError):
        store.wait(store.do(work))
    store.wait(store.do(add, "a"))
    assert store.content() == ["a"]
    assert len(logged.take()) == 1


def test_the_connection_belongs_to_its_thread(store: Store) -> None:
    with pytest.raises(sa.exc.ProgrammingError, match="belongs to its own thread"):
        store.pool.engine.connect()


def test_rows_that_are_not_fetched_are_an_error(store: Store, logged: Log) -> None:
    asked = store.do(lambda conn: conn.execute(sa.text("SELECT 1")))
    with pytest.raises(TypeError, match="not fetched"):
        store.wait(asked)
    assert logged.take() == [TypeError]


# visitors


def test_a_visitor_sees_what_was_asked_before(store: Store) -> None:
    for x in "abc":
        store.do(add, x)
    seen = store.browse(contents)
    store.do(add, "d")
    assert store.wait(seen)[:3] == ["a", "b", "c"]


def test_what_writes_for_a_visitor_is_done_where_writing_works(store: Store) -> None:
    store.wait(store.browse(add, "a"))
    assert store.content() == ["a"]


def test_a_visitor_holds_up_no_work(store: Store) -> None:
    slow = store.browse(lambda conn: conn.execute(sa.text("SELECT pg_sleep(2)")).scalar())
    store.wait(store.do(add, "a"))
    assert not slow.called
    store.wait(slow)


def test_a_visitor_is_told_that_the_server_is_away(store: Store) -> None:
    store.wait(store.browse(contents))
    store.proxy.cut()
    began_at = time.monotonic()
    with pytest.raises(ServerAway, match="is away: "):
        store.wait(store.browse(contents))
    assert time.monotonic() - began_at < 8
    store.proxy.mend()
    assert store.wait(store.browse(contents)) == []


def test_a_visitor_behind_work_that_waits_is_told_so_too(store: Store) -> None:
    store.proxy.cut()
    asked = store.do(add, "a")
    before = store.browse(contents)  # what has been asked before it must be done
    store.reactor.run_until(lambda: store.pool.outage is not None)
    began_at = time.monotonic()
    after = store.browse(contents)
    for each in (before, after):
        with pytest.raises(ServerAway, match="is away: "):
            store.wait(each)
    assert 4 < time.monotonic() - began_at < 8
    store.proxy.mend()
    store.wait(asked)
    assert store.wait(store.browse(contents)) == ["a"]


# when the server is away


def test_work_waits_for_a_server_that_is_cut_off(store: Store, logged: Log) -> None:
    store.wait(store.do(add, "before"))
    store.proxy.cut()
    asked = [store.do(add, "a"), store.do_sql(add_sql, "b")]
    store.reactor.run_until(lambda: store.pool.outage is not None)
    assert not any(each.called for each in asked)
    later = store.do(add, "c")
    store.proxy.mend()
    store.wait(later)
    assert store.content() == ["before", "a", "b", "c"]
    assert store.pool.outage is None
    said = [line for line in logged.messages if "is away" in line or "is back" in line]
    assert len(said) == 2


def test_an_answer_to_a_commit_that_is_lost_is_not_asked_for_twice(store: Store) -> None:
    runs: list[str] = []

    def work(sql: Sql) -> int:
        runs.append("x")
        return sql.insert("t", x=f"run {len(runs)}")

    store.proxy.lose_next_answer_to_commit()
    assert store.wait(store.do_sql(work)) == 1
    assert store.proxy.lost_answer.is_set()
    assert store.content() == ["run 1"]
    assert len(runs) == 1


def own_number(conn: Connection) -> int:
    """The server's number of a transaction."""
    number = conn.execute(sa.text("SELECT pg_current_xact_id()::text::int")).scalar_one()
    assert isinstance(number, int)
    return number


def test_what_a_crash_took_is_run_again_though_its_number_is_anothers(store: Store) -> None:
    numbers: list[int] = []

    def work(conn: Connection) -> None:
        add(conn, "a")
        numbers.append(own_number(conn))
        if len(numbers) == 1:
            store.postgres.crash()
            store.proxy.cut()
            store.postgres.restart("immediate")
            take(numbers[0])
            store.proxy.mend()

    def take(number: int) -> None:
        """Have somebody else commit the transaction of this number."""
        with store.postgres.connect(store.name) as conn:
            while True:
                query = "INSERT INTO t (x) VALUES ('other') ON CONFLICT DO NOTHING"
                with conn.transaction():
                    conn.execute(query)
                    row = conn.execute("SELECT pg_current_xact_id()::text::int").fetchone()
                assert row is not None
                assert row[0] <= number, "the lost transaction was on disk"
                if row[0] == number:
                    return

    store.wait(store.do(add, "before"))
    store.wait(store.do(work))
    assert store.content() == ["before", "other", "a"]
    assert numbers[1] > numbers[0]


def test_what_was_not_committed_is_run_again(store: Store) -> None:
    runs: list[int] = []

    def work(conn: Connection) -> None:
        runs.append(1)
        conn.execute(sa.text("INSERT INTO t (x) VALUES (:x)"), {"x": f"run {len(runs)}"})
        if len(runs) == 1:
            store.proxy.cut()
            store.proxy.mend()
        conn.execute(sa.text("INSERT INTO t (x) VALUES (:x)"), {"x": f"run {len(runs)}, again"})
        conn.commit()

    asked = [store.do(add, "a"), store.do(work), store.do(add, "b")]
    store.wait(asked[-1])
    assert store.content() == ["a", "run 2", "run 2, again", "b"]
    assert all(each.error is None for each in asked)


def test_a_query_asks_the_same_when_it_is_run_again(store: Store) -> None:
    table = sa.table("t", sa.column("id"), sa.column("x"))
    query = Query([Filter("x", "ne", ["b"])], order=("-id",), limit=2, offset=1)
    query.fieldMapping = {"id": "t.id", "x": "t.x"}
    runs: list[list[str]] = []

    def work(conn: Connection) -> Any:
        found = query.thd_execute(conn, sa.select(table.c.id, table.c.x), lambda row: row.x)
        runs.append(list(found))
        if len(runs) == 1:
            store.pool._writer.cut_off()
        add(conn, "f")
        return found

    for x in "abcde":
        store.do(add, x)
    found = store.wait(store.do(work))
    assert runs == [["d", "c"]] * 2
    assert (list(query.apply(found)), found.total) == (["d", "c"], 4)


def test_a_connection_that_is_lost_while_a_piece_is_undone(store: Store, logged: Log) -> None:
    runs: list[int] = []

    def work(conn: Connection) -> None:
        runs.append(1)
        with suppress(sa.exc.IntegrityError):
            conn.execute(sa.text("INSERT INTO t (x) VALUES ('taken')"))
        if len(runs) == 1:
            store.end_writer()

    store.wait(store.do(add, "taken"))
    asked = [store.do(add, "a"), store.do(work), store.do(add, "b")]
    store.wait(asked[-1])
    assert all(each.error is None for each in asked)
    assert store.content() == ["taken", "a", "b"]
    assert len(runs) == 2
    assert store.failures == []


def test_a_connection_that_is_lost_again_at_once(store: Store, logged: Log) -> None:
    calls: list[int] = []

    def hook(conn: Connection) -> None:
        calls.append(1)
        if len(calls) == 1:
            store.end_writer()
        conn.execute(sa.text("SELECT 1"))

    store.pool.before_batch_after_reconnect = hook
    store.end_writer()
    store.wait(store.do(add, "a"))
    assert store.content() == ["a"]
    assert len(calls) == 2
    assert store.failures == []


def test_what_is_left_of_a_lost_connection_holds_no_locks(store: Store) -> None:
    store.wait(store.do(add, "a"))
    runs: list[int] = []

    def work(conn: Connection) -> None:
        conn.execute(sa.text("UPDATE t SET x = x || '+'"))
        runs.append(1)
        if len(runs) == 1:
            store.proxy.forget()  # the server has no word of it, and holds the row
            store.pool._writer.cut_off()
        conn.execute(sa.text("SELECT 1"))
        conn.commit()

    began_at = time.monotonic()
    store.wait(store.do(work))
    assert time.monotonic() - began_at < 5
    assert store.content() == ["a+"]


def test_a_connection_that_says_nothing_is_noticed(store: Store) -> None:
    store.wait(store.do(add, "a"))
    store.proxy.freeze()
    began_at = time.monotonic()
    asked = store.do(add, "b")
    store.reactor.run_until(lambda: store.pool.outage is not None)
    assert time.monotonic() - began_at < 10
    store.proxy.mend()
    store.wait(asked)
    assert store.content() == ["a", "b"]
    assert store.pool.outage is None


def test_what_begins_a_transaction_is_looked_after(store: Store) -> None:
    """The server has answered to BEGIN, and says nothing to the statement behind it."""
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted"
    with store.postgres.connect(store.name) as conn, conn.transaction():
        conn.execute("LOCK TABLE t")
        asked = store.do(add, "a")
        store.reactor.turn()
        wait_for(lambda: store.postgres.rows(store.name, waits), "the piece to wait")
        store.proxy.freeze()
        store.reactor.run_until(lambda: store.pool.outage is not None)
        store.proxy.mend()
    store.wait(asked)
    assert store.content() == ["a"]


def test_a_connection_that_was_forgotten_is_made_anew(store: Store) -> None:
    store.wait(store.do(add, "a"))
    store.proxy.forget()
    began_at = time.monotonic()
    asked = store.do(add, "b")
    store.wait(asked)
    assert time.monotonic() - began_at < 12
    assert store.content() == ["a", "b"]


def tries(store: Store) -> int:
    """How often a piece was run that takes long, and where no outage was told of."""
    runs: list[int] = []
    told: list[Outage | None] = []
    store.pool._on_outage = told.append

    def work(conn: Connection) -> None:
        runs.append(1)
        conn.execute(sa.text("SELECT pg_sleep(7)")).all()

    store.wait(store.do(contents))
    told.clear()
    store.wait(store.do(work))
    assert told == []
    return len(runs)


def test_a_statement_that_takes_long_is_left_alone(store: Store) -> None:
    assert tries(store) == 1


@pytest.fixture
def slow(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The network takes 2 s for a megabyte, which is longer than a look waits."""
    monkeypatch.setattr(watch, "LOOK_AFTER_S", 1.0)
    monkeypatch.setattr(watch, "STILL_S", 1.0)
    store.wait(store.do(contents))
    store.proxy.bytes_a_second = 500_000
    return store


@pytest.mark.parametrize("way", ["there", "back"])
def test_what_takes_long_to_be_sent_is_sent_once(slow: Store, way: str) -> None:
    runs: list[int] = []
    told: list[Outage | None] = []
    slow.pool._on_outage = told.append

    def work(conn: Connection) -> int:
        runs.append(1)
        query = "SELECT length(:x)" if way == "there" else "SELECT repeat('x', :x)"
        value: Any = LARGE * "x" if way == "there" else LARGE
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('a')"))
        found = conn.execute(sa.text(query), {"x": value}).scalar()
        conn.commit()
        return len(found) if isinstance(found, str) else int(found or 0)

    began_at = time.monotonic()
    assert slow.wait(slow.do(work)) == LARGE
    assert time.monotonic() - began_at > 4
    assert (len(runs), told) == (1, [])
    assert slow.content() == ["a"]


def test_what_takes_long_where_nobody_counts_gets_through_in_the_end(
    slow: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "traffic", None)
    runs: list[int] = []

    def work(conn: Connection) -> int | None:
        runs.append(1)
        conn.execute(sa.text("INSERT INTO t (x) VALUES ('a')"))
        length = conn.execute(sa.text("SELECT length(:x)"), {"x": LARGE * "x"}).scalar()
        conn.commit()
        return length

    assert slow.wait(slow.do(work)) == LARGE
    assert 1 < len(runs) < 5
    assert slow.content() == ["a"]


def test_it_is_left_alone_where_the_server_does_not_say_what_it_does(store: Store) -> None:
    off = f"ALTER DATABASE {store.name} SET track_activities = off"
    store.postgres.execute("postgres", off)
    store.use(store.proxy.url(USER, store.name))
    assert tries(store) == 1


def test_limits_of_a_database_are_not_for_a_master(store: Store) -> None:
    for name in ("statement_timeout", "lock_timeout", "idle_session_timeout"):
        store.postgres.execute(store.name, f"ALTER DATABASE {store.name} SET {name} = '500ms'")
    store.use(store.proxy.url(USER, store.name))
    there = store.proxy.connections
    with store.postgres.connect(store.name) as conn, conn.transaction():
        conn.execute("SET idle_session_timeout = 0")
        conn.execute("LOCK TABLE t")
        asked = store.do(add, "a")
        waits_until = time.monotonic() + 2
        while time.monotonic() < waits_until:
            assert not asked.called
            store.reactor.turn()
            time.sleep(0.01)
    store.wait(asked)
    store.wait(store.do(lambda conn: conn.execute(sa.text("SELECT pg_sleep(1)")).scalar()))
    time.sleep(1)
    store.wait(store.do(add, "b"))
    assert store.content() == ["a", "b"]
    assert store.proxy.connections == there


def test_it_is_left_alone_behind_a_pooler(store: Store) -> None:
    store.proxy.makes_up_pids = True
    store.proxy.cut()
    store.proxy.mend()
    assert tries(store) == 1


def test_it_is_left_alone_where_a_standby_is_named_first(store: Store) -> None:
    standing_by = sa.text("SELECT pg_is_in_recovery()")
    with store.postgres.standby() as standby:
        before = Proxy(standby.folder, standby.port)
        hosts = f"host=127.0.0.1:{before.port}&host=127.0.0.1:{store.proxy.port}"
        store.use(f"postgresql://{USER}@/{store.name}?sslmode=disable&{hosts}")
        assert tries(store) == 1
        assert store.wait(store.browse(lambda conn: conn.execute(standing_by).scalar())) is False
        assert before.connections == 4  # the writer's, a reader's, two that look
        before.close()


def test_it_is_left_alone_where_there_is_no_room_to_ask(store: Store) -> None:
    store.postgres.execute("postgres", "DROP ROLE IF EXISTS crowded")
    store.postgres.execute("postgres", "CREATE ROLE crowded LOGIN CONNECTION LIMIT 1")
    store.postgres.execute(store.name, "GRANT SELECT ON t TO crowded")
    store.use(store.proxy.url("crowded", store.name))
    there = store.proxy.connections
    assert tries(store) == 1
    assert store.proxy.connections > there
    store.use(store.proxy.url(USER, store.name))
    store.postgres.execute(store.name, "DROP OWNED BY crowded")
    store.postgres.execute(store.name, "DROP ROLE crowded")


def test_deadlocks_are_tried_again(store: Store) -> None:
    for x in "ab":
        store.wait(store.do(add, x))
    holds, runs = threading.Event(), []
    reached = threading.Event()

    def other() -> None:
        with store.postgres.connect(store.name) as conn, conn.transaction():
            conn.execute("SET deadlock_timeout = '60s'")  # let the pool be the one to find it
            conn.execute("UPDATE t SET x = 'b2' WHERE x = 'b'")
            holds.set()
            assert reached.wait(20)
            conn.execute("UPDATE t SET x = 'a2' WHERE x = 'a'")

    def work(conn: Connection) -> None:
        runs.append(1)
        conn.execute(sa.text("UPDATE t SET x = x || '+' WHERE id = 1"))
        reached.set()
        conn.execute(sa.text("UPDATE t SET x = x || '+' WHERE id = 2"))
        conn.commit()

    thread = threading.Thread(target=other)
    thread.start()
    assert holds.wait(20)
    asked = [store.do(add, "c"), store.do(work), store.do(add, "d")]
    for each in asked:
        store.wait(each)
    thread.join()
    assert store.content() == ["a2+", "b2+", "c", "d"]
    assert len(runs) > 1


def test_a_full_disk_is_waited_for(store: Store) -> None:
    refuse = (
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN"
        " RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$ LANGUAGE plpgsql"
    )
    store.postgres.execute(store.name, refuse)
    trigger = "CREATE TRIGGER refuse BEFORE INSERT ON t EXECUTE FUNCTION refuse()"
    store.postgres.execute(store.name, trigger)
    asked = store.do(add, "a")
    store.reactor.run_until(lambda: store.pool.outage is not None)
    assert store.pool.outage is not None
    assert "could not extend file" in store.pool.outage.words
    store.postgres.execute(store.name, "DROP TRIGGER refuse ON t")
    store.wait(asked)
    assert store.content() == ["a"]


def test_a_password_may_change_while_it_runs(store: Store, tmp_path: Path) -> None:
    def change(password: str) -> None:
        store.postgres.execute("postgres", f"ALTER ROLE secretive PASSWORD '{password}'")
        file.write_text(password + "\n")

    file = tmp_path / PASSWORD_FILE
    file.parent.mkdir()
    store.postgres.execute("postgres", "DROP ROLE IF EXISTS secretive")
    store.postgres.execute("postgres", "CREATE ROLE secretive LOGIN")
    change("one")
    url = store.postgres.tcp_url(store.name).replace(f"{USER}@", "secretive@")
    store.use(url, tmp_path)
    change("two")
    store.postgres.rows(
        "postgres",
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'secretive'",
    )
    one = sa.text("SELECT 1")
    assert store.wait(store.do(lambda conn: conn.execute(one).scalar())) == 1


def test_without_the_table_nobody_knows_what_was_committed(store: Store, logged: Log) -> None:
    store.wait(store.do(add, "a"))
    store.postgres.execute(store.name, "DROP TABLE litebot_writers")
    store.use(store.proxy.url(USER, store.name))
    store.wait(store.do(add, "b"))
    store.proxy.lose_next_answer_to_commit()
    with pytest.raises(StoreFailed, match="lost at a commit"):
        store.wait(store.do(add, "c"))


def test_numbers_begin_with_the_table_and_old_ones_go(store: Store) -> None:
    def make(conn: Connection) -> None:
        schema.writers.create(conn)
        conn.commit()

    store.postgres.execute(store.name, "DROP TABLE litebot_writers")
    store.wait(store.do(make))
    store.postgres.execute(
        store.name,
        "INSERT INTO litebot_writers SELECT id, 7, extract(epoch FROM now()) - age"
        " FROM (VALUES ('old', 8 * 86400), ('new', 86400)) AS v (id, age)",
    )
    for x in "ab":
        store.wait(store.do(add, x))
    query = "SELECT number FROM litebot_writers ORDER BY id <> 'new'"
    assert store.postgres.rows(store.name, query) == [(7,), (2,)]
    store.proxy.lose_next_answer_to_commit()
    store.wait(store.do(add, "c"))
    assert store.content() == ["a", "b", "c"]


# giving up


def test_the_first_connection_is_not_waited_for(postgres: Postgres) -> None:
    store = Store(postgres)
    store.proxy.cut()
    with pytest.raises(StoreError) as raised:
        store.open()
    assert str(store.proxy.port) in raised.value.what
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("psql 'postgresql://")
    store.proxy.close()


def test_a_stop_does_not_wait_for_ever(store: Store) -> None:
    store.proxy.cut()
    asked = store.do(add, "a")
    store.reactor.run_until(lambda: store.pool.outage is not None)
    store.pool.give_up_after(0.5)
    with pytest.raises(StoreFailed, match="has been away for"):
        store.wait(asked)
    assert [str(failure) for failure in store.failures] == [str(store.pool.failure)]
    with pytest.raises(StoreFailed):
        store.wait(store.do(add, "b"))
    store.proxy.mend()
    assert store.content() == []


def test_a_silent_server_keeps_no_stop_waiting(store: Store) -> None:
    store.pool.give_up_after(0.5)
    store.proxy.freeze()
    asked = store.do(add, "a")
    began_at = time.monotonic()
    with pytest.raises(StoreFailed):
        store.wait(asked)
    assert time.monotonic() - began_at < 12


def test_the_hook_is_called_after_a_reconnection(store: Store) -> None:
    calls: list[list[str]] = []
    store.pool.before_batch_after_reconnect = lambda conn: calls.append(contents(conn))
    store.wait(store.do(add, "a"))
    assert calls == []
    store.proxy.cut()
    store.proxy.mend()
    store.wait(store.do(add, "b"))
    store.wait(store.do(add, "c"))
    assert calls == [["a"]]

    def refuse(_conn: Connection) -> None:
        raise StoreFailed("no more")

    store.pool.before_batch_after_reconnect = refuse
    store.proxy.cut()
    store.proxy.mend()
    with pytest.raises(StoreFailed, match="no more"):
        store.wait(store.do(add, "d"))
    assert store.content() == ["a", "b", "c"]


def test_the_server_knows_the_connections_by_name(store: Store) -> None:
    store.pool.application_name = "litebot one"
    store.wait(store.do(contents))
    store.wait(store.browse(contents))
    query = f"SELECT application_name FROM pg_stat_activity WHERE datname = '{store.name}'"
    names = [row[0] for row in store.postgres.rows("postgres", query)]
    assert names == ["litebot one"] * 2
