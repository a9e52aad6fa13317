"""sample-master/ runs as it is: a signed webhook, both builders, the reporter, the nightly."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import shutil
import threading
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import FAILURE
from support.master import SUCCESS
from support.master import Master
from support.visitor import Reply

pytestmark = pytest.mark.usefixtures("real_commands")

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sample-master"
TEMPLATE = ROOT / "litebot" / "template"


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps the JSON that is posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ReceiverHandler)
        self.received: list[Any] = []
        self.url = f"http://127.0.0.1:{self.server_port}/results"

    def wait_for_report(self, builder: str, number: int) -> Any:
        """What was posted of build `number` of a builder."""

        def find() -> list[Any]:
            return [
                report
                for report in self.received
                if (report["builder"]["name"], report["number"]) == (builder, number)
            ]

        (report,) = wait_for(find, f"the report on build {number} of {builder}")
        return report


class ReceiverHandler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Receiver)
        self.server.received.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A server that the sample reports to."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def sample(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    """A copy of the sample as its README makes it, with one line of master.cfg filled in."""
    master = Master(tmp_path_factory.mktemp("sample") / "ci")
    shutil.copytree(SAMPLE, master.basedir)
    master.create("--force")
    config = master.basedir / "master.cfg"
    text = config.read_text(encoding="utf-8")
    assert text.count('results_url = ""\n') == 1
    config.write_text(text.replace('results_url = ""', f'results_url = "{receiver.url}"'))
    master.start()
    yield master
    master.end()


@pytest.fixture(scope="module")
def clone(sample: Master, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a developer has it."""
    folder = tmp_path_factory.mktemp("clone") / "hello"
    succeeded(run("git", "clone", "--quiet", sample.basedir / "project.bundle", folder))
    git(folder, "config", "user.name", "Ada")
    git(folder, "config", "user.email", "ada@example.org")
    return folder


def git(folder: Path, *arguments: str | Path) -> str:
    return succeeded(run("git", "-C", folder, *arguments)).stdout.strip()


def push(sample: Master, clone: Path, path: str, text: str) -> str:
    """Commit a change and have it in the repository that the master builds; the revision."""
    (clone / path).write_text(text, encoding="utf-8")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", f"Change {path}")
    bundle = sample.basedir / "project.bundle"
    git(clone, "bundle", "create", "--quiet", bundle.with_suffix(".new"), "HEAD", "main")
    bundle.with_suffix(".new").rename(bundle)
    return git(clone, "rev-parse", "HEAD")


def payload(revision: str, path: str) -> dict[str, Any]:
    """What GitHub posts about a push of one commit to main, as far as it matters.

    Source: https://docs.github.com/en/webhooks/webhook-events-and-payloads#push
    """
    person = {"name": "Ada", "email": "ada@example.org", "username": "ada"}
    commit = {
        "id": revision,
        "message": f"Change {path}",
        "timestamp": "2026-01-02T03:04:05+00:00",
        "url": f"https://github.com/example/hello/commit/{revision}",
        "author": person,
        "committer": person,
        "added": [],
        "modified": [path],
        "removed": [],
        "distinct": True,
    }
    return {
        "ref": "refs/heads/main",
        "before": "0" * 40,
        "after": revision,
        "created": False,
        "deleted": False,
        "forced": False,
        "commits": [commit],
        "head_commit": commit,
        "pusher": {"name": "ada", "email": "ada@example.org"},
        "repository": {
            "name": "hello",
            "full_name": "example/hello",
            "html_url": "https://github.com/example/hello",
        },
    }


def post_hook(sample: Master, body: dict[str, Any], secret: str | None) -> Reply:
    """POST as GitHub does, signed with `secret` in both of its ways, or unsigned."""
    data = json.dumps(body).encode()
    headers = {"Content_Type": "application/json", "X_GitHub_Event": "push"}
    if secret is not None:
        for name, kind in (("X_Hub_Signature", "sha1"), ("X_Hub_Signature_256", "sha256")):
            headers[name] = f"{kind}={hmac.new(secret.encode(), data, kind).hexdigest()}"
    return sample.visitor().request("POST", "/change_hook/github", data, **headers)


def secret_of(sample: Master) -> str:
    path = sample.basedir / "secrets" / "webhook-secret"
    return path.read_text(encoding="ascii").strip()


