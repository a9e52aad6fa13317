"""Projects whose repositories need a login, at a real sshd and at a real git http-backend."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from litebot.cli.json_fields import FIELDS
from support.commands import LITEBOT
from support.commands import succeeded
from support.commands import wait_for
from support.git_servers import SshServer
from support.git_servers import bare_repository
from support.git_servers import http_server
from support.git_servers import push
from support.git_servers import ssh_server
from support.master import SUCCESS
from support.master import Master
from support.remote import remote_worker
from support.terminal import Terminal

PASSWORD = "planted-9f27c1d4e8b6"
FILES = {".litebot.toml": 'steps = [{ name = "show", run = "env; ls -a .. ../.." }]\n'}
REMOTE = """
from buildbot.plugins import secrets
c["secretsProviders"] = [secrets.SecretInAFile(dirname={elsewhere!r})]
c["workers"].append(worker.Worker("remote", "workerpw"))
"""
LISTS = ("builders", "builds", "buildrequests", "buildsets", "changes", "changesources", "projects")


def said(master: Master) -> dict[str, str]:
    """What the master says of its projects: to commands, by REST, in logs and in its files."""
    found = {
        f"project {verb}": succeeded(master.run("project", verb, *names)).stdout
        for verb, *names in (("show", "x"), ("history", "x"), ("list", "--json"), ("export",))
    }
    found |= {f"REST {path}": json.dumps(master.rest(path)) for path in LISTS}
    for build in master.rest("builds", property="*")["builds"]:
        found[f"build {build['buildid']}"] = json.dumps(build)
        for step in master.rest(f"builds/{build['buildid']}/steps")["steps"]:
            for log in master.rest(f"steps/{step['stepid']}/logs")["logs"]:
                contents = master.rest(f"logs/{log['logid']}/contents")
                found[f"log {log['logid']}"] = json.dumps([step, log, contents])
    for path in master.basedir.parent.rglob("*"):
        # A poll may run now, with its files.
        is_left_out = path.parent == master.basedir / "secrets" or ".buildbot-ssh" in str(path)
        if path.is_file() and not is_left_out:
            found[str(path)] = path.read_bytes().decode("utf-8", "replace")
    return found


def places_of(master: Master, *planted: str) -> list[str]:
    return [place for place, text in said(master).items() if any(x in text for x in planted)]


@contextmanager
def watching_processes(*planted: str) -> Iterator[list[str]]:
    """Collect the processes whose arguments or variables have what is planted."""
    found: list[str] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            for place in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        text = (place / name).read_bytes().decode("utf-8", "replace")
                    except OSError:
                        continue
                    if any(each in text for each in planted):
                        found.append(f"{name}: {text}")

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


def leftovers(*folders: Path) -> list[str]:
    """Files that logins need for a moment."""
    patterns = (".look-*", ".key-*", ".buildbot-ssh*", "*.buildbot", ".git-credentials")
    return [str(path) for folder in folders for one in patterns for path in folder.rglob(one)]


def problems(master: Master) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = master.status()["sources"]
    return found


def add(master: Master, url: str, *options: str) -> Any:
    return master.run("project", "add", "--name", "x", "--poll", "10s", *options, url)


def test_an_ssh_repository_is_built_by_its_deploy_key(master: Master, tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    repository = bare_repository(tmp_path, FILES)
    secret = master.basedir / "secrets" / "project-x-key"
    with ssh_server(tmp_path / "sshd") as server:
        url = server.url(repository)
        unseen = add(master, url)
        assert (unseen.returncode, secret.exists()) == (1, False)
        assert "nobody to confirm" in unseen.stderr
        fingerprint = unseen.stderr.split()[-1]

        early = add(master, url, "--fingerprint", fingerprint)
        assert early.returncode == 1
        assert "Permission denied (publickey)" in early.stderr
        assert succeeded(master.run("project", "list", "--json")).stdout.strip() == "[]"
        public = succeeded(master.run("project", "key", "x")).stdout.strip()
        assert public in early.stderr
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700

        server.allow(public)
        lines = secret.read_text(encoding="ascii").splitlines()[2:-1]
        with watching_processes(*lines) as seen:
            succeeded(add(master, url, "--fingerprint", fingerprint))
            assert problems_after_start(master) == []
            build = master.finished_build("x")
            assert build["results"] == SUCCESS
            push(repository, tmp_path / "work", {"more": "text"})
            assert master.finished_build("x", 2)["results"] == SUCCESS
        assert seen == []
        assert places_of(master, *lines) == []
        assert "PRIVATE KEY" not in "".join(said(master).values())
        wait_for(lambda: leftovers(master.basedir) == [], "the end of what polls need")
        check_other_host_keys(master, server)
        check_other_keys(master, server)


def problems_after_start(master: Master) -> list[dict[str, Any]]:
    master.start()
    wait_for(lambda: "gitpoller: processing changes" in master.log, "a poll")
    return problems(master)


def check_other_host_keys(master: Master, server: SshServer) -> None:
    server.stop()
    fingerprint = server.new_host_key()
    server.start()
    wait_for(lambda: problems(master), "a poll that is refused")
    error = wait_for(
        lambda: next((p["error"] for p in problems(master) if fingerprint in p["error"]), ""),
        "a poll that says so",
    )
    assert f"litebot project key --trust x {master.basedir}" in error
    assert server.host in error
    wrong = master.run("project", "key", "--trust", "--fingerprint", "SHA256:other", "x")
    assert wrong.returncode == 1
    assert "SHA256:other" in wrong.stderr
    succeeded(master.run("project", "key", "--trust", "--fingerprint", fingerprint, "x"))
    wait_for(lambda: not problems(master), "a poll that succeeds")


def check_other_keys(master: Master, server: SshServer) -> None:
    """A key that is replaced has to be given to the repository; then all goes on."""
    before = succeeded(master.run("project", "key", "x")).stdout
    public = succeeded(master.run("project", "key", "--new", "x")).stdout
    assert public != before
    error = wait_for(lambda: problems(master), "a poll that is refused")[0]["error"]
    assert "Permission denied (publickey)" in error
    assert "litebot project key x" in error
    server.allow(public)
    # After failures, polls are less frequent; a change of the project polls at once.
    succeeded(master.run("project", "edit", "--poll", "11s", "x"))
    wait_for(lambda: not problems(master), "a poll that succeeds")


def test_a_project_moves_to_another_server(master: Master, tmp_path: Path) -> None:
    """The new server is confirmed anew, and the key is that of the project, made if need be."""
    (tmp_path / "sshd").mkdir()
    repository = bare_repository(tmp_path, FILES)
    succeeded(add(master, str(repository)))
    with ssh_server(tmp_path / "sshd") as server:
        move = ("project", "edit", "--url", server.url(repository))
        refused = master.run(*move, "x")
        assert refused.returncode == 1
        said = f"nobody to confirm the server: the ssh-ed25519 key of {server.host}"
        assert said in refused.stderr
        key = json.loads(succeeded(master.run("project", "key", "--json", "x")).stdout)
        assert "can't be read" in master.run(*move, "--yes", "x").stderr
        server.allow(key["public"])
        succeeded(master.run(*move, "--yes", "x"))
        shown = succeeded(master.run("project", "show", "x")).stdout
    assert 'key = "project-x-key"\n' in shown
    assert 'host_key = "ssh-ed25519 ' in shown
    succeeded(master.run("project", "edit", "--url", str(repository), "x"))
    assert "host_key" not in succeeded(master.run("project", "show", "x")).stdout


def test_the_user_of_a_terminal_pastes_the_key_meanwhile(master: Master, tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    repository = bare_repository(tmp_path, FILES)
    with ssh_server(tmp_path / "sshd") as server:
        words = [LITEBOT, "project", "add", "--name", "x", server.url(repository), master.basedir]
        with Terminal(*map(str, words)) as terminal:
            terminal.await_text("is it the same")
            terminal.type("y")
            terminal.await_text("then press Enter")
            lines = terminal.said.splitlines()
            server.allow(next(line for line in lines if line.startswith("ssh-ed25519 ")))
            terminal.type("")
            assert terminal.end() == 0, terminal.said
        assert "added x: branch main" in terminal.said


def test_the_json_of_a_key(master: Master) -> None:
    for is_new in (True, False):
        made = json.loads(succeeded(master.run("project", "key", "--json", "x")).stdout)
        assert made.keys() == FIELDS["project key"].keys()
        assert (made["key"], made["made"]) == ("project-x-key", is_new)


def test_a_repository_is_built_by_a_password(master: Master, tmp_path: Path) -> None:
    repository = bare_repository(tmp_path, FILES)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    master.configure(REMOTE.format(elsewhere=str(elsewhere)))
    token = master.basedir / "secrets" / "token"
    worker = master.basedir.parent / "worker"
    with (
        http_server(tmp_path, "ada", PASSWORD) as server,
        watching_processes(PASSWORD) as seen,
    ):
        url = server.url(repository)
        options = ("--password", "token", "--workers", "remote")
        absent = add(master, url, *options)
        assert (absent.returncode, str(token) in absent.stderr) == (1, True)

        token.write_text("planted-but-wrong\n", encoding="utf-8")
        token.chmod(0o600)
        wrong = add(master, url, *options)
        assert wrong.returncode == 1
        assert "Authentication failed" in wrong.stderr
        assert f"check the user, ada, and the password or token in {token}" in wrong.stderr

        token.write_text(f"{PASSWORD}\n", encoding="utf-8")
        master.start()
        with remote_worker(worker, f"127.0.0.1:{master.ports[1]}"):
            succeeded(add(master, url, *options))
            assert master.finished_build("x")["results"] == SUCCESS
            push(repository, tmp_path / "work", {"more": "text"})
            assert master.finished_build("x", 2)["results"] == SUCCESS

            token.write_text("planted-but-wrong\n", encoding="utf-8")
            error = wait_for(lambda: problems(master), "a poll that is refused")[0]["error"]
            assert "the secret token" in error
            token.unlink()
            force = master.force("x")
            assert force.returncode == 1
            log = master.log_text(master.builds("x")[-1]["buildid"], "checkout", "problem")
            assert f"{token} does not exist" in log
    assert seen == []
    assert places_of(master, PASSWORD, "planted-but-wrong") == []
    wait_for(lambda: leftovers(master.basedir, worker) == [], "the end of what polls need")


def test_a_secret_that_is_missing_is_refused(master: Master, tmp_path: Path) -> None:
    repository = bare_repository(tmp_path, FILES)
    succeeded(add(master, str(repository)))
    for option in ("--password", "--key"):
        refused = master.run("project", "edit", option, "nowhere", "x")
        assert refused.returncode == 1
        assert f"{master.basedir}/secrets/nowhere does not exist" in refused.stderr
    # One that is lost later does not stand in the way of other changes.
    path = master.basedir / "secrets" / "there"
    path.write_text("value-of-it\n", encoding="utf-8")
    path.chmod(0o600)
    succeeded(master.run("project", "edit", "--password", "there", "x"))
    path.unlink()
    succeeded(master.run("project", "disable", "x"))
