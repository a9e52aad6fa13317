"""litebot create-master: interrupted, repeated, and with what may be chosen."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from support.commands import LITEBOT
from support.commands import litebot
from support.commands import succeeded
from support.master import Master

pytestmark = pytest.mark.usefixtures("real_commands")


KILLS = 6


# create-master, interrupted and repeated


def create_and_kill(basedir: Path, after_s: float, *options: str) -> None:
    """Run create-master and kill -9 it after a while, if it takes that long."""
    command = [LITEBOT, "create-master", *options, str(basedir)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            process.wait(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[float]]:
    """Random moments within what a create-master takes, in seconds, as many as asked for."""
    began_at = time.monotonic()
    succeeded(litebot("create-master", tmp_path_factory.mktemp("timed")))
    takes_s = time.monotonic() - began_at

    def choose(count: int) -> list[float]:
        seed = int(os.environ.get("LITEBOT_TEST_SEED", random.randrange(10**6)))
        print(f"create-master takes {takes_s:.2f} s; LITEBOT_TEST_SEED={seed}")
        generator = random.Random(seed)
        # It may have been slow just then.
        return [generator.uniform(0.25 * takes_s, takes_s) for _ in range(count)]

    return choose


def test_an_interrupted_create_master_leaves_nothing(
    created: Master, moments: Callable[[int], list[float]], tmp_path: Path
) -> None:
    names = {path.name for path in created.basedir.iterdir()}
    whole = 0
    for number, after_s in enumerate(moments(KILLS)):
        basedir = tmp_path / str(number)
        create_and_kill(basedir, after_s)
        if basedir.exists():
            assert {path.name for path in basedir.iterdir()} == names
            whole += 1
    print(f"{whole} of {KILLS} were whole before the kill")
    assert whole < KILLS, "no kill came in time"
    for left in tmp_path.glob(".*.new"):  # the next one clears away what was left beside it
        succeeded(litebot("create-master", tmp_path / left.name[1:-4]))
        assert not left.exists()


def test_an_interrupted_create_master_force_is_finished_by_the_next(
    created: Master, moments: Callable[[int], list[float]], tmp_path: Path
) -> None:
    names = {path.name for path in created.basedir.iterdir()}
    for number, after_s in enumerate(moments(3)):
        basedir = tmp_path / str(number)
        basedir.mkdir()
        (basedir / "mine.txt").write_text("mine", encoding="utf-8")
        create_and_kill(basedir, after_s, "--force")
        succeeded(litebot("create-master", "--force", basedir))
        assert {path.name for path in basedir.iterdir()} == {*names, "mine.txt"}
        assert (basedir / "mine.txt").read_text(encoding="utf-8") == "mine"
        db = apsw.Connection(str(basedir / "state.sqlite"), flags=apsw.SQLITE_OPEN_READONLY)
        assert db.pragma("integrity_check") == "ok"
        db.close()


def test_force_adds_only_what_is_missing(master: Master) -> None:
    before = master.contents()
    for name in ("users", "buildbot.tac"):
        (master.basedir / name).unlink()
    done = succeeded(master.run("create-master", "--force"))
    assert f"added to {master.basedir}: buildbot.tac, users" in done.stdout
    assert "left as it was: litebot.toml, master.cfg, secrets, state.sqlite" in done.stdout
    assert "password  " in done.stdout
    after = master.contents()
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {"users"}

    again = succeeded(master.run("create-master", "--force"))
    assert "nothing was changed" in again.stdout
    assert "password" not in again.stdout
    assert master.contents() == after


def test_force_keeps_the_history_and_a_damaged_state_file(master: Master) -> None:
    master.state_file.write_bytes(b"what is left of a database")
    (master.basedir / "buildbot.tac").unlink()
    succeeded(master.run("create-master", "--force"))
    assert master.state_file.read_bytes() == b"what is left of a database"


# what may be chosen


def test_create_master_with_buildbots_options(
    tmp_path: Path, watch: Callable[[Master], Master]
) -> None:
    master = watch(Master(tmp_path / "ci"))
    options = [
        "--db=sqlite:///%(basedir)s/db.sqlite",
        "-c",
        "ci.cfg",
        "-s",
        "1000",
        "-l",
        "2",
        "-r",
    ]
    master.create(*options)
    assert {"db.sqlite", "ci.cfg"} <= {path.name for path in master.basedir.iterdir()}
    assert not (master.basedir / "master.cfg").exists()
    succeeded(master.run("check-config"))
    master.start()
    assert master.force("hello").returncode == 0
    logs = {path.name for path in master.basedir.glob("twistd.log*")}
    assert logs == {"twistd.log", "twistd.log.1", "twistd.log.2"}

    late = master.run("create-master", "--force", "--log-count=3")
    assert late.returncode == 1
    master.stop()
    late = master.run("create-master", "--force", "--log-count=3")
    assert f"{master.basedir}/buildbot.tac is there already and is not changed" in late.stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "--db=mysql://ci:secret@db/ci",
            "--database: litebot keeps its state in SQLite",
        ),
        ("--log-count=few", "--log-count is 'few'; it must be a number from 1 on, or None"),
        ("--config=/etc/master.cfg", "it must be relative to the basedir"),
    ],
)
def test_choices_that_can_not_be_had(tmp_path: Path, option: str, said: str) -> None:
    done = litebot("create-master", option, tmp_path / "ci")
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert not list(tmp_path.iterdir())
