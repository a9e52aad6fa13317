"""Kills while a poller of Mercurial or of pull requests adds changes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.commands import require
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.killed import Victim
from support.master import on_both
from support.sources import PEOPLE
from support.sources import changes
from support.sources import die
from support.sources import reached
from support.sources import serving

HG_POLLER = """
from buildbot.plugins import changes

c["change_source"] = changes.HgPoller(
    os.path.join(basedir, "hg"), branch="default", workdir="hg-work", hgbin="{hg}",
    pollInterval=1, pollAtLaunch=True,
)
builder("b", shell("true"))
"""


class Mercurial:
    """A Mercurial repository that a master polls."""

    def __init__(self, victim: Victim) -> None:
        self.hg = Path(sys.executable).with_name("hg")
        require(self.hg.exists(), "there is no hg: pip install mercurial")
        self.path = victim.basedir / "hg"
        succeeded(run(self.hg, "init", self.path))

    def run(self, *words: str) -> None:
        succeeded(run(self.hg, "-R", self.path, *words))

    def commit(self, *names: str) -> None:
        """Commit once for each name."""
        for name in names:
            (self.path / "file").write_text(name, encoding="utf-8")
            self.run("commit", "-A", "-u", "Ada", "-m", name)


@pytest.fixture
def mercurial(victim: Victim) -> Mercurial:
    """A Mercurial repository that the poller of the running victim has polled once."""
    repository = Mercurial(victim)
    repository.commit("first")
    victim.write_config(HG_POLLER.format(hg=repository.hg))
    victim.start()
    wait_for(lambda: reached(victim), "the poller's first look")
    return repository


@pytest.mark.parametrize("killed_at", [1, 2])
def test_each_commit_of_mercurial_becomes_a_change_once(
    victim: Victim, mercurial: Mercurial, killed_at: int
) -> None:
    victim.stop()
    mercurial.commit("second")
    mercurial.run("update", "--clean", "0")
    mercurial.commit("beside")
    mercurial.run("merge", "--tool", ":local")
    mercurial.commit("merge", "last")
    die(victim, f"db.changes.addChanges:{killed_at}")
    victim.start()
    wait_for(lambda: "last" in changes(victim), "the last change")
    assert changes(victim) == Counter(("second", "beside", "merge", "last"))


def test_commits_of_mercurial_after_a_reconfig_become_changes(
    victim: Victim, mercurial: Mercurial
) -> None:
    configured = HG_POLLER.format(hg=mercurial.hg)
    victim.write_config(configured.replace("pollInterval=1, pollAtLaunch=True", "pollInterval=4"))
    victim.reconfig()
    mercurial.commit("second", "third")  # before the next poll
    wait_for(lambda: "third" in changes(victim), "the last change")
    assert changes(victim) == Counter(("second", "third"))


PULLS = """
from buildbot.plugins import changes

c["change_source"] = changes.GitHubPullrequestPoller(
    "o", "r", baseURL="http://127.0.0.1:{port}", pollInterval=1, pollAtLaunch=True
)
builder("b", shell("true"))
"""


PULL = {
    "number": 7,
    "title": "a pull request",
    "body": "",
    "commits": 1,
    "html_url": "https://git.example.org/7",
    "updated_at": "2026-01-02T03:04:05Z",
    "base": {"ref": "main", "repo": {"full_name": "o/r"}},
    "head": {"ref": "topic", "sha": "c0ffee", "repo": {"clone_url": "https://git.example.org/r"}},
}


class GitHub(ThreadingHTTPServer):
    """GitHub's API for a repository with one pull request.

    Fails `fails` times to list its files, and counts the polls.
    """

    fails = 0
    polls = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    server: GitHub

    def do_GET(self) -> None:
        answers: dict[str, Any] = {
            "pulls": [PULL],
            "7": PULL,
            "files": [{"filename": "f"}],
            "commits": [{"commit": {"author": PEOPLE, "committer": PEOPLE}}],
        }
        name = self.path.rpartition("/")[2]
        self.server.polls += name == "pulls"
        if name == "files" and self.server.fails:
            self.server.fails -= 1
            self.send_error(503)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answers[name]).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def github() -> Iterator[GitHub]:
    with serving(server := GitHub()):
        yield server


@on_both
@pytest.mark.parametrize(
    "point",
    [
        "db.users.findUserByAttr:1",  # seen, but not stored
        "db.changes.addChanges:1",
    ],
)
def test_a_pull_request_becomes_a_change_once(victim: Victim, github: GitHub, point: str) -> None:
    victim.write_config(PULLS.format(port=github.server_port))
    die(victim, point)
    victim.start()
    await_pull_request(victim, github)


def test_a_pull_request_is_not_lost_to_an_error(victim: Victim, github: GitHub) -> None:
    github.fails = 2
    victim.write_config(PULLS.format(port=github.server_port))
    victim.start()
    await_pull_request(victim, github)


def await_pull_request(victim: Victim, github: GitHub) -> None:
    query = "SELECT revision FROM changes"
    wait_for(lambda: victim.rows(query), "the change")
    before = github.polls
    wait_for(lambda: github.polls >= before + 2, "another poll")
    assert victim.rows(query) == [("c0ffee",)]
