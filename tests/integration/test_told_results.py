"""Whom a project tells of its results: forges, mailboxes and chats."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.commands import Done
from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.forges import CHAT_PATH
from support.forges import FORGES
from support.forges import TOKEN
from support.forges import Forges
from support.forges import forges
from support.mailbox import MailServer
from support.mailbox import mailbox
from support.master import Master
from support.repositories import Repository

CONFIG = """
from buildbot.plugins import util, worker
from litebot.master.delivery import outbox

outbox.FIRST_RETRY_S, outbox.LOOK_EVERY_S = 0.2, 0.1
c = BuildmasterConfig = {}
c["workers"] = [worker.LocalWorker("local"), worker.LocalWorker("other")]
"""


@pytest.fixture
def server() -> Iterator[Forges]:
    with forges() as found:
        yield found


@pytest.fixture
def mails() -> Iterator[MailServer]:
    with mailbox() as found:
        yield found


@pytest.fixture
def hello(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "team" / "hello")


@pytest.fixture
def told(master: Master, server: Forges) -> Master:
    """A master that runs, with the secrets that tests name."""
    (master.basedir / "master.cfg").write_text(CONFIG)
    secret(master, "TOKEN", TOKEN)
    secret(master, "CHAT", f"{server.url}{CHAT_PATH}")
    master.start()
    return master


def secret(master: Master, name: str, value: str) -> None:
    path = master.basedir / "secrets" / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(f"{value}\n")


def mail_through(master: Master, mails: MailServer, *settings: str) -> None:
    path = master.basedir / "litebot.toml"
    given = {line.partition(" =")[0] for line in settings}
    text, _, section = path.read_text().partition("[mail]\n")
    kept = [x for x in section.splitlines() if x.partition(" =")[0] not in {*given, "port", "host"}]
    host = [] if "host" in given else ['host = "127.0.0.1"']
    ours = [*host, f"port = {mails.port}", *settings]
    path.write_text("\n".join([f"{text}[mail]", *kept, *ours, ""]))
    if master.pid:
        master.reconfig()


def project(master: Master, verb: str, *arguments: str | Path) -> Done:
    return litebot("project", verb, *arguments, master.basedir)


def add(master: Master, repository: Repository, *lines: str) -> None:
    options = [word for line in lines for word in ("--tell", line)]
    succeeded(project(master, "add", "--yes", *options, repository.url))


def tried(master: Master, *options: str, code: int = 0) -> list[dict[str, Any]]:
    done = project(master, "tell", "--test", "--json", *options, "hello")
    assert done.returncode == code, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def await_sent(master: Master) -> None:
    wait_for(lambda: not master.rows("SELECT 1 FROM litebot_outbox"), "all to be sent", 30)


ENDS = {
    "github": ("success", "failure"),
    "gitlab": ("success", "failed"),
    "gitea": ("success", "failure"),
    "bitbucket": ("SUCCESSFUL", "FAILED"),
}
BEGIN = {"github": "pending", "gitlab": "running", "gitea": "pending", "bitbucket": "INPROGRESS"}


def test_each_forge_hears_of_begin_and_end(told: Master, hello: Repository, server: Forges) -> None:
    add(told, hello, *(f"{forge} TOKEN {server.url}" for forge in FORGES))
    first = hello.head
    told.finished_build("hello")
    await_sent(told)
    second = hello.commit('steps = ["false"]\n')
    told.force("hello")
    await_sent(told)
    assert server.refused == []
    for forge, (good, bad) in ENDS.items():
        posted = server.of(forge)
        assert [(each.sha, each.state) for each in posted] == [
            (first, BEGIN[forge]),
            (first, good),
            (second, BEGIN[forge]),
            (second, bad),
        ]
        assert {each.path for each in posted} == {"team/hello"}
        assert {each.context for each in posted} == {"litebot/hello"}
        link = posted[0].body.get("target_url") or posted[0].body["url"]
        assert link.endswith("#/builders/1/builds/1")
    assert TOKEN not in told.log


def test_each_cell_has_a_status_of_its_own(told: Master, hello: Repository, server: Forges) -> None:
    hello.commit('steps = ["test $PY != 2"]\nmatrix.PY = ["1", "2"]\n')
    add(told, hello, f"gitea TOKEN {server.url}")
    told.finished_build("hello", 2)
    await_sent(told)
    wait_for(lambda: len(server.of("gitea")) == 4, "all statuses")
    last = {each.context: each.state for each in server.of("gitea")}
    assert last == {"litebot/hello (PY=1)": "success", "litebot/hello (PY=2)": "failure"}


def test_a_mail_when_the_result_of_a_branch_changes(
    told: Master, hello: Repository, mails: MailServer
) -> None:
    mail_through(told, mails, 'sender = "ci@example.org"')
    add(told, hello, "mail team@example.org ada@example.org")
    told.finished_build("hello")
    hello.git("checkout", "--quiet", "-b", "other")
    hello.commit('steps = [{ name = "tests", run = "echo one; echo two; false" }]\n')
    hello.git("checkout", "--quiet", "main")
    for branch in ("main", "other", "main", "other"):
        told.force("hello", "--branch", branch)
    await_sent(told)
    (first,) = mails.received
    assert sorted(first.recipients) == ["ada@example.org", "team@example.org"]
    assert first.sender == first.message["From"] == "ci@example.org"
    assert first.message["Subject"] == "[hello] failed build of other"
    text = first.message.get_content().replace("\r\n", "\n")
    assert "    one\n    two\n" in text
    assert "#/builders/1/builds/3" in text

    hello.git("checkout", "--quiet", "other")
    hello.commit('steps = ["true"]\n')
    told.force("hello", "--branch", "other")
    await_sent(told)
    assert mails.received[-1].message["Subject"] == "[hello] restored build of other"
    assert len({each.message["Message-ID"] for each in mails.received}) == 2


def test_a_chat_gets_text_and_programs_get_facts(
    told: Master, hello: Repository, server: Forges
) -> None:
    add(told, hello, "json CHAT")
    told.finished_build("hello")
    await_sent(told)
    (posted,) = server.of("chat")
    url = posted.body["url"]
    assert posted.body["text"] == f"hello main: build successful {url}"
    assert posted.body["duration_s"] in range(60)
    facts = ("project", "branch", "revision", "result", "number", "cell")
    assert [posted.body[name] for name in facts] == ["hello", "main", hello.head, "success", 1, ""]
    assert CHAT_PATH not in told.log


def test_only_its_own_builds_are_told_of(
    told: Master, hello: Repository, server: Forges, tmp_path: Path
) -> None:
    add(told, hello, f"gitea TOKEN {server.url}", "json CHAT")
    add(told, Repository(tmp_path / "team" / "quiet"))
    told.finished_build("quiet")
    told.finished_build("hello")
    await_sent(told)
    assert {each.body["project"] for each in server.of("chat")} == {"hello"}
    assert {each.context for each in server.of("gitea")} == {"litebot/hello"}


ELSEWHERE = """
from buildbot.plugins import schedulers
c["www"] = {"change_hook_dialects": {"base": True}}
c["schedulers"] = [schedulers.AnyBranchScheduler("elsewhere", builderNames=["hello"])]
"""


def test_a_build_of_another_repository_is_not_told_of(
    told: Master, hello: Repository, server: Forges
) -> None:
    add(told, hello, f"gitea TOKEN {server.url}", "json CHAT")
    told.finished_build("hello")
    await_sent(told)
    before = len(server.posted)
    told.configure(ELSEWHERE)
    told.reconfig()
    told.change(repository="https://example.org/a/fork", branch="main")
    told.finished_build("hello", 2)
    await_sent(told)
    told.force("hello")
    await_sent(told)
    assert {each.body["number"] for each in server.of("chat")} == {1, 3}
    assert len(server.posted) == before + 3


SLOW = """
from litebot.master.telling import base
base.ANSWERS_WITHIN_S = 1
"""


def test_a_server_that_says_nothing_is_not_waited_for(told: Master, hello: Repository) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        told.configure(SLOW)
        told.reconfig()
        add(told, hello, f"gitea TOKEN http://127.0.0.1:{silent.getsockname()[1]}")
        assert told.finished_build("hello")["results"] == 0
        listed = wait_for(lambda: failed(told), "the report to have failed")
        assert "127.0.0.1" in listed or "time" in listed.lower()


def failed(master: Master) -> str:
    shown = succeeded(litebot("report", "list", master.basedir)).stdout
    return shown if " attempt" in shown and "(" in shown else ""


def test_what_is_refused_is_shown_and_no_build_waits(
    told: Master, hello: Repository, server: Forges
) -> None:
    secret(told, "TOKEN", "another-one-that-is-wrong")
    add(told, hello, f"github TOKEN {server.url}", "json MISSING", f"gitea TOKEN {server.url}/no")
    assert told.finished_build("hello")["results"] == 0
    shown = wait_for(lambda: given_up(told, 2), "them to be given up")
    assert f"hello: github TOKEN {server.url} has not reported build id 1 in 5 attempts" in shown
    assert 'answered 401: {"message": "Bad credentials"}' in shown
    assert 'answered 404: {"message": "Not Found"}' in shown
    assert "there is no secret MISSING" in shown
    assert "another-one" not in shown + told.log
    secret(told, "TOKEN", TOKEN)
    told.stop()
    told.start()
    wait_for(lambda: server.of("github"), "the status")


def given_up(master: Master, count: int) -> str:
    shown = succeeded(litebot("report", "list", master.basedir)).stdout
    return shown if shown.count("not again") >= count else ""


def test_a_redirection_is_not_followed_with_a_token(
    told: Master, hello: Repository, server: Forges
) -> None:
    add(told, hello, f"gitlab TOKEN {server.url}")
    told.finished_build("hello")
    await_sent(told)
    server.code = 302
    (answer,) = tried(told, code=1)
    assert answer["error"].startswith(f"127.0.0.1:{server.server_port} answered 302")
    assert server.of("chat") == []


def test_trying_says_what_is_answered(
    told: Master, hello: Repository, server: Forges, mails: MailServer
) -> None:
    mail_through(told, mails)
    lines = [f"{forge} TOKEN {server.url}" for forge in FORGES]
    lines += ["mail a@example.org", "json CHAT"]
    add(told, hello, *lines)
    told.finished_build("hello")
    await_sent(told)
    server.posted.clear()
    found = tried(told)
    assert [each["tell"] for each in found] == lines
    assert all(each["sent"] and each["error"] is None for each in found)
    assert [a["code"] for each in found for a in each["answers"]] == [201, 201, 201, 201, 250, 201]
    assert {each.sha for each in server.posted} == {hello.head, ""}
    assert server.of("github")[0].context == "litebot/hello (test)"
    assert "a test message of litebot" in mails.received[-1].message["Subject"]

    mails.refusal = "550 no such user"
    (answer,) = tried(told, "--only", "mail", code=1)
    assert answer["error"] == f"127.0.0.1:{mails.port} answered 550 no such user"
    secret(told, "TOKEN", "wrong-token-of-a-forge")
    (answer,) = tried(told, "--only", "gitea", code=1)
    assert "answered 401" in answer["error"]
    assert answer["answers"][0]["code"] == 401
    done = project(told, "tell", "--test", "hello")
    assert done.returncode == 1
    assert "    not sent: 127.0.0.1:" in done.stdout
    assert (
        "tells nobody that begins with 'zulip'"
        in project(told, "tell", "--test", "--only", "zulip", "hello").stderr
    )
    told.stop()
    assert "the master is stopped" in project(told, "tell", "--test", "hello").stderr
    assert succeeded(project(told, "tell", "hello")).stdout.splitlines() == lines


def test_a_mail_server_that_wants_a_password(
    told: Master, hello: Repository, mails: MailServer
) -> None:
    mails.login = base64.b64encode(b"ci\0ci\0the-password-of-mails").decode()
    secret(told, "MAIL", "the-password-of-mails")
    mail_through(told, mails, 'user = "ci"', 'password = "MAIL"')
    add(told, hello, "mail team@example.org")
    assert tried(told)[0]["sent"]
    secret(told, "MAIL", "not-the-password")
    (answer,) = tried(told, code=1)
    assert "535 wrong password" in answer["error"]
    mail_through(told, mails, 'tls = "starttls"')
    (answer,) = tried(told, code=1)
    assert "does not support secure communication" in answer["error"]
    for password in ("the-password-of-mails", "not-the-password"):
        assert password not in told.log
        assert base64.b64encode(f"ci\0ci\0{password}".encode()).decode() not in told.log


CERTIFICATE = (
    "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    " -addext subjectAltName=DNS:localhost -keyout mail.key -out mail.crt"
)


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_mails_over_tls_go_to_a_server_with_a_valid_certificate_alone(
    told: Master, hello: Repository, mails: MailServer, tmp_path: Path, tls: str
) -> None:
    succeeded(run(*CERTIFICATE.split(), cwd=tmp_path))
    mails.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mails.context.load_cert_chain(tmp_path / "mail.crt", tmp_path / "mail.key")
    mails.is_tls = tls == "tls"
    mail_through(told, mails, f'tls = "{tls}"', 'host = "localhost"')
    add(told, hello, "mail team@example.org")
    (answer,) = tried(told, code=1)
    assert "certificate verify failed" in answer["error"]
    told.configure(f"import os; os.environ['SSL_CERT_FILE'] = {str(tmp_path / 'mail.crt')!r}")
    told.reconfig()
    assert tried(told)[0]["sent"]
    assert [each.is_secured for each in mails.received] == [True]


RECONFIGURED = """
from buildbot.reporters.base import ReporterBase
was = ReporterBase.reconfigService
if was.__name__ != "counting":
    def counting(self, *args, **kwargs):
        print(f"reporter {self.name} is configured")
        return was(self, *args, **kwargs)
    ReporterBase.reconfigService = counting
"""


def test_a_reconfig_leaves_reporters_alone(
    master: Master, hello: Repository, server: Forges
) -> None:
    (master.basedir / "master.cfg").write_text(CONFIG + RECONFIGURED)
    master.start()
    add(master, hello, *(f"{forge} T {server.url}" for forge in FORGES), "mail a@b.org", "json C")
    assert master.log.count(" is configured") == 6
    master.reconfig()
    succeeded(project(master, "edit", "--timeout", "2h", "hello"))
    assert master.log.count(" is configured") == 6
