"""The door of the web page: what a visitor may send before anything of it is looked at.

`Site` counts connections, and `Channel` reads requests: it limits their size and their time, and
answers what nobody can understand with a 4xx and the reason.  What is refused is counted for
`litebot status`.
"""

from __future__ import annotations

import tempfile
from http import HTTPStatus
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes

from buildbot.www.service import BuildbotSite
from twisted.internet import interfaces
from twisted.internet import protocol
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http_headers import Headers

from litebot.master.limits import descriptors
from litebot.master.limits.addresses import address_of
from litebot.master.limits.connections import Connections
from litebot.master.limits.connections import Phase
from litebot.master.web import http_log
from litebot.master.web.hosts import is_for_hook

MB = 1_000_000
HEADERS_S = 15.0
# How long what a refused visitor still sends is read and dropped.  Closed before that, the
# connection is reset, and the answer with the reason may be lost on its way.
LINGER_S = 5.0
# A body up to this size stays in memory; the rest of a larger one goes to a temporary file.
SMALL_BODY_BYTES = 1 << 16
# All bodies that are held at the same time, as a multiple of the largest that is allowed: those
# from one address, and all.  Small ones do not count.
BODIES_PER_ADDRESS, BODIES_IN_ALL = 4, 8
# A chunk costs as much as some kilobytes: a body may have so many, and one more for so many bytes.
FREE_CHUNKS, BYTES_PER_CHUNK = 500, 64
# Of headers that browsers or other pages of the same host fill in, anything is taken.
LENIENT_HEADERS = {b"cookie", b"referer", b"user-agent"}
LONGEST_NUMBER = 18  # digits of a Content-Length


class TooMany(protocol.Protocol):
    """Tells a visitor that there are too many connections."""

    transport: Any

    def connectionMade(self) -> None:
        if interfaces.ISSLTransport.providedBy(self.transport):
            self.transport.abortConnection()  # it would have to agree on keys first
        else:
            self.transport.write(_answer(503, "there are too many connections; try again later"))
            self.transport.loseConnection()


class Channel(http.HTTPChannel):
    """A connection to the page, and the request that is arriving on it."""

    site: Any
    transport: Any
    _path: Any
    # Twisted's own time limit begins again with each byte that arrives.
    timeOut = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self._address = address_of(self.transport.getPeer())
        self._door = self.site.connections.add(self.transport, self._address, self._check)
        self._reactor = self.site.master.reactor
        self._is_refused = False
        self._is_quiet = False  # nothing has arrived since the last check
        self._to_come: int | None = None  # of the body, if that is known
        self._chunks = 0

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.site.connections.remove(self._door)
        super().connectionLost(reason)

    # what arrives

    def dataReceived(self, data: bytes) -> None:
        if self._is_refused:
            self._drop(len(data))
            return
        # A line end may follow a request, and begins none.
        if self._door.phase == Phase.IDLE and data.strip(b"\r\n"):
            self._enter(Phase.HEADERS)
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        if self._is_refused:
            return
        if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            self.refuse(431, "headers that are too large", "the headers are too large")
            return
        super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(431, "headers that are too large", "a line of the headers is too long")

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and len(value.strip()) > LONGEST_NUMBER:
            self._refuse_body()
        return not self._is_refused and bool(super().headerReceived(line))

    def allHeadersReceived(self) -> None:
        if not self._is_refused:
            self._to_come = self.length
            self._refuse_head()
        if self._is_refused:
            self.length = None  # it is read on, and dropped
            return
        super().allHeadersReceived()
        self._door.phase = Phase.BODY

    def takes(self, count: int) -> bool:
        """Return whether so many more bytes of the body are wanted; refuse the request if not."""
        if self._is_refused:
            return False
        self._door.body_bytes += count
        if self._to_come is not None:
            self._to_come -= count
        else:
            self._chunks += 1
            if self._chunks > FREE_CHUNKS + self._door.body_bytes // BYTES_PER_CHUNK:
                self.refuse(400, "bodies in tiny chunks", "the chunks of the body are too small")
            elif self._door.body_bytes > self._largest_body():
                self._refuse_body()
        if self._door.body_bytes > SMALL_BODY_BYTES:
            self._refuse_crowded()
        return not self._is_refused

    def allContentReceived(self) -> None:
        if not self._is_refused:
            self._door.phase = Phase.ANSWER
            super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        """Take the next request; of those that wait already, one in each turn of the reactor."""
        self._door.body_bytes = self._chunks = 0
        self._to_come = None
        if self.persistent:
            self._enter(Phase.IDLE)
        self.paused = True
        super().requestDone(request)
        waiting = self.clearLineBuffer()
        if waiting and self.persistent:
            self._reactor.callLater(0, self._take_next, waiting)
        else:
            self.paused = False

    def _take_next(self, waiting: bytes) -> None:
        self.paused = False
        if self._door.is_open:
            self.dataReceived(waiting + self.clearLineBuffer())

    def _enter(self, phase: Phase) -> None:
        self._door.phase, self._door.since = phase, self._reactor.seconds()

    # what is refused

    def refuse(self, code: int, reason: str, text: str, detail: str = "") -> None:
        """Answer the request that is arriving, drop the rest of it, and close the connection."""
        if self._is_refused:
            return
        self._is_refused = True
        self.site.master.refusals.note(reason, f"{self._address}: {detail or text}")
        self.transport.write(_answer(code, text))
        self._enter(Phase.CLOSING)
        self._door.body_bytes = 0
        if self.requests and self.requests[-1].content is not None:
            self.requests[-1].content.close()
        self.setRawMode()
        self._drop(len(self.clearLineBuffer()))

    def _drop(self, count: int) -> None:
        """Drop what arrives after a refusal; close the connection when nothing is to come."""
        self._is_quiet = False
        if self._to_come is not None:
            self._to_come -= count
            if self._to_come <= 0:
                self.loseConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self._to_come = None
        self.refuse(400, "malformed requests", "the request is malformed")

    def _refuse_head(self) -> None:
        """Refuse a request that its headers show to be malformed, or too large."""
        headers, target = self.requests[-1].requestHeaders, self._path
        if fault := _fault(target, self._version, headers):
            self.refuse(400, "malformed requests", fault, f"{fault}: {target[:100]!r}")
        elif self.length is not None and self.length > self._largest_body():
            self._refuse_body()

    def _largest_body(self) -> int:
        return getattr(self.site.master.settings.limits, self._key_of_largest()) * MB

    def _key_of_largest(self) -> str:
        return "hook_body_mb" if is_for_hook(self._path) else "body_mb"

    def _refuse_body(self) -> None:
        key, largest = self._key_of_largest(), self._largest_body()
        text = (
            f"the body is larger than {largest // MB:,} MB, which is {key} in the section [limits]"
            " of litebot.toml"
        )
        self.refuse(413, "bodies that are too large", text)

    def _refuse_crowded(self) -> None:
        """Refuse a body if those that are held already take all that there is for bodies."""
        limits, connections = self.site.master.settings.limits, self.site.connections
        largest = max(limits.body_mb, limits.hook_body_mb) * MB
        for address, times in ((self._address, BODIES_PER_ADDRESS), (None, BODIES_IN_ALL)):
            if connections.body_bytes(address) > times * largest:
                text = "too many large requests arrive at the same time; try again later"
                self.refuse(503, "large bodies at the same time", text)

    # what takes too long

    def _check(self, now: float) -> None:
        """End what takes too long.  Called once a second."""
        limits, age = self.site.master.settings.limits, now - self._door.since
        match self._door.phase:
            case Phase.CLOSING:
                if age > LINGER_S + 1:
                    self._door.abort()
                elif self._is_quiet or age > LINGER_S:
                    self.loseConnection()
                self._is_quiet = True
            case Phase.IDLE if self._door.is_taking:
                self._door.since = now  # it has not taken the end of its answer yet
            case Phase.IDLE if age >= limits.idle_seconds:
                self._enter(Phase.CLOSING)
                self.loseConnection()
            case Phase.HEADERS if age >= min(HEADERS_S, limits.request_seconds):
                self._refuse_slow("the headers took too long to arrive")
            case Phase.BODY if age >= limits.request_seconds:
                self._refuse_slow("the request took too long to arrive")

    def _refuse_slow(self, text: str) -> None:
        self._to_come = 0
        self.refuse(408, "requests that took too long", text)


