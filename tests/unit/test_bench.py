"""The benchmark's own parts that can be wrong without anybody noticing."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from buildbot.db.logs import LogsConnectorComponent
from buildbot.db.model import Model

from bench.compare import missed_limits
from bench.history import BUILDERS
from bench.history import load_builds
from bench.history import load_waiting
from bench.moved import load
from bench.report import Samples
from litebot.master.db.sqlite.state_file import make_state_file
from litebot.store.connection import connect
from litebot.store.dialect import engine_on


def test_the_loaded_past_is_one_that_buildbot_can_have_written(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    make_state_file(path)
    load_builds(path, 101)
    load_waiting(path, 7)
    handle = connect(path)
    try:
        assert handle.pragma("integrity_check") == "ok"
        assert handle.execute("PRAGMA foreign_key_check").fetchall() == []
        with engine_on(handle).connect() as conn:
            builds = conn.execute(sa.select(Model.builds).order_by(Model.builds.c.id)).all()
            requests = Model.buildrequests.c
            unfinished = sa.select(requests.builderid).where(requests.complete == 0)
            waiting = conn.execute(unfinished).scalars().all()
            per_step = conn.execute(
                sa.select(sa.func.count()).select_from(
                    Model.builds.join(Model.steps).join(Model.logs).join(Model.logchunks)
                )
            ).scalar()
    finally:
        handle.close()
    assert len(builds) == 101
    assert (builds[-1].builderid, builds[-1].number) == (1 + 100 % BUILDERS, 1 + 100 // BUILDERS)
    assert waiting == [1] * 7
    assert per_step == 303


def test_what_is_moved_is_as_builds_leave_it(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    make_state_file(path)
    load(path, 40)
    handle = connect(path)
    try:
        assert handle.execute("PRAGMA foreign_key_check").fetchall() == []
        rows = {
            table: handle.execute(f"SELECT count(*) FROM {table}").get / 40
            for table in ("build_properties", "steps", "logs", "logchunks")
        }
        chunks = "SELECT compressed, content, last_line - first_line + 1 FROM logchunks"
        for number, content, lines in handle.execute(chunks).fetchall():
            text = LogsConnectorComponent.COMPRESSION_BYID[number].read(content)
            assert len(text) <= LogsConnectorComponent.MAX_CHUNK_SIZE
            assert text.count(b"\n") + 1 == lines <= LogsConnectorComponent.MAX_CHUNK_LINES
    finally:
        handle.close()
    assert rows == {"build_properties": 13, "steps": 4, "logs": 4, "logchunks": 5}


@pytest.mark.parametrize(
    ("builds_per_s", "cpu_ms", "complaints"),
    [(50.0, 20.0, 0), (49.0, 20.0, 1), (50.0, 26.0, 1), (1.0, 100.0, 2)],
)
def test_each_missed_limit_is_reported(builds_per_s: float, cpu_ms: float, complaints: int) -> None:
    samples = Samples()
    samples.add("stock", {"builds_per_s": 10.0, "cpu_ms_per_build": 100.0})
    samples.add("litebot", {"builds_per_s": builds_per_s, "cpu_ms_per_build": cpu_ms})
    assert len(missed_limits(samples, 5.0, 0.25)) == complaints


def test_without_a_measurement_the_limits_are_missed() -> None:
    assert len(missed_limits(Samples(), 5.0, 0.25)) == 2
