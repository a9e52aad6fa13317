"""/ws and /sse: Buildbot's streams of events, with limits, and with the rules of the REST API."""

from __future__ import annotations

import json
import uuid
from typing import Any

from autobahn.twisted.resource import WebSocketResource
from autobahn.websocket.types import ConnectionDeny
from buildbot.util.twisted import async_to_deferred
from buildbot.www import auth
from buildbot.www import ws
from buildbot.www.authz import Forbidden
from twisted.internet import defer
from twisted.web import resource
from twisted.web import server

from litebot.master.limits.addresses import address_of
from litebot.master.web.encoding import encode
from litebot.master.web.subscriptions import EventReader
from litebot.master.web.subscriptions import Subscriptions

# A message of Buildbot's page has about 50 bytes.
MOST_MESSAGE_BYTES = 64 * 1024
# A page sends a few dozen messages when it is opened, and one or two when something is clicked.
BURST_MESSAGES = 400
MESSAGES_PER_S = 40.0
# Frames are decoded in pieces, each in a turn of its own: a frame may have six bytes.
PIECE_BYTES = 256

COMMANDS = {"startConsuming", "stopConsuming", "ping"}


class WsProtocol(ws.WsProtocol):
    """A connection of /ws."""

    def __init__(self, master: Any, subscriptions: Subscriptions) -> None:
        super().__init__(master)
        self._subscriptions = subscriptions
        self._token: str | None = None
        self._reader: EventReader
        self._unread = b""
        self._is_lost = False
        self._credit = float(BURST_MESSAGES)
        self._credited_at = master.reactor.seconds()

    # the connection

    def connectionMade(self) -> None:
        super().connectionMade()
        self._address = address_of(self.transport.getPeer())
        self._reader = EventReader(
            self._subscriptions, self._address, self._send_event, self.transport.abortConnection
        )
        # The HTTP connection that this one was is still the transport's producer.
        self.transport.unregisterProducer()
        self.transport.registerProducer(self._reader, True)
        # It stops reading when this is over if much has come with the request.
        self.master.reactor.callLater(0, self._read_on)

    def connectionLost(self, reason: Any) -> None:
        self._is_lost = True
        self._reader.end()
        super().connectionLost(reason)
        # Autobahn's own clean-up, which Buildbot leaves out: it stops the timers of pings.
        super(ws.WsProtocol, self).connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        """Decode a piece of what was received when its turn comes, and then the next one."""
        if self._unread:
            self._unread += data
            return
        self._unread = data
        self._read_later()

    def _read_later(self) -> None:
        self.master.db.pool.dispatch(self._read_piece, self._address)
        if self._unread and not self._is_lost:
            self.transport.pauseProducing()

    def _read_piece(self) -> None:
        if self._is_lost:
            return
        try:
            super().dataReceived(self._unread[:PIECE_BYTES])
        except Exception:
            self.transport.abortConnection()
            raise
        self._unread = self._unread[PIECE_BYTES:]
        if self._unread:
            self.master.reactor.callLater(0, self._read_later)
        else:
            self._read_on()

    def _read_on(self) -> None:
        if not self._unread and not self._is_lost:
            self.transport.resumeProducing()

    def _spend(self) -> bool:
        """Return whether one more frame may be read; else close the connection."""
        now = self.master.reactor.seconds()
        earned = (now - self._credited_at) * MESSAGES_PER_S
        self._credit = min(self._credit + earned, BURST_MESSAGES) - 1
        self._credited_at = now
        if self._credit < 0:
            self._reader.cut_off("too many messages of a page")
        return self._credit >= 0

    def onPing(self, payload: bytes) -> None:
        if self._spend():
            super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        if self._spend():
            super().onPong(payload)

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        # Autobahn's own limit of messages is one of those that are sent, too.
        if self._spend() and self.message_data_total_length > MOST_MESSAGE_BYTES:
            self._reader.cut_off("too large a message of a page")

    # who reads

    @async_to_deferred
    async def onConnect(self, request: Any) -> None:
        """Let in who may see the masters, as Buildbot does."""
        path = ws.get_ws_sitepath(request.path)
        name = auth.build_cookie_name(self.is_secure(), path).decode()
        self._token = ws.parse_cookies(request.headers.get("cookie", "")).get(name)
        try:
            check = self.master.www.authz.assertUserAllowed
            await defer.maybeDeferred(check, ("masters",), "GET", {}, self._user_info())
        except Exception as error:
            raise ConnectionDeny(403, "Forbidden") from error

    def _user_info(self) -> dict[str, Any]:
        """Return who the user is now: a session may have ended meanwhile."""
        user_info = self.master.www.sessions.user_info(self._token)
        self._reader.is_anonymous = bool(user_info.get("anonymous"))
        return user_info

    # messages

    def sendMessage(self, payload: bytes, *args: Any, **kwargs: Any) -> Any:
        """Send a message, or close the connection if its reader takes none."""
        if self._is_lost or self.state != self.STATE_OPEN:
            return None
        self._reader.note_sent(len(payload))
        return super().sendMessage(payload, *args, **kwargs)

    def to_json(self, msg: Any) -> bytes:
        return encode(msg)

    def _send_event(self, key: Any, message: Any) -> None:
        self.send_json_message(k="/".join(key), m=message)

    def onMessage(self, frame: bytes, isBinary: bool) -> None:
        """Answer a message that can be understood as Buildbot does, and others with 400."""
        try:
            message = json.loads(frame)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self.send_error(error="a message must be a JSON object", code=400, _id=None)
            return
        _id = message.get("_id")
        if not isinstance(_id, str | int | float | None) or len(str(_id)) > 100:
            self.send_error(error="'_id' must be a number or a short string", code=400, _id=None)
            return
        if _id is None and message.get("type") is None:
            error = "no '_id' or 'type' in websocket frame"
            self.send_error(error=error, code=400, _id=None)
            return
        self._call(message.get("cmd"), message.get("path"), _id)

    def _call(self, command: Any, path: Any, _id: Any) -> None:
        if command is None:
            self.send_error(error="no 'cmd' in websocket frame", code=400, _id=None)
        elif not isinstance(command, str) or command not in COMMANDS:
            error = f"no such command type '{str(command)[:100]}'"
            self.send_error(error=error, code=404, _id=_id)
        elif command == "ping":
            self.cmd_ping(_id=_id)
        elif not self.isPath(path):
            error = f"invalid path format '{str(path)[:100]}'"
            self.send_error(error=error, code=400, _id=_id)
        elif command == "startConsuming":
            self.cmd_startConsuming(path=path, _id=_id)
        else:
            self.cmd_stopConsuming(path=path, _id=_id)

    @async_to_deferred
    async def cmd_startConsuming(self, path: str, _id: Any) -> None:
        """Subscribe to a path that the user may read."""
        try:
            await self._subscriptions.require_allowed(path, self._user_info())
            if self._reader.start(path):
                self.ack(_id=_id)
            else:
                self.send_error(error="too many subscriptions", code=429, _id=_id)
        except Forbidden as error:
            self.send_error(error=error.message.decode(), code=403, _id=_id)
        except ValueError as error:
            self.send_error(error=str(error), code=400, _id=_id)

    def cmd_stopConsuming(self, path: str, _id: Any) -> None:
        """End a subscription."""
        if self._reader.stop(path):
            self.ack(_id=_id)
        else:
            self.send_error(error=f"path was not consumed '{path[:100]}'", code=400, _id=_id)