class Site(BuildbotSite):
    """The site of the page, with limits."""

    protocol: Any = Channel
    timeOut = None

    def __init__(self, site: BuildbotSite, master: Any) -> None:
        """Take the place of `site`, which has served nobody yet."""
        super().__init__(site.resource, site.logPath, site.rotateLength, site.maxRotatedFiles)
        self.timeOut = None
        self.sessionFactory: Any = None
        self.master: Any = master
        self.connections = Connections(
            master.reactor,
            master.refusals,
            self._caps,
            lambda: float(master.settings.limits.answer_seconds),
        )

    def _caps(self) -> tuple[int, int]:
        limits = self.master.settings.limits
        in_all = min(limits.connections, descriptors.for_connections())
        return in_all, limits.connections_per_address

    def buildProtocol(self, addr: Any) -> Any:
        if not self.connections.admits(address_of(addr)):
            return TooMany()
        return super().buildProtocol(addr)

    def _openLogFile(self, path: Any) -> Any:
        http_log.make_log_private(path)
        return http_log.MaskedFile(super()._openLogFile(path))

    def getContentFile(self, length: int | None) -> Any:
        """Return what keeps the body of a request."""
        if length is not None and length <= SMALL_BODY_BYTES:
            return BytesIO()
        return tempfile.SpooledTemporaryFile(SMALL_BODY_BYTES)

    def acceptableProtocols(self) -> list[bytes]:
        """HTTP/2 has a channel of its own, which knows no limits."""
        return [b"http/1.1"]


def _fault(target: bytes, version: bytes, headers: Headers) -> str | None:
    """Say why nobody can understand a request with these headers, or return None."""
    hosts = headers.getRawHeaders(b"host", [])
    if not (target.startswith(b"/") or target == b"*"):
        return "the target of a request has to be a path"
    if not target.isascii():
        return "the target of a request has to be ASCII"
    path = unquote_to_bytes(target.partition(b"?")[0])
    if b"\0" in path:
        return "the path has a NUL character"
    if not _is_text(path):
        return "the path is not UTF-8"
    if len(hosts) != 1 and (hosts or version != b"HTTP/1.0"):
        return "a request has to have one Host header"
    for name, values in headers.getAllRawHeaders():
        if name.lower() not in LENIENT_HEADERS and not all(map(_is_text, values)):
            return f"the header {name.decode()} is not UTF-8"
    return None


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _answer(code: int, text: str) -> bytes:
    body = f"{text}\n".encode()
    lines = [
        f"HTTP/1.1 {code} {HTTPStatus(code).phrase}",
        "Connection: close",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        *(["Retry-After: 5"] if code == HTTPStatus.SERVICE_UNAVAILABLE else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
