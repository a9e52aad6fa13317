"""A start reports that the log was cut off, changed or deleted while the master was down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from litebot.master.db.sqlite import commit_watermark
from support.commands import succeeded
from support.commands import wait_for
from support.killed import Victim
from support.master import Master

CHANGES = 3

CONFIG = """
builder("b", shell("true"))
c["schedulers"].append(
    schedulers.AnyBranchScheduler("all", treeStableTimer=None, builderNames=["b"])
)
"""


def delete(log: Path) -> None:
    log.unlink()


def cut_off(log: Path) -> None:
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size // 2)


def flip_a_bit(log: Path) -> None:
    where = log.stat().st_size // 2
    with log.open("r+b") as file:
        file.seek(where)
        byte = file.read(1)[0]
        file.seek(where)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def victim(victim: Victim) -> Victim:
    victim.write_config(CONFIG)
    return victim


def log_of(victim: Victim) -> Path:
    return victim.state_file.with_name("state.sqlite-wal")


def build_changes(victim: Victim, count: int = CHANGES) -> None:
    """Send changes to the running master, and wait for their builds."""
    for revision in range(count):
        assert victim.change(branch="main", revision=str(revision)) == 200
    victim.await_quiet()
    # The end of a build is on disk a little later.
    wait_for(lambda: up_to_date(victim), "all to be on disk")


def up_to_date(victim: Victim) -> bool:
    should = commit_watermark.read(victim.state_file)
    assert should is not None
    return [(should.commits,)] == victim.rows("SELECT count FROM litebot_commits")


def assert_nothing_is_missing(victim: Victim) -> None:
    assert succeeded(victim.run("check")).stdout == "nothing is wrong\n"
    assert victim.status()["missing"] is None
    assert "the state file" not in victim.start().stderr
    assert victim.repairs() == []


@pytest.mark.parametrize("harm", [delete, cut_off, flip_a_bit])
def test_what_is_missing_is_said(victim: Victim, harm: Callable[[Path], None]) -> None:
    victim.start()
    build_changes(victim)
    victim.kill()
    harm(log_of(victim))

    found = victim.run("check", "--json")
    assert found.returncode == 3
    (lost, *_) = json.loads(found.stdout)
    assert lost["kind"] == "lost commits"
    assert "to 3" in lost["message"] or "change 3" in lost["message"]
    assert lost["message"] in victim.run("status").stdout

    assert f"note: {lost['message']}" in victim.start().stderr
    assert f"litebot: {lost['message']}" in victim.log
    assert victim.repairs()[0] == "lost commits"
    assert victim.status()["missing"] is None
    victim.kill()
    assert_nothing_is_missing(victim)


@pytest.mark.parametrize("durability", ["acknowledged", "commit", "process"])
def test_a_kill_is_no_loss(victim: Victim, durability: str) -> None:
    victim.set("database", "durability", durability)
    victim.start()
    build_changes(victim)
    victim.kill()
    assert_nothing_is_missing(victim)
    victim.stop()
    assert_nothing_is_missing(victim)


def test_a_copy_is_complete(victim: Victim) -> None:
    victim.start()
    build_changes(victim)
    victim.stop()
    succeeded(victim.run("copy-db", "sqlite:///copy.sqlite"))
    (victim.basedir / "copy.sqlite").replace(victim.state_file)
    assert_nothing_is_missing(victim)


def test_what_a_stock_buildbot_writes_is_not_counted(victim: Victim) -> None:
    victim.start()
    build_changes(victim)
    victim.stop()
    db = apsw.Connection(str(victim.state_file))
    db.execute("UPDATE builds SET state_string = 'seen'")
    db.close()
    assert_nothing_is_missing(victim)


def test_an_older_copy_lacks_what_came_later(victim: Victim) -> None:
    victim.start()
    build_changes(victim)
    backup = victim.basedir / "backup.sqlite"
    db = apsw.Connection(str(victim.state_file))
    db.execute("VACUUM INTO ?", (str(backup),))
    db.close()
    build_changes(victim, 2)
    victim.stop()
    backup.replace(victim.state_file)
    missing = victim.status()["missing"]
    assert "change 4 to 5, buildset 4 to 5, build request 4 to 5, build 4 to 5" in missing
    victim.start()
    assert victim.repairs() == ["lost commits"]


def test_another_state_file_is_noticed(victim: Victim, created: Master) -> None:
    victim.start()
    build_changes(victim)
    victim.stop()
    db = apsw.Connection(str(victim.state_file))
    db.execute("UPDATE litebot_commits SET database = 'another'")
    db.close()
    assert "is not the one that this master has used" in victim.status()["missing"]
    victim.start()
    assert victim.repairs() == ["lost commits"]
    victim.stop()
    victim.state_file.unlink()
    succeeded(victim.run("create-master", "--force"))
    assert_nothing_is_missing(victim)


def test_what_makes_no_whole_is_refused(victim: Victim) -> None:
    victim.start()
    build_changes(victim)
    victim.stop()
    db = apsw.Connection(str(victim.state_file))
    db.execute("UPDATE litebot_commits SET count = count - 1")
    root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'patches'").get
    db.close()
    with victim.state_file.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 64)
    refused = victim.run("start")
    assert refused.returncode == 1
    assert "is damaged" in refused.stderr
    assert "the state file lacks the last 1 of the commits" in refused.stderr
    assert "restore a backup" in refused.stderr


def test_a_damaged_watermark_is_reported(victim: Victim) -> None:
    victim.start()
    victim.stop()
    commit_watermark.path_of(victim.state_file).write_bytes(b"\xff" * 256)
    assert "nobody knows whether the state file is complete" in victim.start().stderr
    victim.stop()
    assert_nothing_is_missing(victim)
