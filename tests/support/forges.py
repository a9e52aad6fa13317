"""A server that plays forges and chats: it takes statuses at the paths that these document."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from typing import Any
from typing import NamedTuple
from urllib.parse import unquote

SHA = "(?P<sha>[0-9a-f]{40})"
# The path of a status, and the header with the token.  Sources:
# https://docs.github.com/en/enterprise-server/rest/commits/statuses
# https://docs.gitlab.com/api/commits/#set-commit-pipeline-status
# https://docs.gitea.com/api/ (POST /repos/{owner}/{repo}/statuses/{sha})
# https://developer.atlassian.com/cloud/bitbucket/rest/api-group-commit-statuses/
FORGES = {
    "github": (rf"/api/v3/repos/(?P<path>[^/]+/[^/]+)/statuses/{SHA}", "Authorization", "token "),
    "gitlab": (rf"/api/v4/projects/(?P<path>[^/]+)/statuses/{SHA}", "PRIVATE-TOKEN", ""),
    "gitea": (rf"/api/v1/repos/(?P<path>[^/]+/[^/]+)/statuses/{SHA}", "Authorization", "token "),
    "bitbucket": (
        rf"/2.0/repositories/(?P<path>[^/]+/[^/]+)/commit/{SHA}/statuses/build",
        "Authorization",
        "Bearer ",
    ),
}
STATES = {
    "github": {"error", "failure", "pending", "success"},
    "gitlab": {"pending", "running", "success", "failed", "canceled", "skipped"},
    "gitea": {"pending", "success", "error", "failure", "warning"},
    "bitbucket": {"SUCCESSFUL", "FAILED", "INPROGRESS", "STOPPED"},
}
TOKEN = "s3cret-token-of-a-forge"
CHAT_PATH = "/hooks/T0001/B0001/a-path-that-is-a-secret"


class Posted(NamedTuple):
    """A request that was taken: to which forge ("chat" for others), about what, and its body."""

    forge: str
    path: str
    sha: str
    body: dict[str, Any]

    @property
    def state(self) -> str:
        return str(self.body.get("state", self.body.get("result")))

    @property
    def context(self) -> str:
        return str(self.body.get("context") or self.body.get("name"))


class Forges(ThreadingHTTPServer):
    """Keeps what it takes in `posted`; answers all requests with `code` while that is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posted: list[Posted] = []
        self.refused: list[str] = []
        self.code: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def of(self, forge: str) -> list[Posted]:
        return [each for each in list(self.posted) if each.forge == forge]


class Handler(BaseHTTPRequestHandler):
    server: Forges
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.code is not None:
            self.server.refused.append(self.path)
            self._answer(self.server.code, {"message": "not now"})
            return
        if self.path == CHAT_PATH:
            self._take(Posted("chat", self.path, "", body))
            return
        for forge, (pattern, header, prefix) in FORGES.items():
            if (found := re.fullmatch(pattern, self.path)) is None:
                continue
            if self.headers[header] != f"{prefix}{TOKEN}":
                self.server.refused.append(self.path)
                self._answer(401, {"message": "Bad credentials"})
            elif body["state"] not in STATES[forge]:
                self._answer(422, {"message": f"no state {body['state']}"})
            else:
                self._take(Posted(forge, unquote(found["path"]), found["sha"], body))
            return
        self.server.refused.append(self.path)
        self._answer(404, {"message": "Not Found"})

    def _take(self, posted: Posted) -> None:
        self.server.posted.append(posted)
        self._answer(201, {"state": posted.state})

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Connection", "close")
        if code in (301, 302, 307):
            self.send_header("Location", f"{self.server.url}{CHAT_PATH}")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Print nothing to stderr."""


@contextmanager
def forges() -> Iterator[Forges]:
    """Have a server answer in a thread; it is closed at the end."""
    with Forges() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
