"""What a real Postgres refuses for a while: deadlocks, a full disk, a password."""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa

from bench.postgres import USER
from litebot.master.db.postgres import PASSWORD_FILE
from support.pool import Connection
from support.pool import Store
from support.pool import add


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
