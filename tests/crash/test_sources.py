"""Killed while a source brings changes: each commit, push and mail is taken once, and whole."""

from __future__ import annotations

import hmac
import json
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.commands import is_running
from support.commands import require
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.killed import Victim
from support.killed import joined
from support.master import Master
from support.master import on_both
from support.visitor import Reply

GIT = shutil.which("git") or "git"

POLLER = """
from buildbot.plugins import changes

c["change_source"] = changes.GitPoller(
    os.path.join(basedir, "repo"), branches=True, pollInterval=1, pollAtLaunch=True,
    gitbin=os.path.join(basedir, "git"), project="p",
)
builder("b", shell("true"))
c["schedulers"].append(schedulers.AnyBranchScheduler("all", builderNames=["b"]))
"""

# A git that stands still at what a file says, and does not give the author of commits that another
# file lists.
FAILING_GIT = """\
#!/bin/sh
held=$(cat {held} 2>/dev/null)
case "$*" in *"${{held:-nothing}}"*)
    echo "$*" > {holds}
    while [ -e {held} ]; do sleep 0.05; done
esac
for revision in $(cat {refused} 2>/dev/null); do
    case "$*" in *%aN*$revision*) exit 1 ;; esac
done
exec {git} "$@"
"""


class Repository:
    """A git repository that a master polls."""

    def __init__(self, victim: Victim) -> None:
        self.path = victim.basedir / "repo"
        self.refused = victim.basedir / "refused"
        self.held = victim.basedir / "held"
        self.holds = victim.basedir / "holds"  # what stands still
        git = victim.basedir / "git"
        git.write_text(
            FAILING_GIT.format(refused=self.refused, held=self.held, holds=self.holds, git=GIT),
            encoding="utf-8",
        )
        git.chmod(0o755)
        succeeded(run(GIT, "init", "--quiet", "-b", "main", self.path))
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")
        self.commit("main", "first")

    def git(self, *words: str) -> str:
        return succeeded(run(GIT, "-C", self.path, *words)).stdout.strip()

    def commit(self, branch: str, *names: str) -> list[str]:
        """A commit of each name on a branch; their revisions."""
        if self.git("branch", "--list", branch):
            self.git("checkout", "--quiet", branch)
        revisions = []
        for name in names:
            self.git("commit", "--quiet", "--allow-empty", "-m", name)
            revisions.append(self.git("rev-parse", "HEAD"))
        return revisions


@pytest.fixture
def repository(victim: Victim) -> Repository:
    """One that the victim's poller has looked at once."""
    repository = Repository(victim)
    victim.write_config(POLLER)
    victim.start()
    wait_for(lambda: reached(victim), "the poller's first look")
    return repository


def die(victim: Victim, point: str) -> None:
    """Start it and have it die there, which may be before it says that it has started."""
    victim.start_to_die(point)
    wait_for(lambda: not victim.pids or not is_running(victim.pid), "the master to die")


def reached(victim: Victim) -> list[tuple[str]]:
    return victim.rows("SELECT value_json FROM object_state WHERE name = 'lastRev'")


def changes(victim: Victim) -> Counter[str]:
    return Counter(row[0] for row in victim.rows("SELECT comments FROM changes"))


def await_changes(victim: Victim, *comments: str) -> None:
    """Wait until there is a change for each, and for a poll more; there must be one for each."""
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


MAILDIR = """
from buildbot.changes.mail import MaildirSource


class Subjects(MaildirSource):
    pollInterval = 1

    def parse(self, message, prefix=None):
        if message["subject"]:
            return "git", {"author": message["from"], "comments": message["subject"]}


c["change_source"] = Subjects(os.path.join(basedir, "mail"))
builder("b", shell("true"))
"""


class Maildir:
    """A folder of mails that a master reads."""

    def __init__(self, victim: Victim) -> None:
        self.path = victim.basedir / "mail"
        for folder in ("new", "cur", "tmp"):
            (self.path / folder).mkdir(parents=True)

    def send(self, name: str, text: bytes) -> None:
        (self.path / "tmp" / name).write_bytes(text)
        (self.path / "tmp" / name).rename(self.path / "new" / name)

    def names(self, folder: str) -> set[str]:
        return {path.name for path in (self.path / folder).iterdir()}


def mail(subject: str) -> bytes:
    return f"From: ada@example.org\nSubject: {subject}\n\nText.\n".encode()


@on_both
def test_a_mail_is_moved_when_its_change_is_stored_and_that_is_once(victim: Victim) -> None:
    maildir = Maildir(victim)
    victim.write_config(MAILDIR)
    for name in ("one", "two"):
        maildir.send(name, mail(name))
    die(victim, "db.changes.addChanges:1")  # before it is moved
    assert len(maildir.names("new")) == 2
    victim.start()
    maildir.send("three", mail("one"))  # says the same, and is another mail
    wait_for(lambda: not maildir.names("new"), "the mails to be moved")
    assert maildir.names("cur") == {"one", "two", "three"}
    assert changes(victim) == Counter({"one": 2, "two": 1})


def test_a_mail_is_not_moved_before_its_change_is_stored(victim: Victim) -> None:
    maildir = Maildir(victim)
    victim.write_config(MAILDIR)
    maildir.send("one", mail("one"))
    die(victim, "db.users.findUserByAttr:1")  # read, and its change is not stored yet
    victim.start()
    wait_for(lambda: maildir.names("cur"), "the mail to be moved")
    assert changes(victim) == Counter({"one": 1})


