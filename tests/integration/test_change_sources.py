"""Change sources: what can't be read or fetched holds up itself alone, and is told until it can."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import Master
from support.master import on_both
from support.sources import Repository
from support.sources import serving

POLLERS = """
import os
from buildbot.plugins import changes

c["change_source"] = [
    changes.GitPoller(
        os.path.join(basedir, "repo"), branches=True, pollInterval=1, pollAtLaunch=True,
        gitbin=os.path.join(basedir, "git"), project="p", name="poller"
    )
]
factory = util.BuildFactory([steps.ShellCommand(command="true")])
c["builders"] = [util.BuilderConfig(name="b", workernames=["local"], factory=factory)]
c["schedulers"] = [schedulers.AnyBranchScheduler("all", builderNames=["b"])]
"""


@pytest.fixture
def repository(master: Master) -> Repository:
    """A git repository that the poller of the running master has polled once."""
    repository = Repository(master)
    master.configure(POLLERS)
    master.start()
    await_poll(master)
    return repository


def await_poll(master: Master) -> None:
    """Wait until a poll has come to its end that began after this call."""
    said = "gitpoller: processing changes from"
    before = master.log.count(said)
    wait_for(lambda: master.log.count(said) >= before + 2, "a poll")


def problems(master: Master) -> dict[str, str]:
    """What change sources can't do, and why."""
    return {found["what"]: found["error"] for found in master.status()["sources"]}


def changes_by_revision(master: Master) -> dict[str, dict[str, Any]]:
    found = master.rest("changes")["changes"]
    assert len({change["revision"] for change in found}) == len(found)
    return {change["revision"]: change for change in found}


def await_change(master: Master, revision: str) -> None:
    query = "SELECT 1 FROM changes WHERE revision = :revision"
    wait_for(lambda: master.rows(query, revision=revision), f"the change of {revision}", 60)


def commit_of(repository: Repository, **parts: Any) -> str:
    """Make a commit of these bytes on main, which git itself may refuse to make."""
    head = repository.git("rev-parse", "main")
    tree = repository.git("rev-parse", "main^{tree}")
    date = parts.get("date", 1_700_000_000)
    author = parts.get("author", b"Ada <ada@example.org>")
    parents = b"" if parts.get("is_root") else b"parent %s\n" % head.encode()
    header = b"encoding %s\n" % parts["header"] if "header" in parts else b""
    text = b"tree %s\n%sauthor %s %d +0000\n" % (
        tree.encode(),
        parents,
        author,
        date,
    ) + b"committer %s %d +0000\n%s\n%s" % (author, date, header, parts.get("message", b"text"))
    made = repository.path / "made"
    made.write_bytes(text)
    revision = repository.git("hash-object", "-t", "commit", "-w", "--literally", str(made))
    made.unlink()
    repository.git("update-ref", "refs/heads/main", revision)
    return revision


READ_AS: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    (
        {"author": b"J\xe9r\xf4me <j@x>", "message": b"caf\xe9\n\nbody \xff"},
        {"author": "J\ufffdr\ufffdme <j@x>", "comments": "caf\ufffd\nbody \ufffd"},
    ),
    (
        {"author": b"J\xe9r\xf4me <j@x>", "message": b"caf\xe9", "header": b"ISO-8859-1"},
        {"author": "Jérôme <j@x>", "comments": "café"},
    ),
    ({"message": "日本".encode("shift_jis"), "header": b"shift_jis"}, {"comments": "日本"}),
    ({"message": "日本".encode("iso-2022-jp"), "header": b"iso-2022-jp"}, {"comments": "日本"}),
    ({"message": "café".encode(), "header": b"no-such-codec"}, {"comments": "café"}),
    ({"message": "café".encode(), "header": b"hex"}, {"comments": "café"}),
    ({"message": "café".encode(), "header": b"US-ASCII"}, {"comments": "café"}),
    ({"message": b"caf\xe9", "header": b"\xff\xfe"}, {"comments": "caf\ufffd"}),
    ({"message": b"a+2AA-b", "header": b"utf-7"}, {"comments": "a+2AA-b"}),
    ({"message": b""}, {"comments": ""}),
    ({"message": b"\n\n  \n"}, {"comments": ""}),
    ({"message": b"long " * 200_000 + b"end"}, {"comments": "long " * 200_000 + "end"}),
    ({"date": 0}, {"when_timestamp": 0}),
    ({"date": -86_400}, {"when_timestamp": -86_400}),
    ({"date": 2**31 - 1}, {"when_timestamp": 2**31 - 1}),
)
BEYOND = {4_102_444_800: 4_102_444_800, 2**63: 253_402_300_799, 10**40: 253_402_300_799}


