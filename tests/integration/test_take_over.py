"""What becomes of a dead master's rows on Postgres, and that a living one's are left alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from buildbot.db.model import Model

from litebot.master.cluster import registry
from litebot.master.cluster import takeover
from litebot.master.cluster.peers import MASTER_LOCK
from litebot.master.cluster.shared import Shared
from litebot.master.cluster.takeover import Takeover
from litebot.master.cluster.takeover import suspects
from litebot.master.db import schema
from litebot.master.db import tables as ours
from litebot.master.db.pool import NotOurs
from litebot.master.db.postgres import application_name
from litebot.master.db.postgres import driver_url
from litebot.master.delivery import controls
from litebot.master.delivery import outbox
from support.master import CANCELLED
from support.master import EXCEPTION
from support.master import FAILURE
from support.master import RETRY
from support.postgres import Postgres

DEAD, LIVING, MINE = 1, 2, 3
NAMES = {DEAD: "dead", LIVING: "living", MINE: "mine"}


class Tables:
    """The tables of three masters that have begun; `session` is that of MINE, with DEAD's lock."""

    def __init__(self, conn: sa.engine.Connection, session: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self.session = session
        self.lock("pg_advisory_lock")
        self.put(Model.builders, id=1, name="b", name_hash="b")
        self.put(Model.workers, id=1, name="w", info={})
        for masterid, name in NAMES.items():
            row = {"id": masterid, "name": name, "name_hash": name}
            self.put(Model.masters, **row, active=1, last_active=0)
            starts = {"id": masterid, "master": name, "pid": 1, "version": "1", "started_at": 0}
            self.put(ours.starts, **starts)

    def put(self, table: sa.Table, **values: Any) -> None:
        self.conn.execute(table.insert().values(values))

    def request(self, id: int, claimed_by: int | None = None, **values: Any) -> None:
        """A buildset and its request, both with this id."""
        of_set = {name: values.pop(name) for name in ("parent_buildid",) if name in values}
        self.put(Model.buildsets, id=id, submitted_at=0, complete=0, **of_set)
        row = {"buildsetid": id, "builderid": 1, "submitted_at": 0, "complete": 0, **values}
        self.put(Model.buildrequests, id=id, **row)
        if claimed_by is not None:
            claim = {"brid": id, "masterid": claimed_by, "claimed_at": 0}
            self.put(Model.buildrequest_claims, **claim)

    def build(self, id: int, brid: int, masterid: int, results: int | None = None) -> None:
        row = {"number": id, "builderid": 1, "buildrequestid": brid, "masterid": masterid}
        ended = {"results": results, "complete_at": None if results is None else 1}
        more = {"started_at": 0, "locks_duration_s": 0, "state_string": "", **ended}
        self.put(Model.builds, id=id, **row, **more)

    def one(self, column: sa.Column[Any], id: int, key: str = "id") -> Any:
        return self.conn.execute(
            sa.select(column).where(column.table.c[key] == id)
        ).scalar_one_or_none()

    def lock(self, function: str) -> None:
        """Take or let go of DEAD's lock."""
        self.session.execute(f"SELECT {function}(%s, %s)".encode(), (MASTER_LOCK, DEAD))

    def take_over(self, max_attempts: int = 3) -> Takeover:
        self.conn.commit()
        holder, mine = self.session.info.backend_pid, (MINE, "mine", MINE)
        taken = takeover.take_over(self.conn, DEAD, holder, mine, max_attempts)
        self.conn.commit()
        assert taken is not None
        return taken


@pytest.fixture
def database(postgres: Postgres) -> str:
    return postgres.new_database()


@pytest.fixture
def tables(postgres: Postgres, database: str) -> Iterator[Tables]:
    engine = sa.create_engine(driver_url(postgres.url(database)))
    with engine.connect() as conn, postgres.connect(database) as session:
        schema.make(conn)
        yield Tables(conn, session)
    engine.dispose()


def test_a_running_build_goes_back_to_the_queue(tables: Tables) -> None:
    tables.request(1, claimed_by=DEAD)
    tables.build(1, 1, DEAD)
    taken = tables.take_over()
    assert (taken.name, taken.ended, taken.freed) == ("dead", [1], [1])
    assert tables.one(Model.builds.c.results, 1) == RETRY
    assert tables.one(Model.buildrequest_claims.c.masterid, 1, "brid") is None
    repair = tables.conn.execute(sa.select(ours.repairs)).one()
    assert (repair.startid, repair.kind, repair.buildid) == (MINE, "interrupted build", 1)
    row = tables.conn.execute(sa.select(ours.starts).where(ours.starts.c.id == DEAD)).one()
    assert row.taken_over_by == "mine"
    assert row.taken_over_at == row.stopped_at is not None
    assert tables.one(Model.masters.c.active, DEAD) == 0
    assert tables.take_over().findings == []


def test_the_third_death_of_a_build_ends_its_request(tables: Tables) -> None:
    tables.request(1, claimed_by=DEAD)
    tables.build(1, 1, LIVING, RETRY)
    tables.put(ours.repairs, startid=MINE, kind="interrupted build", buildid=1, message="")
    tables.build(2, 1, DEAD)
    taken = tables.take_over(max_attempts=2)
    assert (taken.ended, taken.completed, taken.freed) == ([2], [1], [])
    assert tables.one(Model.buildrequests.c.results, 1) == EXCEPTION


def test_what_a_living_master_has_is_left_to_it(tables: Tables) -> None:
    tables.request(1, claimed_by=LIVING)
    tables.build(1, 1, LIVING)
    tables.request(2, claimed_by=LIVING)  # it is about to start
    tables.request(3, claimed_by=LIVING)  # it is about to be completed
    tables.build(3, 3, LIVING, FAILURE)
    tables.request(4, claimed_by=LIVING, complete=1, results=0)  # as is its buildset
    tables.build(5, 4, LIVING, RETRY)
    tables.request(6, waited_for=1, parent_buildid=5)  # and this one to be cancelled
    _dependent(tables, "later", LIVING)
    assert tables.take_over() == Takeover(DEAD, "dead")
    assert tables.one(Model.builds.c.results, 1) is None
    claimed = sa.select(sa.func.count()).select_from(Model.buildrequest_claims)
    assert tables.conn.execute(claimed).scalar() == 4
    assert tables.conn.execute(sa.select(ours.subscriptions)).all() != []


def test_a_dependent_scheduler_of_a_dead_master_learns_what_it_waits_for(tables: Tables) -> None:
    _dependent(tables, "later", DEAD)
    taken = tables.take_over()
    kinds = [finding.kind for finding in taken.findings]
    assert kinds == ["dependent scheduler", "change not delivered"]
    state = tables.one(Model.object_state.c.value_json, 1, "objectid")
    assert json.loads(state) == [7]
    assert tables.conn.execute(sa.select(Model.scheduler_masters)).all() == []


def _dependent(tables: Tables, name: str, masterid: int) -> None:
    """A scheduler that has not heard yet of buildset 7, nor of a change."""
    tables.put(Model.schedulers, id=1, name=name, name_hash=name, enabled=1)
    tables.put(Model.scheduler_masters, schedulerid=1, masterid=masterid)
    tables.put(Model.objects, id=1, name=name, class_name="Dependent")
    tables.put(ours.subscriptions, objectid=1, bsid=7, wanted=1)
    tables.put(ours.scheduler_positions, schedulerid=1, changeid=0)
    tables.put(Model.sourcestamps, id=1, ss_hash="", created_at=0, repository="", project="")
    texts = dict.fromkeys(("author", "comments", "repository", "project"), "")
    tables.put(Model.changes, changeid=1, when_timestamp=0, sourcestampid=1, **texts)


def test_children_of_a_dead_trigger_end_wherever_they_are(tables: Tables) -> None:
    tables.request(1, claimed_by=DEAD)
    tables.build(1, 1, DEAD)
    for brid, claimed_by in ((2, None), (3, DEAD), (4, LIVING)):
        tables.request(brid, claimed_by, waited_for=1, parent_buildid=1)
    tables.build(4, 4, LIVING)
    taken = tables.take_over()
    assert (taken.completed, taken.freed) == ([2, 3], [1])
    for brid in (2, 3):
        assert tables.one(Model.buildrequests.c.results, brid) == CANCELLED
    assert tables.one(Model.buildrequest_claims.c.masterid, 2, "brid") == MINE
    # The living one hears of it when it can; it is remembered until then.
    assert tables.one(Model.buildrequests.c.complete, 4) == 0
    reason = "the build that triggered it is gone"
    assert controls.unfinished(tables.conn, LIVING) == [(4, reason)]
    assert controls.unfinished(tables.conn, DEAD) == []


class Mine(Shared):
    """What the master MINE is to the others."""

    master = SimpleNamespace(masterid=MINE)

    def __init__(self) -> None:
        super().__init__(lambda _outage: None)


def test_reports_go_to_who_has_the_reporter(tables: Tables) -> None:
    registry.write(tables.conn, MINE, [("reporter", "mail"), ("builds", "mail")])
    outbox.add(tables.conn, {"mail": None, "chat": None}, "builds", 1, DEAD)
    outbox.add(tables.conn, {"mail": None}, "builds", 2, LIVING)
    outbox.add(tables.conn, {"": None}, "builds", 3, DEAD)
    wanting = {"builds": {"mail": None}}
    outbox._take_over(
        tables.conn,
        MINE,
        (DEAD, MINE),
        ["mail"],
        lambda kind, _id: wanting[kind],
        last=0,
        cluster=Mine(),
    )
    rows = tables.conn.execute(sa.select(ours.outbox).order_by(ours.outbox.c.id))
    found = {(row.reporter, row.about): (row.masterid, row.retry_at) for row in rows}
    assert found == {
        ("mail", 1): (MINE, 0.0),
        ("chat", 1): (DEAD, None),
        ("mail", 2): (LIVING, None),
        ("mail", 3): (MINE, 0.0),
    }


def test_a_reporter_that_only_another_master_has_is_told_by_that_one(tables: Tables) -> None:
    registry.write(tables.conn, LIVING, [("builds", "mail"), ("builds", "chat")])
    registry.write(tables.conn, DEAD, [("builds", "chat"), ("buildsets", "push")])
    outbox.add(tables.conn, {"mail": None}, "builds", 1, MINE, cluster=Mine())
    rows = tables.conn.execute(sa.select(ours.outbox.c.reporter, ours.outbox.c.masterid))
    assert set(map(tuple, rows)) == {("mail", MINE), ("chat", DEAD)}


def test_who_may_be_dead(tables: Tables) -> None:
    assert suspects(tables.conn, MINE) == [DEAD, LIVING]
    stock = {"id": 4, "name": "stock", "name_hash": "stock", "active": 1, "last_active": 0}
    tables.put(Model.masters, **stock)
    ended = ours.starts.update().where(ours.starts.c.id == LIVING)
    tables.conn.execute(ended.values(stopped_at=1))
    assert suspects(tables.conn, MINE) == [DEAD]
    tables.take_over()
    assert suspects(tables.conn, MINE) == []
    # Who has stopped and has reports that this master can make.
    outbox.add(tables.conn, {"mail": None}, "builds", 1, LIVING)
    assert suspects(tables.conn, MINE) == []
    registry.write(tables.conn, MINE, [("reporter", "mail")])
    assert suspects(tables.conn, MINE) == [LIVING]


def test_what_a_dead_master_is_still_writing_is_undone(
    tables: Tables, postgres: Postgres, database: str
) -> None:
    tables.request(1, claimed_by=DEAD)
    tables.build(1, 1, DEAD)
    tables.conn.commit()
    writing = postgres.connect(database)
    writing.autocommit = False
    writing.execute(f"SET SESSION application_name = '{application_name(DEAD)}'".encode())
    writing.execute("UPDATE builds SET results = 0, complete_at = 1 WHERE id = 1")
    taken = tables.take_over()
    assert taken.ended == [1]
    with pytest.raises(psycopg.OperationalError):
        writing.commit()
    assert tables.one(Model.builds.c.results, 1) == RETRY


def test_who_may_live_again_is_left_alone(tables: Tables) -> None:
    tables.request(1, claimed_by=DEAD)
    tables.build(1, 1, DEAD)
    tables.lock("pg_advisory_unlock")
    with pytest.raises(NotOurs):
        tables.take_over()
    tables.conn.rollback()
    assert tables.one(Model.builds.c.results, 1) is None
    assert tables.one(ours.starts.c.taken_over_at, DEAD) is None


def test_who_begins_again_meanwhile_is_left_alone(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.request(1, claimed_by=DEAD)
    tables.build(1, 1, DEAD)
    end_connections = takeover._end_connections

    def lose_the_lock(conn: sa.engine.Connection, dead: int) -> None:
        end_connections(conn, dead)
        tables.lock("pg_advisory_unlock")

    monkeypatch.setattr(takeover, "_end_connections", lose_the_lock)
    with pytest.raises(NotOurs):
        tables.take_over()


def test_a_site_on_another_database_is_left_alone(tables: Tables, postgres: Postgres) -> None:
    other = postgres.connect(postgres.new_database())
    other.execute(f"SET SESSION application_name = '{application_name(DEAD)}'".encode())
    tables.take_over()
    assert other.execute("SELECT 1").fetchone() == (1,)
    other.close()