def test_a_mail_that_is_no_change_is_moved_and_one_that_is_unreadable_stays(
    victim: Victim,
) -> None:
    maildir = Maildir(victim)
    victim.write_config(MAILDIR)
    maildir.send("nothing", b"From: ada@example.org\n\nText.\n")
    maildir.send("latin", mail("one").replace(b"Text", b"\xe9"))
    victim.start()
    wait_for(lambda: maildir.names("cur") == {"nothing"}, "the mail to be moved")
    wait_for(lambda: "while reading 'latin' from maildir" in victim.log, "the log to say so")
    assert maildir.names("new") == {"latin"}
    assert not changes(victim)


HOOKS = """
c["www"]["change_hook_dialects"] = {"base": True, "github": {"secret": "s", "strict": False}}
builder("b", shell("true"))
c["schedulers"].append(schedulers.AnyBranchScheduler("all", builderNames=["b"]))
"""

PEOPLE = {"name": "Ada", "email": "ada@example.org"}


def push(victim: Victim, *revisions: str, **headers: str) -> Reply | None:
    """Send a push of these commits as GitHub does; None where the master dies of it."""
    commits = [
        {
            "id": revision,
            "message": revision,
            "timestamp": "2026-01-01T00:00:00Z",
            "url": "https://git.example.org/" + revision,
            "author": PEOPLE,
            "committer": PEOPLE,
        }
        for revision in revisions
    ]
    names = ("name", "html_url", "full_name")
    body = {
        "ref": "refs/heads/main",
        "repository": dict.fromkeys(names, "r"),
        "head_commit": commits[-1],
        "commits": commits,
    }
    sent = {"X_GitHub_Event": "push", "Content_Type": "application/json", **headers}
    text = json.dumps(body).encode()
    signature = hmac.new(b"s", text, "sha1").hexdigest()
    try:
        return victim.visitor().request(
            "POST", "/change_hook/github", text, X_Hub_Signature=f"sha1={signature}", **sent
        )
    except (OSError, HTTPException):
        return None


@on_both
@pytest.mark.parametrize(
    ("point", "stored"),
    [
        ("db.users.findUserByAttr:2", 0),  # half of it is prepared
        ("db.changes.addChanges:1", 3),  # and nobody was told
    ],
)
def test_a_push_is_stored_whole_or_not_at_all_and_once(
    victim: Victim, point: str, stored: int
) -> None:
    victim.write_config(HOOKS)
    die_of(victim, point, lambda: push(victim, "1", "2", "3", X_GitHub_Delivery="a"))
    assert sum(changes(victim).values()) == stored
    victim.start()
    again = push(victim, "1", "2", "3", X_GitHub_Delivery="a")
    assert again is not None
    assert again.status == 200
    assert changes(victim) == Counter("123")
    wait_for(lambda: len(victim.schedulers()) == 3, "a buildset of each")
    victim.await_quiet()


def die_of(victim: Victim, point: str, act: Callable[[], Reply | None]) -> None:
    victim.start_to_die(point)
    assert act() is None
    victim.await_death()


def test_a_delivery_is_one_and_another_is_another(victim: Victim) -> None:
    victim.write_config(HOOKS)
    victim.start()
    push(victim, "1", X_GitHub_Delivery="a")
    reply = push(victim, "1", X_GitHub_Delivery="a")
    assert reply is not None
    assert reply.status == 200
    assert reply.body == b"no change stored: this delivery has been taken before"
    push(victim, "1", X_GitHub_Delivery="b")  # what somebody pushed again, on purpose
    push(victim, "2", X_GitHub_Delivery="a")
    assert changes(victim) == Counter({"1": 2, "2": 1})
    form, kind = "author=ada&comments=3", "application/x-www-form-urlencoded"
    for key in ("a", "a", "b"):
        reply = victim.visitor().request(
            "POST", "/change_hook/base", form, Content_Type=kind, Idempotency_Key=key
        )
        assert reply.status == 200
    assert changes(victim)["3"] == 2


@on_both
def test_what_was_delivered_is_known_for_a_week(victim: Victim) -> None:
    victim.write_config(HOOKS)
    victim.start()
    push(victim, "1", X_GitHub_Delivery="a")
    push(victim, "2", X_GitHub_Delivery="b")
    victim.stop()
    victim.execute("UPDATE litebot_deliveries SET taken_at = taken_at - 8 * 86400")
    victim.start()
    push(victim, "3", X_GitHub_Delivery="c")
    assert len(victim.rows("SELECT * FROM litebot_deliveries")) == 1


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
        """A commit of each name."""
        for name in names:
            (self.path / "file").write_text(name, encoding="utf-8")
            self.run("commit", "-A", "-u", "Ada", "-m", name)


@pytest.fixture
def mercurial(victim: Victim) -> Mercurial:
    """One that the victim's poller has looked at once."""
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
    mercurial.commit("second", "third")  # before it polls again
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
    """GitHub's API, of a repository with one pull request; fails to list its files so often."""

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
    with GitHub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@on_both
@pytest.mark.parametrize(
    "point",
    [
        "db.users.findUserByAttr:1",  # seen, and not stored
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