@on_both
def test_a_commit_of_any_bytes_and_any_year_is_built(
    master: Master, repository: Repository, database_kind: str
) -> None:
    expected = {commit_of(repository, **parts): right for parts, right in READ_AS}
    for date, nearest in BEYOND.items():
        stored = nearest if database_kind == "sqlite" else 2**31 - 1
        expected[commit_of(repository, date=date)] = {"when_timestamp": stored}
    author = b"A" * 3000 + b" <a@x>"
    expected[commit_of(repository, author=author)] = {}
    last = commit_of(repository, message=b"last")
    await_change(master, last)
    found = changes_by_revision(master)
    assert {revision: right for revision, right in expected.items() if revision not in found} == {}
    for revision, right in expected.items():
        assert {name: found[revision][name] for name in right} == right
    assert problems(master) == {}
    built = "SELECT DISTINCT s.revision FROM sourcestamps s JOIN buildset_sourcestamps b"
    built += " ON b.sourcestampid = s.id"
    wait_for(lambda: (last,) in master.rows(built), "a build of the last one")
    assert {*expected, last} == {revision for (revision,) in master.rows(built)}


NAMES = (
    b"a\nb",
    b'"quoted"',
    b"tab\t",
    "é 日本".encode(),
    b"caf\xe9",
    b"\nfirst",
    b"back\\slash",
    b" ",
)


def test_odd_names_of_files_are_kept(master: Master, repository: Repository) -> None:
    for name in NAMES:
        (repository.path / name.decode("utf-8", "surrogateescape")).write_text("text")
    repository.git("add", ".")
    (revision,) = repository.commit("main", "names")
    await_change(master, revision)
    files = changes_by_revision(master)[revision]["files"]
    assert sorted(files) == sorted(name.decode("utf-8", "replace") for name in NAMES)


def test_what_the_configuration_of_git_says_of_encodings_counts(
    master: Master, repository: Repository
) -> None:
    work = master.basedir / "gitpoller-work"
    succeeded(run("git", "-C", work, "config", "i18n.commitEncoding", "ISO-8859-2"))
    succeeded(run("git", "-C", work, "config", "i18n.logOutputEncoding", "ISO-8859-1"))
    repository.git("config", "i18n.commitEncoding", "windows-1251")
    (repository.path / "message").write_bytes("привет".encode("windows-1251"))
    repository.git("commit", "--quiet", "--allow-empty", "-F", "message")
    with_header = repository.git("rev-parse", "HEAD")
    without = commit_of(repository, message="Łódź".encode("iso-8859-2"))
    await_change(master, without)
    found = changes_by_revision(master)
    assert found[with_header]["comments"] == "привет"
    assert found[without]["comments"] == "Łódź"


def test_a_commit_that_cannot_be_read_holds_up_itself_alone(
    master: Master, repository: Repository
) -> None:
    repository.git("checkout", "--quiet", "main")
    repository.git("commit", "--quiet", "--allow-empty", "-m", "refused")
    refused = repository.git("rev-parse", "HEAD")
    repository.refused.write_text(refused, encoding="utf-8")
    (after,) = repository.commit("main", "after")
    await_change(master, after)
    wait_for(lambda: problems(master), "the problem")
    (what,) = problems(master)
    assert what == f"poll branch refs/heads/main, commit {refused}"
    for text in (
        master.run("status").stdout,
        succeeded(master.run("why", after[:8])).stdout,
        master.run("why", refused).stderr,
        master.visitor().request("GET", "/").body.decode(),
    ):
        assert re.search(f"poller.* can&?[#x27;']+t {what}, since 20", text), text
    lines = master.log.count("trying to poll branch refs/heads/main")
    await_poll(master)
    assert master.log.count("trying to poll branch refs/heads/main") == lines == 1

    master.kill()
    master.start()
    await_poll(master)
    assert set(problems(master)) == {what}
    repository.refused.unlink()
    await_change(master, refused)
    wait_for(lambda: not problems(master), "no problem")
    assert len(changes_by_revision(master)) == 2
    assert "source" not in master.run("status").stdout
    assert "source-problems" not in master.visitor().request("GET", "/").body.decode()


