"""Sends a long answer as fast as its visitor takes it, and no faster.

What is not taken yet waits in the database, and not in the memory of the master.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from collections.abc import Callable
from collections.abc import Coroutine
from typing import Any

from twisted.internet import defer
from twisted.internet import threads
from twisted.internet.interfaces import IPushProducer
from twisted.web import http
from zope.interface import implementer

from litebot.master.limits.addresses import address_of

# The transport pauses its producer when it holds as much.
SLICE_BYTES = 64 * 1024
# A piece of a text that has as many characters is not joined with the next.
ENOUGH_CHARS = 32 * 1024


async def while_connected(request: Any, rendering: Coroutine[Any, Any, None]) -> None:
    """Wait for the rendering of an answer, which ends when its visitor goes."""
    d = defer.ensureDeferred(rendering)
    request.notifyFinish().addErrback(lambda _: d.cancel())
    try:
        await d
    except defer.CancelledError:
        if request.channel is not None and not request.finished:
            raise


class Texts:
    """A text that comes in pieces; `convert` makes bytes of each, `head` and `tail` are added.

    `pieces` is an async generator of texts, or all of it.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[str | bytes, None] | str | bytes,
        head: bytes,
        tail: bytes,
        convert: Callable[[Any], bytes],
    ) -> None:
        self._pieces = _one(pieces) if isinstance(pieces, (str, bytes)) else pieces
        self._head = head
        self._tail = tail
        self._convert = convert
        self._is_over = False

    async def next(self) -> bytes | None:
        """Return the next bytes, or None at the end."""
        if self._is_over:
            return None
        head, self._head = self._head, b""
        found, size = [head], 0
        while size < ENOUGH_CHARS:
            piece = await anext(self._pieces, None)
            if piece is None:
                self._is_over = True
                return b"".join((*found, self._tail))
            found.append(self._convert(piece))
            size += len(piece)
        return b"".join(found)

    async def close(self) -> None:
        """End it."""
        await self._pieces.aclose()


async def _one(text: str | bytes) -> AsyncGenerator[str | bytes, None]:
    yield text


@implementer(IPushProducer)
class Stream:
    """The body of an answer.

    The door cuts off a visitor who takes nothing of it for long.  `close` must be called in the
    end, before the request is finished.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self._resumed: defer.Deferred[None] | None = None
        self._is_paused = False
        self._waited_s = 0.0
        self._waiting_since: float | None = None
        self.address = address_of(request.getClientAddress())
        self.sent_bytes = 0

    def open(self) -> None:
        """Begin; nothing may have been written to the request."""
        self._request.registerProducer(self, True)

    @property
    def waited_s(self) -> float:
        """How long it has waited for its visitor so far."""
        since = self._waiting_since
        return self._waited_s + (0.0 if since is None else time.monotonic() - since)

    def encode(self, data: bytes) -> bytes:
        """Compress `data` if the visitor wants that; may be called in a thread."""
        encoder = self._request._encoder
        return data if encoder is None else bytes(encoder.encode(data))

    async def encode_later(self, data: bytes) -> bytes:
        """Do as encode, in a thread if that takes long."""
        if self._request._encoder is None:
            return data
        encoded: bytes = await threads.deferToThread(self.encode, data)
        return encoded

    async def write(self, encoded: bytes) -> None:
        """Send what encode() has returned; wait until the visitor has taken most of it.

        Raises CancelledError when the visitor is gone.
        """
        view = memoryview(encoded)
        for start in range(0, len(view), SLICE_BYTES):
            part = bytes(view[start : start + SLICE_BYTES])
            if self._request.finished or self._request.channel is None:
                raise defer.CancelledError
            http.Request.write(self._request, part)
            self.sent_bytes += len(part)
            if self._is_paused:
                await self._until_resumed()

    def close(self) -> None:
        """Let the request finish."""
        if self._request.channel is not None:
            self._request.unregisterProducer()

    def cut_off(self) -> None:
        """End the connection, so that the visitor notices that the answer is not complete."""
        channel = self._request.channel
        if channel is not None:
            channel.transport.abortConnection()

    # what the transport calls

    def pauseProducing(self) -> None:
        """Stop until resumeProducing is called."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """Go on."""
        self._is_paused = False
        if self._resumed is not None:
            self._resumed.callback(None)

    def stopProducing(self) -> None:
        """The visitor is gone."""
        if self._resumed is not None:
            self._resumed.cancel()

    async def _until_resumed(self) -> None:
        self._resumed = resumed = defer.Deferred[None]()
        self._waiting_since = time.monotonic()
        try:
            await resumed
        finally:
            self._resumed = None
            self._waited_s, self._waiting_since = self.waited_s, None