class WsProtocolFactory(ws.WsProtocolFactory):
    """Makes the connections of /ws."""

    def __init__(self, master: Any, subscriptions: Subscriptions) -> None:
        super().__init__(master)
        self._subscriptions = subscriptions

    def buildProtocol(self, addr: Any) -> WsProtocol:
        limits = self.master.settings.limits
        interval = self.master.config.www.get("ws_ping_interval", 0) or limits.idle_seconds
        self.setProtocolOptions(autoPingInterval=interval, autoPingTimeout=limits.answer_seconds)
        protocol = WsProtocol(self.master, self._subscriptions)
        protocol.factory = self
        return protocol


class WsResource(WebSocketResource):
    """/ws"""

    def __init__(self, master: Any, subscriptions: Subscriptions) -> None:
        super().__init__(WsProtocolFactory(master, subscriptions))


class EventResource(resource.Resource):
    """/sse/listen/PATH begins a stream; /sse/add/UUID/PATH and /sse/remove/UUID/PATH change it.

    The uuid is the first that a stream sends.
    """

    isLeaf = True

    def __init__(self, master: Any, subscriptions: Subscriptions) -> None:
        super().__init__()
        self.master = master
        self._subscriptions = subscriptions
        self._streams: dict[str, _Stream] = {}

    def render(self, request: server.Request) -> Any:
        if request.method not in (b"GET", b"HEAD"):
            return _answer(request, 405, "/sse is read with GET")
        user_info = self.master.www.getUserInfos(request)
        try:
            parts = [part.decode() for part in request.postpath or () if part]
        except UnicodeDecodeError:
            return _answer(request, 400, "the path is not UTF-8")
        command = parts.pop(0) if parts[:1] in (["listen"], ["add"], ["remove"]) else "listen"
        if command == "listen":
            self._listen(request, "/".join(parts), user_info)
            return server.NOT_DONE_YET
        if not parts:
            return _answer(request, 400, "need uuid")
        stream = self._streams.get(parts.pop(0))
        if stream is None or stream.user != _user_of(user_info):
            return _answer(request, 400, "unknown uuid")
        path = "/".join(parts)
        if command == "add":
            self._add(request, stream, path, user_info)
            return server.NOT_DONE_YET
        if stream.reader.stop(path):
            return _answer(request, 200, "ok")
        return _answer(request, 404, "consumer is not listening to this event")

    @async_to_deferred
    async def _listen(self, request: server.Request, path: str, user_info: dict[str, Any]) -> None:
        gone: list[Any] = []
        ended = request.notifyFinish()
        ended.addBoth(gone.append)
        if not await self._is_allowed(request, path or "masters", user_info) or gone:
            return
        if request.method == b"HEAD":
            request.setHeader(b"content-type", b"text/event-stream")
            request.finish()
            return
        stream = _Stream(self._subscriptions, request, user_info)
        self._streams[stream.uuid] = stream
        stream.begin(self.master)
        ended.addBoth(lambda _: self._end(stream))
        if path and not stream.reader.start(path):
            stream.reader.cut_off("too many subscriptions")

    def _end(self, stream: _Stream) -> None:
        del self._streams[stream.uuid]
        stream.end()

    @async_to_deferred
    async def _add(
        self, request: server.Request, stream: _Stream, path: str, user_info: dict[str, Any]
    ) -> None:
        if await self._is_allowed(request, path, user_info):
            if stream.reader.start(path):
                _finish(request, 200, "ok")
            else:
                _finish(request, 429, "too many subscriptions")

    async def _is_allowed(
        self, request: server.Request, path: str, user_info: dict[str, Any]
    ) -> bool:
        """Return whether a user may hear of a path; else the request is answered."""
        try:
            check = self.master.www.authz.assertUserAllowed
            await defer.maybeDeferred(check, ("masters",), "GET", {}, user_info)
            await self._subscriptions.require_allowed(path, user_info)
        except Forbidden as error:
            _finish(request, 403, error.message.decode())
            return False
        except ValueError as error:
            _finish(request, 400, str(error))
            return False
        return True


