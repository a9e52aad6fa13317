"""`litebot check` finds what a start would repair, and what no start can repair."""

from __future__ import annotations

import json

from support.commands import succeeded
from support.killed import Victim
from support.master import SUCCESS
from support.master import on_both


@on_both
def test_it_finds_what_the_next_start_repairs(victim: Victim, database_kind: str) -> None:
    victim.write_config('builder("b", shell("true"))')
    victim.start_to_die("db.builds.finishBuild:1")
    victim.ask_for("b")
    victim.await_death()
    found = victim.run("check", "--json")
    assert found.returncode == 3
    assert [f["kind"] for f in json.loads(found.stdout)] == ["finished build", "held claim"]
    victim.start()
    victim.await_quiet()
    assert succeeded(victim.run("check")).stdout == "nothing is wrong\n"
    victim.stop()
    assert succeeded(victim.run("check")).stdout == "nothing is wrong\n"
    assert victim.rows("SELECT results FROM builds") == [(SUCCESS,)]

    victim.execute("UPDATE logs SET num_lines = num_lines - 1")
    found = victim.run("check")
    assert found.returncode == 3
    assert "log 'stdio' of build id 1 shows" in found.stdout
    if database_kind == "sqlite":  # on Postgres no row refers to one that is gone
        victim.execute("DELETE FROM builds")
        found = victim.run("check")
        assert found.returncode == 3
        assert "rows of steps refer to rows that builds lacks" in found.stdout


def test_it_finds_a_damaged_page(victim: Victim) -> None:
    (page,) = victim.rows(
        "SELECT rootpage FROM sqlite_master WHERE name = 'buildrequests_complete'"
    )
    with victim.state_file.open("r+b") as file:
        file.seek((page[0] - 1) * 4096)
        file.write(b"\xff" * 64)
    found = victim.run("check")
    assert found.returncode in {1, 3}
    assert "damage" in found.stdout + found.stderr
