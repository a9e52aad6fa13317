"""An HTTP client that uses a master's web page as a browser does."""

from __future__ import annotations

import base64
import http.client
import json
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

HTTP_TIMEOUT_S = 20


@dataclass(frozen=True)
class Reply:
    """An HTTP reply."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Visitor:
    """A client of the web page that keeps cookies; anonymous until login()."""

    timeout_s: float = HTTP_TIMEOUT_S

    def __init__(self, port: int) -> None:
        self.port = port
        self._cookies: dict[str, str] = {}

    def request(
        self, method: str, path: str, body: str | bytes | None = None, **headers: str
    ) -> Reply:
        """Send a request and return the reply; write header names with _ for -."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self._cookies:
            sent["Cookie"] = "; ".join(f"{k}={v}" for k, v in self._cookies.items())
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout_s)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            reply = Reply(response.status, response.headers, response.read())
        finally:
            connection.close()
        for header in reply.headers.get_all("Set-Cookie", []):
            self._cookies.update({k: m.value for k, m in SimpleCookie(header).items()})
        return reply

    def login(self, name: str, password: str) -> int:
        """Try to log in; return the HTTP status: 302 leads back to the page, 401 is a refusal."""
        pair = base64.b64encode(f"{name}:{password}".encode()).decode()
        return self.request("GET", "/auth/login", Authorization=f"Basic {pair}").status

    def control(self, path: str, method: str, **params: Any) -> Reply:
        """POST an action to the REST API, as the page's buttons do."""
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        kind = "application/json"
        return self.request("POST", f"/api/v2/{path}", json.dumps(call), Content_Type=kind)

    def rest(self, path: str, **filters: Any) -> Any:
        """GET something from the REST API, such as "builds" or "builders/1"."""
        query = f"?{urlencode(filters)}" if filters else ""
        reply = self.request("GET", f"/api/v2/{path}{query}")
        assert reply.status == 200, f"{path}{query}: {reply.status} {reply.body!r}"
        return reply.json
