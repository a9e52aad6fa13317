"""What a new master lets nobody do before its admin has said so."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import CANCELLED
from support.master import SUCCESS
from support.master import Master
from support.visitor import Visitor

# Writes down every connection that a Python program opens and every name that it looks up, and
# lets none of them leave the machine.  Source: https://docs.python.org/3/library/audit_events.html
AUDIT = """
import ipaddress, json, os, sys

def is_here(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")

def watch(event, args):
    if event in ("socket.connect", "socket.sendto"):
        host = args[1][0] if isinstance(args[1], tuple) else ""
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = args[0] or ""
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    fd = os.open(os.environ["AUDIT_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (json.dumps([event, host]) + "\\n").encode())
    os.close(fd)
    if not is_here(host):
        raise OSError(f"{event} {host}: this test lets nothing out")

sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def running(module_master: Master) -> Iterator[Master]:
    """A master with a builder that never ends by itself, and a worker elsewhere."""
    module_master.configure(
        """
        c["workers"].append(worker.Worker("elsewhere", util.Secret("worker-password")))
        """
    )
    module_master.define_builder("endless", "exec sleep 1000")
    module_master.start()
    yield module_master
    module_master.stop()


# who may do what


def actions(visitor: Visitor) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """All that the page has buttons for, as path, method and parameters."""
    builderid = visitor.rest("builders/endless")["builders"][0]["builderid"]
    build = visitor.rest("builders/endless/builds", complete="false")["builds"][0]["buildid"]
    pending = visitor.rest("buildrequests", claimed="false")["buildrequests"][0]["buildrequestid"]
    scheduler = visitor.rest("schedulers", name="commits")["schedulers"][0]["schedulerid"]
    worker = visitor.rest("workers")["workers"][0]["workerid"]
    return {
        "force": ("forceschedulers/force-endless", "force", {"builderid": builderid}),
        "rebuild": (f"builds/{build}", "rebuild", {}),
        "priority": (f"buildrequests/{pending}", "set_priority", {"priority": 5}),
        "pause": (f"workers/{worker}", "pause", {"reason": "test"}),
        "unpause": (f"workers/{worker}", "unpause", {"reason": "test"}),
        "worker": (f"workers/{worker}", "stop", {"reason": "test"}),
        "disable": (f"schedulers/{scheduler}", "enable", {"enabled": False}),
        "enable": (f"schedulers/{scheduler}", "enable", {"enabled": True}),
        "cancel": (f"buildrequests/{pending}", "cancel", {"reason": "test"}),
        "stop": (f"builds/{build}", "stop", {"reason": "test"}),
    }


def two_requests(master: Master) -> None:
    """See that one request of `endless` is being built and another one waits."""
    path = "builders/endless/builds"
    succeeded(master.force("endless", "--no-wait"))
    wait_for(lambda: master.rest(path, complete="false")["builds"], "a build")
    succeeded(master.force("endless", "--no-wait"))


def state(master: Master) -> dict[str, Any]:
    """Whatever those actions would change."""
    steady = {"builders/endless/builds", "buildrequests", "schedulers", "workers", "buildsets"}
    return {path: without_times(master.rest(path)) for path in steady}


def without_times(found: dict[str, Any]) -> str:
    return re.sub(r'"(claimed|last)_[a-z_]+": [^,}]+', "", json.dumps(found, sort_keys=True))


def visitors(master: Master) -> dict[str, Visitor]:
    """Those who may look only."""
    users = json.loads(succeeded(master.run("user", "list", "--json")).stdout)
    if "vera" not in {user["name"] for user in users}:
        typed = "see but not touch\n"
        options = ("add", "--role", "viewer", "--password-stdin", "vera")
        succeeded(master.run("user", *options, input=typed))
    return {"anonymous": master.visitor(), "viewer": master.login("vera", "see but not touch")}


@pytest.mark.parametrize("who", ["anonymous", "viewer"])
def test_others_may_look_and_nothing_else(running: Master, who: str) -> None:
    two_requests(running)
    visitor = visitors(running)[who]
    before = state(running)
    for path in ("builders", "builds", "workers", "changes", "schedulers", "masters"):
        visitor.rest(path)
    assert visitor.request("GET", "/").status == 200
    for name, (path, method, params) in actions(visitor).items():
        reply = visitor.control(path, method, **params)
        assert reply.status == 403, f"{name}: {reply.status} {reply.body!r}"
        assert "you need to have role 'admin'" in reply.json["error"]["message"]
    for hook in ("base", "github", "gitlab", "poller"):  # none is open unless master.cfg says so
        assert visitor.request("POST", f"/change_hook/{hook}", "author=Eve").status == 400
    assert visitor.rest("changes")["changes"] == []
    assert state(running) == before
    end_all(running)


def end_all(master: Master) -> None:
    """Cancel what waits and stop what runs."""
    admin = master.login()
    for request in admin.rest("buildrequests", complete="false")["buildrequests"]:
        admin.control(f"buildrequests/{request['buildrequestid']}", "cancel", reason="test")
    wait_for(
        lambda: not master.rest("buildrequests", complete="false")["buildrequests"],
        "all requests to be complete",
    )


def test_an_admin_may_act(running: Master) -> None:
    two_requests(running)
    admin = running.login()
    todo = actions(admin)
    running_build, waiting = todo["stop"][0], todo["cancel"][0]

    def act(name: str) -> Any:
        path, method, params = todo[name]
        reply = admin.control(path, method, **params)
        assert reply.status == 200, f"{name}: {reply.status} {reply.body!r}"
        return reply.json["result"]

    worker, scheduler = todo["pause"][0], todo["disable"][0]
    act("pause")
    wait_for(lambda: admin.rest(worker)["workers"][0]["paused"], "the worker to pause")
    act("unpause")
    wait_for(lambda: not admin.rest(worker)["workers"][0]["paused"], "the worker to go on")
    act("disable")
    assert not admin.rest(scheduler)["schedulers"][0]["enabled"]
    act("enable")
    assert admin.rest(scheduler)["schedulers"][0]["enabled"]
    act("cancel")
    wait_for(lambda: admin.rest(waiting)["buildrequests"][0]["complete"], "the request's end")
    assert admin.rest(waiting)["buildrequests"][0]["results"] == CANCELLED
    act("stop")
    wait_for(lambda: admin.rest(running_build)["builds"][0]["complete"], "the build's end")
    assert admin.rest(running_build)["builds"][0]["results"] == CANCELLED
    buildsetid, _ = act("force")
    assert admin.rest(f"buildsets/{buildsetid}")["buildsets"][0]["reason"]
    end_all(running)


def test_a_wrong_password_is_refused(running: Master) -> None:
    visitor = running.visitor()
    assert visitor.login("admin", running.password[:-1]) == 401
    assert visitor.login("nobody", running.password) == 401
    assert visitor.login("admin", "") == 401
    assert '"anonymous": true' in visitor.request("GET", "/config").body.decode()
    assert visitor.control("forceschedulers/force-endless", "force").status == 403


def test_users_change_at_once(running: Master) -> None:
    typed = "correct horse\n"
    options = ("add", "--password-stdin", "bob")
    succeeded(running.run("user", *options, input=typed))
    bob = running.login("bob", "correct horse")
    assert bob.control("workers/1", "unpause", reason="test").status == 200
    succeeded(running.run("user", "remove", "bob"))
    assert bob.control("workers/1", "unpause", reason="test").status == 403
    assert running.visitor().login("bob", "correct horse") == 401


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:{port}", 200),
        ("http://localhost:{port}", 200),
        ("http://evil.example", 400),
        ("http://127.0.0.1:1", 400),
        ("null", 400),
    ],
)
def test_another_page_can_not_act_with_an_admins_cookies(
    running: Master, origin: str, status: int
) -> None:
    admin = running.login()
    call = {"jsonrpc": "2.0", "id": 1, "method": "unpause", "params": {"reason": "test"}}
    path, body = "/api/v2/workers/1", json.dumps(call)
    sent = origin.format(port=running.ports[0])
    reply = admin.request("POST", path, body, Content_Type="application/json", Origin=sent)
    assert reply.status == status, reply.body
    # A form of another page can send this without asking the browser.
    plain = admin.request("POST", path, body, Content_Type="text/plain", Origin=sent)
    assert plain.status == 400


# change hooks


@pytest.mark.parametrize(
    ("hook", "error"),
    [
        (
            '"base": True',
            "the change hook 'base' lets anybody start builds, as it checks no secret",
        ),
        ('"github": {}', "the change hook 'github' lets anybody start builds; give it a secret"),
        ('"gitlab": {"secret": ""}', "the change hook 'gitlab' lets anybody start builds; give it"),
        ('"github": {"secret": "x", "strict": False}', "as it is not strict and takes unsigned"),
    ],
)
def test_an_open_hook_is_pointed_out(master: Master, hook: str, error: str) -> None:
    master.configure(f'c["www"] = {{"change_hook_dialects": {{{hook}}}}}')
    checked = master.run("check-config")
    assert checked.returncode == 0
    assert f"note: {master.basedir}/master.cfg:" in checked.stderr
    assert error in checked.stderr


def test_a_hook_knows_its_callers(master: Master) -> None:
    (master.basedir / "hooks.passwd").write_text("git:letmein\n")
    master.configure(
        """
        from twisted.cred.checkers import FilePasswordDB
        c["www"] = {
            "change_hook_auth": [FilePasswordDB(os.path.join(basedir, "hooks.passwd"))],
            "change_hook_dialects": {"base": True},
        }
        """
    )
    master.start()
    visitor, form = master.visitor(), "application/x-www-form-urlencoded"

    def push(**headers: str) -> int:
        body = "author=Eve&comments=x&branch=elsewhere"
        return visitor.request(
            "POST", "/change_hook/base", body, Content_Type=form, **headers
        ).status

    assert push() == 401
    assert visitor.rest("changes")["changes"] == []
    basic = base64.b64encode(b"git:letmein").decode()
    assert push(Authorization=f"Basic {basic}") == 200
    assert [change["author"] for change in visitor.rest("changes")["changes"]] == ["Eve"]


def test_a_github_hook_with_a_secret_takes_what_is_signed_only(master: Master) -> None:
    master.configure('c["www"] = {"change_hook_dialects": {"github": {"secret": "x"}}}')
    master.start()
    headers = {"Content_Type": "application/json", "X_GitHub_Event": "ping"}
    path = "/change_hook/github"
    assert master.visitor().request("POST", path, "{}", **headers).status == 400
    signature = hmac.new(b"x", b"{}", "sha1").hexdigest()
    headers["X_Hub_Signature"] = f"sha1={signature}"
    assert master.visitor().request("POST", path, "{}", **headers).status == 200


# who is reachable


def listening(pid: int) -> set[tuple[str, int]]:
    """The addresses on which a process accepts TCP connections."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in between
            if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd)):
                inodes.add(found[1])
    result = set()
    for table, length in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                assert len(address) == length
                words = [address[i : i + 8] for i in range(0, length, 8)]
                packed = b"".join(bytes.fromhex(word)[::-1] for word in words)
                result.add((str(ipaddress.ip_address(packed)), int(port, 16)))
    return result


def test_it_listens_on_the_loopback_address_only(running: Master) -> None:
    web, workers = running.ports
    assert listening(running.pid) == {("127.0.0.1", web), ("127.0.0.1", workers)}


def hosts(audit_file: Path) -> set[str]:
    """All that a master under AUDIT connected to or looked up."""
    lines = audit_file.read_text(encoding="utf-8").splitlines()
    return {host for _, host in map(json.loads, lines)}


def audited(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """An environment in which a master is watched, and where what it does is written."""
    (tmp_path / "sitecustomize.py").write_text(AUDIT, encoding="utf-8")
    audit_file = tmp_path / "audit"
    audit_file.touch()
    return (
        {**os.environ, "PYTHONPATH": str(tmp_path), "AUDIT_FILE": str(audit_file)},
        audit_file,
    )


def test_it_phones_nowhere(master: Master, tmp_path: Path) -> None:
    env, audit_file = audited(tmp_path)
    master.set("workers", "environment", "AUDIT_FILE")
    master.start(env=env)
    assert master.force("hello", env=env).returncode == 0
    assert master.builds("hello")[0]["results"] == SUCCESS
    master.stop()
    assert hosts(audit_file) <= {"", "127.0.0.1", "localhost", socket.gethostname()}


def test_the_watch_sees_what_stock_buildbot_sends(master: Master, tmp_path: Path) -> None:
    master.configure("c['buildbotNetUsageData'] = 'basic'")
    env, audit_file = audited(tmp_path)
    master.start(env=env)
    wait_for(lambda: "events.buildbot.net" in hosts(audit_file), "usage data to be sent")


# secrets


def test_secrets_are_their_owners(running: Master) -> None:
    modes = {
        "users": 0o600,
        "secrets": 0o700,
        "secrets/worker-password": 0o600,
        "state.sqlite": 0o600,
        "state.sqlite-wal": 0o600,
        "state.sqlite-shm": 0o600,
        "state.sqlite-tally": 0o600,
        "control.sock": 0o600,
        "master.lock": 0o600,
    }
    found = {name: (running.basedir / name).stat().st_mode & 0o777 for name in modes}
    assert found == modes


def test_a_state_file_that_others_can_read_is_closed(master: Master) -> None:
    master.state_file.chmod(0o644)
    said = f"{master.state_file} had mode 0644, now 0600: it holds the key of login cookies"
    assert f"note: {said}" in master.start().stderr
    assert said in master.log
    for suffix in ("", "-wal", "-shm"):
        path = Path(f"{master.state_file}{suffix}")
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_a_backup_as_the_documents_make_it_is_its_owners(running: Master) -> None:
    document = Path(__file__).parents[2] / "docs/guide/backup.md"
    (command,) = re.findall(r"^(.*VACUUM INTO.*)$", document.read_text(), re.MULTILINE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    succeeded(
        run("sh", "-c", command, cwd=running.basedir, env={**os.environ, "PATH": path}, umask=0o022)
    )
    backup = running.basedir / "backup.sqlite"
    assert backup.stat().st_mode & 0o777 == 0o600
    backup.unlink()


def test_secrets_are_their_owners_whatever_the_umask(tmp_path: Path) -> None:
    basedir = tmp_path / "ci"
    succeeded(litebot("create-master", basedir, umask=0))
    for path in basedir.rglob("*"):
        if path.name in {"users", "secrets", "worker-password", "state.sqlite"}:
            assert path.stat().st_mode & 0o077 == 0, path
        else:
            assert path.stat().st_mode & 0o002 == 0 or "project" in path.parts, path


def test_the_password_is_shown_once_and_kept_as_a_hash(running: Master) -> None:
    running.login()
    first = (running.basedir / "users").read_text(encoding="ascii").splitlines()[0]
    assert re.fullmatch(r"admin:admin:scrypt\$16384\$8\$1\$\S+", first)
    secret = running.password.encode()
    for path in running.basedir.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path
    ps = succeeded(subprocess.run(["ps", "-ef"], capture_output=True, text=True, check=False))
    assert running.password not in ps.stdout


def test_secrets_differ_from_master_to_master(created: Master, tmp_path: Path) -> None:
    other = Master(tmp_path / "ci")
    other.create()
    assert other.password != created.password
    for path in (created.basedir / "secrets").iterdir():
        secret = path.read_text(encoding="ascii").strip()
        assert len(secret) >= 32
        assert (other.basedir / "secrets" / path.name).read_text(encoding="ascii") != secret


# what the steps of a local worker see of the master's environment

SECRETS = {
    "PGPASSWORD": "pg-7c31",
    "GITHUB_TOKEN": "gh-7c32",
    "HTTPS_PROXY": "http://me:px-7c33@proxy.example:1",
}
NEEDED = {"http_proxy": "http://proxy.example:2", "VIRTUAL_ENV": "/venv", "LC_TIME": "C.UTF-8"}


def test_steps_do_not_publish_the_masters_environment(master: Master) -> None:
    master.set("workers", "environment", "JAVA_HOME CI_*")
    master.define_builder("prints", "env")
    master.configure(
        """
        import os
        assert os.environ["GITHUB_TOKEN"]  # master.cfg reads all
        printenv = ["printenv", "TOKEN", "PYTHONPATH"]
        c["builders"][-1].factory.addStep(
            steps.ShellCommand(
                name="own",
                command=printenv,
                env={"TOKEN": "${GITHUB_TOKEN}", "PYTHONPATH": "lib"},
                logEnviron=False,
            )
        )
        c["builders"][-1].factory.addStep(
            steps.MasterShellCommand(name="masters", command="true")
        )
        """
    )
    named = {"JAVA_HOME": "/java", "CI_COLOUR": "blue", "PYTHONPATH": "/python"}
    master.start(env={**os.environ, **SECRETS, **NEEDED, **named})
    assert master.force("prints").returncode == 0
    (build,) = master.builds("prints")
    names = ("shell", "own", "masters")
    texts = {name: master.log_text(build["buildid"], name) for name in names}
    printed = dict(
        line[1:].split("=", 1)
        for line in texts["shell"].splitlines()
        if line.startswith("o") and "=" in line
    )
    assert {**NEEDED, **named}.items() <= printed.items()
    assert {"PATH", "HOME"} <= printed.keys()
    own = [line[1:] for line in texts["own"].splitlines() if line.startswith("o")]
    assert own == [SECRETS["GITHUB_TOKEN"], "lib:/python"]
    published = texts["shell"] + texts["masters"]
    assert [secret for secret in SECRETS.values() if secret in published] == []

    master.set("workers", "environment", "PGPASSWORD")
    master.reconfig()
    assert master.force("prints").returncode == 0
    assert "\noPGPASSWORD=pg-7c31\n" in master.log_text(
        master.builds("prints")[1]["buildid"], "shell"
    )