def test_a_commit_that_could_not_be_read_and_is_gone_is_forgotten(
    master: Master, repository: Repository
) -> None:
    (refused,) = repository.commit("main", "refused before it is read")
    repository.refused.write_text(refused, encoding="utf-8")
    wait_for(lambda: problems(master) or refused in changes_by_revision(master), "a poll")
    repository.git("reset", "--quiet", "--hard", "HEAD~1")
    (instead,) = repository.commit("main", "instead")
    await_change(master, instead)
    wait_for(lambda: not problems(master), "no problem")
    repository.refused.unlink()


def test_a_branch_in_the_place_of_one_that_is_gone_is_seen(
    master: Master, repository: Repository
) -> None:
    repository.git("branch", "feature")
    await_poll(master)
    repository.git("branch", "-D", "feature")
    repository.git("checkout", "--quiet", "-b", "feature/login")
    (login,) = repository.commit("feature/login", "login")
    (on_main,) = repository.commit("main", "on main")
    await_change(master, login)
    await_change(master, on_main)
    repository.git("branch", "-D", "feature/login")
    repository.git("checkout", "--quiet", "-b", "feature")
    (feature,) = repository.commit("feature", "in the place of a folder")
    await_change(master, feature)
    assert problems(master) == {}
    work = master.basedir / "gitpoller-work"
    refs = succeeded(run("git", "-C", work, "for-each-ref", "--format=%(refname)")).stdout
    assert sorted(ref.rpartition("/heads/")[2] for ref in refs.split()) == ["feature", "main"]


def test_a_branch_that_cannot_be_fetched_names_itself(
    master: Master, repository: Repository
) -> None:
    repository.git("branch", "bad")
    await_poll(master)
    head = repository.git("rev-parse", "bad")
    packed = repository.path / ".git" / "packed-refs"
    lost = "1" * 40
    packed.write_text(f"# pack-refs with: peeled fully-peeled sorted \n{lost} refs/heads/lost\n")
    (repository.path / ".git" / "refs/heads" / "caf\udce9").write_text(head)
    refs = master.basedir / "gitpoller-work" / "refs"
    tracker = next((refs / "buildbot").rglob("heads")) / "bad"
    (tracker.parent / "bad.lock").touch()  # as a git leaves it that was killed
    repository.git("update-ref", "refs/heads/bad", repository.commit("main", "second")[0])
    (third,) = repository.commit("main", "third")
    await_change(master, third)
    names = {f"fetch refs/heads/{name}" for name in ("bad", "caf\ufffd", "lost")}
    wait_for(lambda: set(problems(master)) == names, "three problems")
    found = problems(master)
    assert "bad.lock" in found["fetch refs/heads/bad"]
    assert "rename it" in found["fetch refs/heads/caf\ufffd"]
    (tracker.parent / "bad.lock").unlink()
    wait_for(lambda: len(problems(master)) == 2, "the branch to be fetched")


def test_a_server_that_fails_is_told_until_it_answers(
    master: Master, repository: Repository
) -> None:
    away = repository.path.with_name("away")
    repository.path.rename(away)
    wait_for(lambda: problems(master), "the problem")
    first = master.status()["sources"]
    assert [found["what"] for found in first] == ["poll"]
    assert str(repository.path) in first[0]["error"]
    assert first == master.status()["sources"]
    away.rename(repository.path)
    (revision,) = repository.commit("main", "second")
    await_change(master, revision)
    wait_for(lambda: not problems(master), "no problem")


CODEBASE = """
import os
from buildbot.plugins import changes

c["projects"] = [util.Project(name="p")]
c["codebases"] = [util.Codebase(name="code", project="p")]
c["change_source"] = changes.GitPoller(
    os.path.join(basedir, "repo"), branches=True, pollInterval=1, pollAtLaunch=True,
    codebase=c["codebases"][0], category=lambda change: change['branch'],
    gitbin=os.path.join(basedir, "git"), name="poller", usetimestamps={timestamps},
)
c["schedulers"] = [schedulers.ForceScheduler("force", builderNames=["hello"])]
"""


@on_both
@pytest.mark.parametrize("timestamps", [True, False])
def test_a_commit_without_a_parent_is_kept_in_its_codebase(
    master: Master, timestamps: bool
) -> None:
    repository = Repository(master)
    master.configure(CODEBASE.format(timestamps=timestamps))
    master.start()
    await_poll(master)
    (second,) = repository.commit("main", "second")
    repository.git("checkout", "--quiet", "--orphan", "other")
    (root,) = repository.commit("other", "root")
    (last,) = repository.commit("other", "last")
    far = commit_of(repository, date=4_102_444_800, author=b"A" * 300 + b" <a@x>")
    for revision in (second, last, far):
        await_change(master, revision)
    await_poll(master)
    query = (
        "SELECT c.revision, p.revision FROM codebase_commits c"
        " LEFT JOIN codebase_commits p ON p.id = c.parent_commitid"
    )
    assert set(master.rows(query)) == {
        (second, None),
        (root, None),
        (last, root),
        (far, second),
    }
    assert problems(master) == {}


