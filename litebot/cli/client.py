"""Sends requests to the master of a basedir over its control socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.errors import MasterNotRunning


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to the control socket of a basedir, whose path may have any length."""

    def __init__(self, basedir: Basedir, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._basedir = basedir

    def connect(self) -> None:
        path = str(self._basedir.control_socket)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        folder = os.open(self._basedir.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # The path of a socket is limited to 108 bytes; through an open folder it always fits.
            if os.path.exists(f"/proc/self/fd/{folder}"):
                path = f"/proc/self/fd/{folder}/{self._basedir.control_socket.name}"
            self.sock.connect(path)
        finally:
            os.close(folder)


def post(
    basedir: Basedir, path: str, body: dict[str, Any], timeout_s: float | None = None
) -> dict[str, Any]:
    """POST `body` as JSON and return the reply.

    Raises MasterNotRunning if the master does not run or does not answer, LitebotError if it
    refuses, and TimeoutError if the answer takes longer than `timeout_s`; None sets no limit.
    """
    response = _request(basedir, "POST", path, json.dumps(body), timeout_s)
    reply: dict[str, Any] = json.loads(response.read())
    return reply


def stream(basedir: Basedir, path: str) -> Iterator[dict[str, Any]]:
    """GET a stream of JSON objects, one per line; yield them until the master ends it or dies.

    Raises MasterNotRunning and LitebotError like `post`.
    """
    with _request(basedir, "GET", path, None) as response:
        try:
            while line := response.readline():
                yield json.loads(line)
        except (http.client.HTTPException, ConnectionError):
            return  # the master is gone; the last event shows whether any are missing


def _request(
    basedir: Basedir, method: str, path: str, body: str | None, timeout_s: float | None = None
) -> http.client.HTTPResponse:
    basedir.require_owner()
    connection = UnixConnection(basedir, timeout_s)
    try:
        # The connection must end with the response.
        connection.request(method, path, body, {"Connection": "close"})
        response = connection.getresponse()
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise MasterNotRunning(
            f"the master of {basedir.path} does not answer on {basedir.control_socket.name}:"
            f" {error}",
            f"litebot status {basedir.quoted}",
        ) from error
    if response.status != http.client.OK:
        refusal = json.loads(response.read())
        raise LitebotError(refusal["what"], refusal["hint"])
    return response
