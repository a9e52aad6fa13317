"""The web server: what it answers to a request that changed something is on disk before."""

from __future__ import annotations

from typing import Any

from buildbot.www import service
from twisted.python import log
from twisted.python.failure import Failure
from twisted.web import server

READS = (b"GET", b"HEAD", b"OPTIONS")


class Request(server.Request):
    """Keeps the answer to a request that may change something until it holds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: list[bytes] = []
        self._has_gone = False

    def write(self, data: bytes) -> Any:
        """Write, or keep for finish()."""
        if self.method in READS:
            return super().write(data)
        self._kept.append(data)
        return None

    def finish(self) -> Any:
        """End the answer; of a request that may change something, when it is on disk."""
        if self.method in READS:
            return super().finish()
        site: Any = self.site
        d = site.master.db.on_disk()
        d.addCallbacks(lambda _: self._answer(), self._refuse)
        d.addErrback(log.err, f"while answering {self.uri!r}")
        return None

    def connectionLost(self, reason: Failure) -> Any:
        """Nobody waits for the answer any more."""
        self._has_gone = True
        return super().connectionLost(reason)

    def _answer(self) -> None:
        if self._has_gone:
            return
        for data in self._kept:
            super().write(data)
        super().finish()

    def _refuse(self, failure: Failure) -> None:
        self._kept = [f"{failure.value}\n".encode()]
        self.responseHeaders.removeHeader(b"content-length")
        self.setHeader(b"content-type", b"text/plain; charset=utf-8")
        self.setResponseCode(503)
        self._answer()


class WWWService(service.WWWService):
    """Buildbot's, with our requests."""

    def setupSite(self, new_config: Any) -> None:
        super().setupSite(new_config)
        assert self.site is not None
        self.site.requestFactory = Request