class _Stream:
    """One answer of /sse, which does not end before its reader goes."""

    def __init__(
        self, subscriptions: Subscriptions, request: server.Request, user_info: dict[str, Any]
    ) -> None:
        self.uuid = str(uuid.uuid4())
        self.user = _user_of(user_info)
        self._request = request
        self._timer: Any = None
        address = address_of(request.getClientAddress())
        self.reader = EventReader(subscriptions, address, self._send_event, self._abort)
        self.reader.is_anonymous = bool(user_info.get("anonymous"))

    def begin(self, master: Any) -> None:
        """Send the beginning, and a comment every `idle_seconds`, which finds dead readers."""
        self._request.registerProducer(self.reader, True)
        self._request.setHeader(b"content-type", b"text/event-stream")
        self._write(f"event: handshake\ndata: {self.uuid}\n\n")
        self._keep_alive(master)

    def end(self) -> None:
        """Stop, because the reader is gone."""
        self.reader.end()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _keep_alive(self, master: Any) -> None:
        seconds = master.settings.limits.idle_seconds
        self._timer = master.reactor.callLater(seconds, self._keep_alive, master)
        self._write(":\n\n")

    def _send_event(self, key: Any, message: Any) -> None:
        sent = encode({"key": list(key), "message": message})
        self._write(f"event: event\ndata: {sent.decode()}\n\n")

    def _write(self, text: str) -> None:
        data = text.encode()
        self._request.write(data)
        self.reader.note_sent(len(data))

    def _abort(self) -> None:
        channel: Any = self._request.channel
        channel.transport.abortConnection()


def _user_of(user_info: dict[str, Any]) -> str | None:
    return user_info.get("username")


def _answer(request: server.Request, code: int, text: str) -> bytes:
    request.setResponseCode(code)
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    return text.encode(errors="backslashreplace")


def _finish(request: server.Request, code: int, text: str) -> None:
    request.write(_answer(request, code, text))
    request.finish()
