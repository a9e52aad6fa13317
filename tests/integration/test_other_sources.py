"""Change sources other than git: what can't be read holds up itself alone, and is told."""

from __future__ import annotations

import json
import shutil
import sys
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
from support.master import Master
from support.sources import serving


def problems(master: Master) -> dict[str, str]:
    """What change sources can't do, and why."""
    return {found["what"]: found["error"] for found in master.status()["sources"]}


def comments(master: Master) -> list[str]:
    return [text for (text,) in master.rows("SELECT comments FROM changes ORDER BY changeid")]


HG = """
c["change_source"] = changes.HgPoller(
    os.path.join(basedir, "hg"), branches=["default", "missing"], workdir="hg-work",
    hgbin={hg!r}, pollInterval=1, pollAtLaunch=True, name="hg"
)
"""


def test_mercurial(master: Master) -> None:
    hg = Path(sys.executable).with_name("hg")
    require(hg.exists(), "there is no hg: pip install mercurial")
    path = master.basedir / "hg"

    def commit(text: str, name: str, *options: str) -> None:
        (path / name).write_text(text)
        words = ("--encoding", "utf-8", "commit", "-A", "-u", "Jérôme <j@x>", "-m", text)
        succeeded(run(hg, "-R", path, *words, *options))

    succeeded(run(hg, "init", path))
    commit("first", "file")
    master.configure(HG.format(hg=str(hg)))
    master.start()
    wait_for(lambda: problems(master), "the problem")
    assert set(problems(master)) == {"pull missing", "poll"}
    assert "missing" in problems(master)["pull missing"]
    commit("café", "a:b é")
    commit("old", "file2", "-d", "-86400 0")
    wait_for(lambda: comments(master) == ["café", "old"], "the changes")
    found = {change["comments"]: change for change in master.rest("changes")["changes"]}
    assert found["café"]["author"] == "Jérôme <j@x>"
    assert found["café"]["files"] == ["a:b é"]
    assert found["old"]["when_timestamp"] == -86400
    path.rename(f"{path}-away")
    wait_for(lambda: "hg pull" in problems(master).get("poll", ""), "the repository to be missed")


SVN = """
def split(path):
    if "bad" in path:
        raise ValueError("a path that is not understood")
    return (None, path)

c["change_source"] = changes.SVNPoller(
    {url!r}, split_file=split, pollInterval=1, pollAtLaunch=True, name="svn"
)
"""


def test_subversion(master: Master) -> None:
    require(shutil.which("svn"), "there is no svn: apt install subversion")
    path, tree = master.basedir / "svn", master.basedir / "tree"
    succeeded(run("svnadmin", "create", path))
    succeeded(run("svn", "checkout", "--quiet", f"file://{path}", tree))

    def commit(*names: str) -> None:
        for name in names:
            (tree / name).write_text("text")
            succeeded(run("svn", "add", "--quiet", tree / name))
            succeeded(run("svn", "commit", "--quiet", "-m", name, tree))

    commit("first")
    master.configure(SVN.format(url=f"file://{path}"))
    master.start()
    wait_for(lambda: "SVNPoller: finished polling" in master.log, "the first poll")
    commit("bad", "good")
    wait_for(lambda: comments(master) == ["good"], "the change after the bad one")
    path.rename(f"{path}-away")
    wait_for(lambda: "poll" in problems(master), "the repository to be missed")
    Path(f"{path}-away").rename(path)
    commit("last")
    wait_for(lambda: comments(master) == ["good", "last"], "the last change")
    wait_for(lambda: not problems(master), "no problem")


GITHUB = """
c["change_source"] = changes.GitHubPullrequestPoller(
    "o", "r", baseURL="http://127.0.0.1:{port}", pollInterval=1, pollAtLaunch=True
)
"""


class GitHub(ThreadingHTTPServer):
    """GitHub's API: the fork of pull request 7 is gone, that of 8 is not."""

    code = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)


def pull(number: int) -> dict[str, Any]:
    fork = None if number == 7 else {"clone_url": "https://git.example.org/r"}
    return {
        "number": number,
        "title": "a pull request",
        "body": "",
        "commits": 1,
        "html_url": "https://git.example.org/7",
        "updated_at": "2026-01-02T03:04:05Z",
        "base": {"ref": "main", "repo": {"full_name": "o/r"}},
        "head": {"ref": "topic", "sha": f"c0ffee{number}", "repo": fork},
    }


class Answer(BaseHTTPRequestHandler):
    server: GitHub

    def do_GET(self) -> None:
        people = {"name": "Ada", "email": "ada@example.org"}
        answers: dict[str, Any] = {
            "pulls": [pull(7), pull(8)],
            "7": pull(7),
            "8": pull(8),
            "files": [{"filename": "f"}],
            "commits": [{"commit": {"author": people, "committer": people}}],
        }
        self.send_response(self.server.code)
        self.end_headers()
        found = answers[self.path.rpartition("/")[2]]
        self.wfile.write(json.dumps({} if self.server.code != 200 else found).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def github() -> Iterator[GitHub]:
    with serving(server := GitHub()):
        yield server


def test_pull_requests(master: Master, github: GitHub) -> None:
    master.configure(GITHUB.format(port=github.server_port))
    master.start()
    query = "SELECT revision FROM changes"
    wait_for(lambda: master.rows(query) == [("c0ffee8",)], "the change of the other one")
    wait_for(lambda: "read pull request 7" in problems(master), "the problem")
    github.code = 503
    wait_for(lambda: "503" in problems(master).get("poll", ""), "the error of the server")
    github.code = 200
    wait_for(lambda: set(problems(master)) == {"read pull request 7"}, "the server to answer")


MAILS = """
from buildbot.changes.mail import MaildirSource

class Mails(MaildirSource):
    name = "mails"
    compare_attrs = ("basedir",)

    def parse(self, message, prefix=None):
        text = message.get_payload().strip()
        return "svn", {"author": "ada", "files": [], "comments": text}

c["change_source"] = Mails(os.path.join(basedir, "mail"))
"""


def test_mails(master: Master) -> None:
    new = master.basedir / "mail" / "new"
    new.mkdir(parents=True)
    (new.parent / "cur").mkdir()
    head = b"From: ada@example.org\nContent-Type: text/plain%s\n\n"
    (new / "1").write_bytes(head % b"" + b"caf\xe9\n")
    (new / "2").write_bytes(head % b"; charset=iso-8859-1" + b"caf\xe9\n")
    (new / "3").write_bytes(head % b"" + "naïve\n".encode())
    master.configure(MAILS)
    master.start()
    wait_for(lambda: sorted(comments(master)) == ["café", "naïve"], "the changes")
    wait_for(lambda: set(problems(master)) == {"read the mail 1"}, "the problem")