def test_a_push_is_tested_packaged_and_reported(
    sample: Master, clone: Path, receiver: Receiver
) -> None:
    number = {name: len(sample.builds(name)) + 1 for name in ("tests", "package")}
    revision = push(sample, clone, "README.md", "# hello\n\nNow with more words.\n")
    reply = post_hook(sample, payload(revision, "README.md"), secret_of(sample))
    assert reply.status == 200, reply.body

    tests = sample.finished_build("tests", number["tests"])
    package = sample.finished_build("package", number["package"])
    assert (tests["results"], package["results"]) == (SUCCESS, SUCCESS)
    assert package["started_at"] >= tests["complete_at"]
    for build in (tests, package):
        properties = sample.rest(f"builds/{build['buildid']}/properties")["properties"][0]
        assert properties["got_revision"][0] == revision
    assert properties["scheduler"] == ["package", "Scheduler"]
    (change,) = sample.rest(f"builds/{tests['buildid']}/changes")["changes"]
    assert change["author"] == "Ada <ada@example.org>"
    assert change["revlink"].endswith(revision)
    assert (sample.basedir / "packages" / f"hello-{revision}.zip").is_file()
    assert "oHello, world!\n" in sample.log_text(package["buildid"], "use")

    for name in ("tests", "package"):
        report = receiver.wait_for_report(name, number[name])
        assert (report["complete"], report["results"]) == (True, SUCCESS)
        assert report["buildset"]["sourcestamps"][0]["revision"] == revision
        assert report["url"].startswith(f"http://127.0.0.1:{sample.ports[0]}/#/builders/")


@pytest.mark.parametrize("builder", ["tests", "package"])
def test_both_can_be_forced(sample: Master, builder: str) -> None:
    succeeded(sample.force(builder))


def test_a_push_that_breaks_the_tests_gives_no_package(
    sample: Master, clone: Path, receiver: Receiver
) -> None:
    broken = "def greet(name='world'):\n    return name\n"
    revision = push(sample, clone, "hello/__init__.py", broken)
    number = len(sample.builds("tests")) + 1
    packages = len(sample.builds("package"))
    reply = post_hook(sample, payload(revision, "hello/__init__.py"), secret_of(sample))
    assert reply.status == 200, reply.body
    build = sample.finished_build("tests", number)
    assert build["results"] == FAILURE
    assert receiver.wait_for_report("tests", number)["results"] == FAILURE
    assert len(sample.builds("package")) == packages
    assert sample.rest("buildrequests", complete="false")["buildrequests"] == []


@pytest.mark.parametrize("secret", [None, "guessed"])
def test_a_hook_without_the_right_signature_is_refused(sample: Master, secret: str | None) -> None:
    before = sample.rest("changes")
    reply = post_hook(sample, payload("0" * 40, "README.md"), secret)
    assert reply.status == 400
    assert sample.rest("changes") == before


def test_a_changed_body_does_not_fit_its_signature(sample: Master) -> None:
    before = sample.rest("changes")
    body = json.dumps(payload("0" * 40, "README.md")).encode()
    signature = hmac.new(secret_of(sample).encode(), body, hashlib.sha1).hexdigest()
    headers = {"X_GitHub_Event": "push", "X_Hub_Signature": f"sha1={signature}"}
    changed = body.replace(b"README", b"REEDME")
    reply = sample.visitor().request(
        "POST", "/change_hook/github", changed, Content_Type="application/json", **headers
    )
    assert reply.status == 400
    assert sample.rest("changes") == before


def test_the_schedulers_are_there(sample: Master) -> None:
    found = {s["name"]: s for s in sample.rest("schedulers")["schedulers"]}
    assert found.keys() == {"commits", "package", "nightly", "force"}
    for scheduler in found.values():
        assert scheduler["enabled"]
        assert scheduler["master"]["active"]


def test_what_a_master_writes_is_not_for_version_control(sample: Master) -> None:
    git(sample.basedir, "init", "--quiet")
    git(sample.basedir, "add", ".")
    kept = set(git(sample.basedir, "ls-files").splitlines())
    assert kept == {path.name for path in SAMPLE.iterdir()}
    shutil.rmtree(sample.basedir / ".git")


def test_the_sample_is_checked_and_up_to_date(
    tmp_path: Path, watch: Callable[[Master], Master]
) -> None:
    assert (SAMPLE / "buildbot.tac").read_bytes() == (TEMPLATE / "buildbot.tac").read_bytes()
    # git bundle create sample-master/project.bundle HEAD main, in a repository of the template's
    succeeded(run("git", "clone", "--quiet", SAMPLE / "project.bundle", tmp_path / "hello"))
    original = TEMPLATE / "project"
    names = {p.relative_to(original) for p in original.rglob("*.[pm][yd]")}
    assert {Path(name) for name in git(tmp_path / "hello", "ls-files").splitlines()} == names
    for name in names:
        assert (tmp_path / "hello" / name).read_bytes() == (original / name).read_bytes(), name
    shutil.copytree(SAMPLE, tmp_path / "ci")
    succeeded(litebot("check-config", tmp_path / "ci"))