OWN = """
import os
from buildbot.plugins import changes
from twisted.internet import defer
from twisted.python import log


class Own(changes.GitPoller):
    def poll(self):
        log.msg("my own poll")
        return super().poll()

    def _get_commit_author(self, rev):
        return defer.succeed("somebody")


c["change_source"] = Own(
    os.path.join(basedir, "repo"), branches=True, pollInterval=1, pollAtLaunch=True, name="poller",
    gitbin=os.path.join(basedir, "git"),
)
"""


def test_methods_of_a_class_of_ones_own_are_called(master: Master) -> None:
    repository = Repository(master)
    master.configure(OWN)
    master.start()
    await_poll(master)
    (revision,) = repository.commit("main", "second")
    await_change(master, revision)
    assert changes_by_revision(master)[revision]["author"] == "somebody"
    assert "my own poll" in master.log
    away = Path(f"{repository.path}-away")
    repository.path.rename(away)
    wait_for(lambda: problems(master), "the problem")


# A git that can't fetch a branch as long as there is a file.
BLOCKED = """\
#!/bin/sh
case "$*" in fetch*heads/late*) test ! -e {blocked} || exit 128 ;; esac
exec {git} "$@"
"""


@on_both
def test_the_history_of_a_branch_that_could_not_be_fetched_at_first_is_old(master: Master) -> None:
    repository = Repository(master)
    repository.git("checkout", "--quiet", "-b", "late")
    repository.commit("late", "old")
    git, blocked = master.basedir / "git", master.basedir / "blocked"
    git.write_text(BLOCKED.format(git=shutil.which("git"), blocked=blocked), encoding="utf-8")
    git.chmod(0o755)
    blocked.touch()
    master.configure(POLLERS)
    master.start()
    wait_for(lambda: "fetch refs/heads/late" in problems(master), "the problem", 30)
    await_poll(master)
    blocked.unlink()
    wait_for(lambda: not problems(master), "no problem", 30)
    new = repository.commit("late", "new") + repository.commit("main", "new, too")
    for revision in new:
        await_change(master, revision)
    assert changes_by_revision(master).keys() == set(new)


SHARING = """
import os
from buildbot.plugins import changes

c["change_source"] = [
    changes.GitPoller(
        os.path.join(basedir, "repo"), branches=True, pollInterval=3600, pollAtLaunch=True,
        project=f"p{number}", name=f"poller{number}", gitbin=os.path.join(basedir, "exclusive"),
    )
    for number in range(6)
]
"""
# A git that fails where another one is at making or fetching.
EXCLUSIVE = """\
#!/bin/sh
case "$1" in init|fetch)
    mkdir {folder} || {{ echo "another git is at it" >&2; exit 128; }}
    trap 'rmdir {folder}' EXIT
    {git} "$@"
    exit $? ;;
esac
exec {git} "$@"
"""


def test_pollers_that_share_a_folder_take_turns(master: Master) -> None:
    Repository(master)
    git = master.basedir / "exclusive"
    folder = master.basedir / "busy"
    git.write_text(EXCLUSIVE.format(git=shutil.which("git"), folder=folder), encoding="utf-8")
    git.chmod(0o755)
    master.configure(SHARING)
    master.start()
    query = "SELECT count(*) FROM object_state WHERE name = 'lastRev'"
    wait_for(lambda: master.rows(query) == [(6,)], "all first polls")
    assert problems(master) == {}


def test_sources_are_told_as_the_documents_say(master: Master, repository: Repository) -> None:
    away = Path(f"{repository.path}-away")
    repository.path.rename(away)
    wait_for(lambda: problems(master), "the problem")
    (found,) = json.loads(master.run("status", "--json").stdout)["sources"]
    assert set(found) == {"source", "what", "since", "error"}


GERRIT = """
from buildbot.plugins import changes

c["change_source"] = changes.GerritEventLogPoller(
    "http://127.0.0.1:{port}/a", ("bot", "password"), gitBaseURL="ssh://gerrit.example.org",
    handled_events=["patchset-created", "ref-updated"], pollInterval=1, get_files=True,
)
"""


