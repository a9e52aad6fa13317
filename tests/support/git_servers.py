"""Servers of git repositories that need a login: a real sshd, and git http-backend behind HTTP."""

from __future__ import annotations

import base64
import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path

from support.commands import require
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.ports import free_ports
from support.sources import serving

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
PERSON = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")


def bare_repository(folder: Path, files: dict[str, str]) -> Path:
    """Make a bare repository with these files on its branch main, which can be committed to."""
    work = folder / "work"
    succeeded(run("git", "init", "--quiet", "-b", "main", work))
    bare = folder / "team.git"
    succeeded(run("git", "init", "--quiet", "--bare", "-b", "main", bare))
    push(bare, work, files)
    return bare


def push(bare: Path, work: Path, files: dict[str, str]) -> str:
    """Commit files and push them; return the revision."""
    for name, text in files.items():
        (work / name).write_text(text, encoding="utf-8")
    succeeded(run("git", "-C", work, "add", "."))
    succeeded(run("git", "-C", work, *PERSON, "commit", "--quiet", "-m", "change"))
    succeeded(run("git", "-C", work, "push", "--quiet", bare, "main"))
    return succeeded(run("git", "-C", work, "rev-parse", "HEAD")).stdout.strip()


@dataclass
class SshServer:
    """An sshd on 127.0.0.1, to which the user of the test can log in with keys that it is given."""

    folder: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])
    process: subprocess.Popen[bytes] | None = None

    @property
    def authorized(self) -> Path:
        return self.folder / "authorized_keys"

    @property
    def host(self) -> str:
        return f"[127.0.0.1]:{self.port}"

    def url(self, repository: Path) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{repository}"

    def allow(self, public: str) -> None:
        """Let in whoever has the private half of this key."""
        self.authorized.write_text(f"{public.strip()}\n", encoding="utf-8")

    def new_host_key(self) -> str:
        """Have another host key from the next start on; return its fingerprint."""
        key = self.folder / "host_key"
        for path in (key, key.with_suffix(".pub")):
            path.unlink(missing_ok=True)
        succeeded(run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key))
        return succeeded(run("ssh-keygen", "-lf", key)).stdout.split()[1]

    def start(self) -> None:
        settings = self.folder / "sshd_config"
        lines = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": str(self.folder / "host_key"),
            "AuthorizedKeysFile": str(self.authorized),
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "StrictModes": "no",
            "UsePAM": "no",
            "PidFile": "none",
        }
        settings.write_text("".join(f"{k} {v}\n" for k, v in lines.items()), encoding="utf-8")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        log = (self.folder / "sshd.log").open("ab")
        assert SSHD is not None
        with log:
            self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(settings)], stderr=log)
        wait_for(self._answers, "sshd to listen")

    def _answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Run an sshd until the block ends; it lets in nobody yet."""
    require(SSHD, "there is no sshd (apt install openssh-server)")
    server = SshServer(folder)
    server.authorized.touch()
    server.new_host_key()
    server.start()
    try:
        yield server
    finally:
        server.stop()


class HttpServer(ThreadingHTTPServer):
    """Serves the repositories of a folder to one user, by `git http-backend`."""

    def __init__(self, folder: Path, user: str, password: str) -> None:
        super().__init__(("127.0.0.1", 0), BackendHandler)
        self.folder = folder
        self.user = user
        self.password = password

    def url(self, repository: Path) -> str:
        path = repository.relative_to(self.folder)
        return f"http://{self.user}@127.0.0.1:{self.server_port}/{path}"


class BackendHandler(BaseHTTPRequestHandler):
    server: HttpServer

    def do_GET(self) -> None:
        login = f"{self.server.user}:{self.server.password}".encode()
        if self.headers.get("Authorization") != f"Basic {base64.b64encode(login).decode()}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(self.server.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(length),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": self.server.user,
        }
        answer = subprocess.run(
            ["git", "http-backend"],
            input=self.rfile.read(length),
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        head, _, body = answer.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def http_server(folder: Path, user: str, password: str) -> Iterator[HttpServer]:
    """Serve the repositories in a folder until the block ends."""
    server = HttpServer(folder, user, password)
    with serving(server):
        yield server
