"""Kills while a git poller adds changes: each commit becomes a change once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import is_running
from support.commands import succeeded
from support.commands import wait_for
from support.killed import Victim
from support.killed import joined
from support.master import Master
from support.master import on_both
from support.sources import POLLER
from support.sources import Repository
from support.sources import changes
from support.sources import die
from support.sources import reached


def await_changes(victim: Victim, *comments: str) -> None:
    """Wait until there are changes with these comments; check that each is there just once.

    Waits for another poll before the check.
    """
    wait_for(lambda: set(comments) <= set(changes(victim)), f"changes {comments}")
    await_poll(victim)
    assert changes(victim) == Counter(comments)


def await_poll(victim: Victim) -> None:
    """Wait for two polls from now: the second began after this call."""
    said = "gitpoller: processing changes from"
    before = victim.log.count(said)
    wait_for(lambda: victim.log.count(said) >= before + 2, "a poll")


@on_both
@pytest.mark.parametrize("killed_at", [1, 2, 3, 4])
def test_each_commit_becomes_a_change_once(
    victim: Victim, repository: Repository, killed_at: int
) -> None:
    victim.stop()
    repository.commit("main", "second", "third")
    repository.git("checkout", "--quiet", "-b", "topic")
    repository.commit("topic", "fourth", "fifth")
    die(victim, f"db.changes.addChanges:{killed_at}")
    victim.start()
    await_changes(victim, "second", "third", "fourth", "fifth")
    branches = dict(victim.rows("SELECT comments, branch FROM changes"))
    assert branches["second"] == branches["third"] == "main"
    assert branches["fourth"] == branches["fifth"] == "topic"


def test_commits_of_a_forced_push_become_changes_once(
    victim: Victim, repository: Repository
) -> None:
    repository.commit("main", "second")
    await_changes(victim, "second")
    victim.stop()
    repository.git("reset", "--quiet", "--hard", "HEAD~1")
    repository.commit("main", "instead", "third")
    die(victim, "db.changes.addChanges:1")
    victim.start()
    await_changes(victim, "second", "instead", "third")


def test_commits_after_an_error_are_not_lost(victim: Victim, repository: Repository) -> None:
    victim.stop()
    _, third, _ = repository.commit("main", "second", "third", "fourth")
    repository.git("checkout", "--quiet", "-b", "topic")
    repository.commit("topic", "fifth")
    repository.refused.write_text(third, encoding="utf-8")
    victim.start()
    wait_for(lambda: "second" in changes(victim), "the commit before the error")
    await_poll(victim)
    assert changes(victim)["third"] == 0
    repository.refused.unlink()
    await_changes(victim, "second", "third", "fourth", "fifth")


def test_a_branch_that_is_refused_for_ever_does_not_hold_up_others(
    victim: Victim, repository: Repository
) -> None:
    victim.stop()
    repository.git("checkout", "--quiet", "-b", "bad")
    (refused,) = repository.commit("bad", "refused")
    repository.refused.write_text(refused, encoding="utf-8")
    repository.commit("main", "second")
    victim.start()
    await_changes(victim, "second")
    assert "trying to poll branch refs/heads/bad" in victim.log
    repository.refused.unlink()
    await_changes(victim, "second", "refused")


@pytest.mark.parametrize("in_the_middle_of", ["fetch", "rev-parse", "--ignore-missing", "%aN"])
def test_a_reconfig_in_the_middle_of_a_poll_loses_no_commit(
    victim: Victim, repository: Repository, in_the_middle_of: str
) -> None:
    repository.held.write_text(in_the_middle_of, encoding="utf-8")
    repository.commit("main", "second", "third")
    wait_for(repository.holds.exists, "the poller to ask")
    victim.reconfig()
    repository.held.unlink()
    await_changes(victim, "second", "third")
    assert "Traceback" not in victim.log


def test_an_error_of_a_poll_is_not_one_of_a_reconfig_that_is_under_way(
    victim: Victim, repository: Repository
) -> None:
    repository.held.write_text("%aN", encoding="utf-8")
    (refused,) = repository.commit("main", "second")
    repository.refused.write_text(refused, encoding="utf-8")
    wait_for(repository.holds.exists, "the poller to ask")
    victim.configure("os.remove(os.path.join(basedir, 'held'))\nimport time; time.sleep(1)")
    victim.reconfig()
    assert "trying to poll branch refs/heads/main" in victim.log


def test_two_pollers_of_one_repository_are_two_sources(
    victim: Victim, repository: Repository
) -> None:
    victim.stop()
    victim.write_config(
        POLLER
        + """
c["change_source"] = [c["change_source"], changes.GitPoller(
    os.path.join(basedir, "repo"), branches=True, pollInterval=1, pollAtLaunch=True,
    project="other", name="other",
)]
"""
    )
    victim.start()
    wait_for(lambda: len(reached(victim)) == 2, "the other's first look")
    repository.commit("main", "second")
    wait_for(lambda: changes(victim)["second"] == 2, "a change of each")
    await_poll(victim)
    found = victim.rows("SELECT comments, project FROM changes ORDER BY project")
    assert found == [("second", "other"), ("second", "p")]


@on_both
def test_a_stop_ends_a_poll_that_hangs(victim: Victim, repository: Repository) -> None:
    git, hanging = victim.basedir / "git", victim.basedir / "hanging"
    hanging.write_text(
        f"#!/bin/sh\ntrap '' TERM\nsleep 300 &\necho $$ $! > {repository.holds}\nwait\n",
        encoding="utf-8",
    )
    hanging.chmod(0o755)
    git.rename(victim.basedir / "good")
    hanging.rename(git)
    wait_for(lambda: repository.holds.exists() and repository.holds.read_text(), "a poll to hang")
    succeeded(victim.run("stop", "--timeout", "10"))
    pids = [int(pid) for pid in repository.holds.read_text().split()]
    assert [is_running(pid) for pid in pids] == [False, False]
    assert victim.rows("SELECT * FROM changesource_masters") == []
    assert "some parts have not stopped" not in victim.log
    (victim.basedir / "good").rename(git)
    repository.commit("main", "second")
    victim.start()
    await_changes(victim, "second")
    assert victim.repairs() == []


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
def test_a_poller_that_moves_goes_on_from_where_it_was(
    victim: Victim,
    repository: Repository,
    watch: Callable[[Master], Master],
    tmp_path: Path,
) -> None:
    victim.stop()
    victim.write_config(f"basedir = {str(victim.basedir)!r}\n{POLLER}")  # of the repository
    other = joined(victim, tmp_path / "other")
    watch(other)
    for master in (victim, other):
        master.start()
    repository.commit("main", "second")
    await_changes(victim, "second")
    repository.commit("main", "third", "fourth")
    victim.kill()
    repository.commit("main", "fifth")
    await_changes(other, "second", "third", "fourth", "fifth")
    victim.start()
    repository.commit("main", "sixth")
    other.stop()
    await_changes(victim, "second", "third", "fourth", "fifth", "sixth")
    repository.commit("main", "seventh")
    await_changes(victim, "second", "third", "fourth", "fifth", "sixth", "seventh")