def gerrit_event(number: int, at: int, **fields: Any) -> dict[str, Any]:
    event = {
        "type": "patchset-created",
        "change": {
            "project": {"name": "p"},
            "branch": "main",
            "number": number,
            "subject": f"change {number}",
            "url": "http://gerrit.example.org/1",
            "owner": {"name": "Jérôme", "email": "j@example.org"},
        },
        "patchSet": {"number": 1, "revision": f"{number:040}", "ref": "refs/changes/1/1/1"},
        "eventCreatedOn": at,
    }
    return {**event, **fields}


class Gerrit(ThreadingHTTPServer):
    """Gerrit's log of events, which gives those since the second that it is asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), GerritAnswer)
        self.events: list[Any] = []
        self.asked: list[str] = []
        self.code = 200


class GerritAnswer(BaseHTTPRequestHandler):
    server: Gerrit

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.send_response(self.server.code)
        self.end_headers()
        assert self.headers["Authorization"] == "Basic Ym90OnBhc3N3b3Jk"
        if path.endswith("/files/"):
            self.wfile.write(b")]}'\n" + json.dumps({"a file": {}}).encode())
            return
        assert path == "/a/plugins/events-log/events/"
        since = parse_qs(query)["t1"][0]
        self.server.asked.append(since)
        start = datetime.strptime(since, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
        for event in list(self.server.events):
            if not isinstance(event, dict) or event["eventCreatedOn"] >= start:
                text = event if isinstance(event, bytes) else json.dumps(event).encode()
                self.wfile.write(text + b"\n")

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def gerrit() -> Iterator[Gerrit]:
    with serving(server := Gerrit()):
        yield server


@on_both
def test_the_log_of_gerrit_is_asked(master: Master, gerrit: Gerrit) -> None:
    now = int(time.time()) - 100
    gerrit.events = [gerrit_event(1, now), gerrit_event(2, now)]
    master.configure(GERRIT.format(port=gerrit.server_port))
    master.start()
    await_change(master, f"{2:040}")
    broken = gerrit_event(3, now + 1)
    del broken["change"]["subject"]
    gerrit.events += [b"no JSON \xff", broken, gerrit_event(4, now + 1, type="unknown")]
    gerrit.events += [gerrit_event(5, now + 2)]
    await_change(master, f"{5:040}")
    wait_for(lambda: len(problems(master)) == 2, "the problems of two events")
    assert {what.partition(" event")[0] for what in problems(master)} == {
        "read the",
        "add the change of the patchset-created",
    }
    asked = len(gerrit.asked)
    wait_for(lambda: len(gerrit.asked) >= asked + 2, "two more polls")
    gerrit.code = 503
    wait_for(lambda: "503" in problems(master).get("poll", ""), "the error")
    gerrit.code = 200
    gerrit.events.append(gerrit_event(6, now + 3))
    await_change(master, f"{6:040}")
    wait_for(lambda: "poll" not in problems(master), "no error")
    found = changes_by_revision(master)
    assert sorted(int(revision) for revision in found) == [1, 2, 5, 6]
    change = found[f"{6:040}"]
    assert (change["author"], change["files"]) == ("Jérôme <j@example.org>", ["a file"])


STREAM = """
from buildbot.plugins import changes

c["change_source"] = changes.GerritChangeSource(
    "gerrit.example.org", "bot", handled_events=["ref-updated"]
)
"""
# An ssh that is refused until there is a file with an event, and then prints that.
SSH = """\
#!/bin/sh
if [ -e {event} ]; then cat {event}; exec sleep 300; fi
echo "bot@gerrit: Permission denied" >&2
exit 255
"""


def test_a_stream_of_events_that_is_refused_is_told_until_it_comes(master: Master) -> None:
    programs, event = master.basedir / "programs", master.basedir / "event"
    programs.mkdir()
    (programs / "ssh").write_text(SSH.format(event=event), encoding="utf-8")
    (programs / "ssh").chmod(0o755)
    master.configure(STREAM)
    master.start(env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"})
    wait_for(lambda: problems(master), "the problem")
    (found,) = problems(master).items()
    assert found[0] == "follow the stream of events"
    assert "Permission denied" in found[1]
    update = {"project": "p", "refName": "refs/heads/main", "newRev": "f" * 40}
    made = {"type": "ref-updated", "refUpdate": update, "eventCreatedOn": 1}
    (master.basedir / "made").write_text(json.dumps(made) + "\n", encoding="utf-8")
    (master.basedir / "made").rename(event)
    await_change(master, "f" * 40)
    assert problems(master) == {}
