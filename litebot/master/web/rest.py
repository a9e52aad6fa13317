"""Buildbot's REST API with reads that no build waits for, and with stricter checks of requests.

A GET reads through a read snapshot, on connections that only read: see `read_pool`.  A request that
can't be understood is answered with 4xx and the reason.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from contextlib import asynccontextmanager
from contextlib import contextmanager
from contextlib import nullcontext
from contextvars import copy_context
from typing import Any

from buildbot.data.base import EndpointKind
from buildbot.data.exceptions import InvalidControlException
from buildbot.data.exceptions import InvalidPathError
from buildbot.util import unicode2bytes
from buildbot.util.twisted import async_to_deferred
from buildbot.www import rest
from twisted.internet import defer
from twisted.internet import threads
from twisted.internet.error import ConnectionDone
from twisted.python import log
from twisted.web import server
from twisted.web.http import datetimeToString

from litebot.errors import ServerAway
from litebot.master.db.read_pool import may_read_inline
from litebot.master.db.read_pool import read_snapshot
from litebot.master.limits.addresses import address_of
from litebot.master.limits.reads import RETRY_AFTER_S
from litebot.master.limits.reads import TooManyReads
from litebot.master.limits.words import REASON
from litebot.master.limits.words import RefusedWord
from litebot.master.secrets.masker import OF_BUILDBOT
from litebot.master.secrets.masker import masker
from litebot.master.web import actions
from litebot.master.web import large
from litebot.master.web.auth import missing_for_all_actions
from litebot.master.web.encoding import encode
from litebot.master.web.long_lists import FIRST_ROWS
from litebot.master.web.long_lists import PIECE_BYTES
from litebot.master.web.long_lists import LongList
from litebot.master.web.service import same_origin
from litebot.master.web.streaming import Stream
from litebot.master.web.streaming import Texts
from litebot.master.web.streaming import while_connected
from litebot.store.sql import LARGEST

RAW_KINDS = (EndpointKind.RAW, EndpointKind.RAW_INLINE)
# The most rows that are read, or made into JSON, on the reactor's thread; more go to a thread.
MAX_INLINE_ROWS = 200
# Resource types of which a single row may have megabytes.
LARGE_TYPES = {"logchunk"}
# Resource types whose lists may be long; all but pages of them take turns.
LONG_TYPES = {
    *("branch", "build", "buildrequest", "buildset", "change", "commit", "sourcestamp"),
    *("test_result", "test_result_set"),
}
# The most lines of a log that need no turn.
PAGE_LINES = 2000
# Larger bodies are sent no faster than they are taken.
LARGE_BYTES = 256 * 1024
# Stands for the content of a log; encoded, it looks like nothing else in an answer.
CONTENT = "\0"


def body_of(name: str, rows: Iterable[Any], meta: dict[str, Any], indent: bool) -> bytes:
    """Return the body of an answer: the rows in a list under `name`, and `meta`."""
    listed = b",\n".join(encode(row, indent) for row in rows)
    return list_head(name) + listed + list_tail(meta, indent)


def list_head(name: str) -> bytes:
    """Return what comes before the rows of a list."""
    return b'{"%b": [' % name.encode()


def list_tail(meta: dict[str, Any], indent: bool) -> bytes:
    """Return what comes after the rows of a list."""
    return b'], "meta": %b}' % encode(meta, indent)


def _wants_lines(request: Any) -> bool:
    """Whether a request asks for JSON with line breaks, as a browser does."""
    return b"application/json" not in (request.getHeader(b"accept") or b"")


def masked_properties(endpoint: Any, row: Any) -> Any:
    """Return a row without secrets in its properties.

    Those of a buildset are stored as they are, because its builds need them.
    """
    if endpoint.rtype.name == "property":
        return masker.mask_properties(row)
    if endpoint.rtype.name == "_property":  # a row for each, with its name
        return row if row.get("name") in OF_BUILDBOT else masker.mask_value(row)
    if isinstance(row, dict) and row.get("properties"):
        return {**row, "properties": masker.mask_properties(row["properties"])}
    return row


class V2RootResource(rest.V2RootResource):
    """/api/v2, where a GET reads through a read snapshot."""

    def asyncRender(self, request: server.Request) -> Any:
        # Buildbot compares the origin with buildbotURL; the master may be reached by other names.
        if same_origin(request):
            request.requestHeaders.removeHeader("origin")
        if request.method in (b"GET", b"HEAD"):
            return copy_context().run(self._render_read, request)
        if request.method == b"POST":
            return self._render_action(request, super().asyncRender)
        return super().asyncRender(request)

    @async_to_deferred
    async def _render_action(self, request: Any, render: Callable[..., Any]) -> Any:
        """Answer a POST; look at its body only if its user may do something at all."""
        user = self.master.www.getUserInfos(request)
        if role := missing_for_all_actions(self.master.www.authz, user):
            error = {
                "code": rest.JSONRPC_CODES["invalid_request"],
                "message": f"you need to have role '{role}'",
            }
            request.setResponseCode(403)
            request.setHeader(b"content-type", rest.JSON_ENCODED)
            return json.dumps({"error": error, "jsonrpc": "2.0"}).encode()
        if (size := request.body_size()) > large.INLINE_BYTES:
            request.call = await large.run(size, self._decoded, request)
        return await render(request)

    def _decoded(self, request: Any) -> Any:
        """Return a call that is large, or the error that it is answered with; in a thread."""
        try:
            large.require_few_values(request.content.read())
            request.content.seek(0)
            return self.decodeJsonRPC2(request)
        except ValueError as error:
            return rest.BadJsonRpc2(str(error), rest.JSONRPC_CODES["invalid_request"])
        except rest.BadJsonRpc2 as error:
            return error

    @async_to_deferred
    async def _render_read(self, request: server.Request) -> Any:
        read_snapshot.set(request.snapshot)  # type: ignore[attr-defined]
        if request.getHeader("origin") is None:
            return await self.renderRest(request)  # Buildbot has no origin to check
        return await super().asyncRender(request)

    @async_to_deferred
    async def renderRest(self, request: Any) -> Any:
        """Answer a GET as Buildbot does, but a long answer in pieces."""
        with self.handleErrors(lambda msg, code, _: self._write_rest_error(request, msg, code)):
            endpoint, kwargs = await self._endpoint(request, request.method.decode(), {})
            spec = self.decodeResultSpec(request, endpoint)
            if endpoint.kind in RAW_KINDS:
                rendering = self._render_raw(request, endpoint, spec, kwargs)
            elif endpoint.kind == EndpointKind.COLLECTION:
                rendering = self._render_list(request, endpoint, spec, kwargs)
            elif hasattr(endpoint, "get_texts"):
                rendering = self._render_log(request, endpoint, spec, kwargs)
            else:
                rendering = self._render_row(request, endpoint, spec, kwargs)
            try:
                await while_connected(request, rendering)
            except TooManyReads:
                request.setHeader(b"retry-after", b"%d" % RETRY_AFTER_S)
                self._write_rest_error(request, "too many long answers are being read", 503)
        return None

    async def _render_row(self, request: Any, endpoint: Any, spec: Any, kwargs: Any) -> None:
        may_read_inline.set(endpoint.rtype.name not in LARGE_TYPES)
        found = await defer.maybeDeferred(endpoint.get, spec, kwargs)
        if found is None:
            self._write_not_found_rest_error(request, endpoint, spec, kwargs)
        else:
            await self._write_rows(request, endpoint, [spec.apply(found)], {})

    async def _render_list(self, request: Any, endpoint: Any, spec: Any, kwargs: Any) -> None:
        is_page = spec.limit is not None and spec.limit <= MAX_INLINE_ROWS
        # SQLite can't be interrupted while it searches for one text in another.
        is_page = is_page and not any(f.op == "contains" for f in spec.filters)
        may_read_inline.set(is_page)
        if request.method == b"HEAD" and not is_page:
            spec.limit = min(FIRST_ROWS + 1, LARGEST if spec.limit is None else spec.limit)
        reads, address = self.master.reads, address_of(request.getClientAddress())
        needs_turn = endpoint.rtype.name in LONG_TYPES and not is_page
        found = LongList(endpoint, kwargs, spec)
        async with reads.turn(address, is_first=True) if needs_turn else nullcontext():
            whole = await found.begin()
        may_read_inline.set(False)
        if found.is_missing:
            self._write_not_found_rest_error(request, endpoint, spec, kwargs)
        elif whole is not None:
            meta = {} if whole.total is None else {"total": whole.total}
            await self._write_rows(request, endpoint, whole.data, meta)
        elif request.method == b"HEAD":
            self._set_headers(request)
        else:
            if has_to_wait := not reads.has_place(address):
                found.forget()
            async with self._stream(request) as stream:
                if has_to_wait:
                    async with reads.turn(address):
                        await found.begin()
                await self._send_list(request, endpoint, found, stream)

    async def _send_list(self, request: Any, endpoint: Any, found: Any, stream: Stream) -> None:
        indent = _wants_lines(request)

        def turn() -> AbstractAsyncContextManager[None]:
            return self.master.reads.turn(stream.address)

        def piece_of(before: bytes, rows: list[Any]) -> tuple[int, bytes]:
            masked = (masked_properties(endpoint, row) for row in rows)
            piece = before + b",\n".join([encode(row, indent) for row in masked])
            return len(piece), stream.encode(piece)

        await found.sort(turn)
        self._set_headers(request)
        before = list_head(endpoint.rtype.plural)
        while True:
            async with turn():
                rows = await found.next()
                if rows is None:
                    break
                size, piece = 0, b""
                if rows:
                    size, piece = await threads.deferToThread(piece_of, before, rows)
                    before = b",\n"
                found.fit(len(rows), size)
            await stream.write(piece)
        end = list_tail({"total": found.total}, indent)
        await stream.write(stream.encode(end if before == b",\n" else before + end))

    async def _render_log(self, request: Any, endpoint: Any, spec: Any, kwargs: Any) -> None:
        is_page = spec.limit is not None and spec.limit <= PAGE_LINES
        found = await endpoint.get_texts(spec, kwargs)
        if found is None:
            self._write_not_found_rest_error(request, endpoint, spec, kwargs)
            return
        row, texts = found
        indent = _wants_lines(request)
        row["content"] = CONTENT
        whole = body_of(endpoint.rtype.plural, [spec.apply(row)], {}, indent)
        head, content, tail = whole.partition(encode(CONTENT, indent))
        self._set_headers(request)
        if not content:  # the visitor has not asked for it
            request.write(whole)
        elif request.method != b"HEAD":
            quoted = Texts(texts, head + b'"', b'"' + tail, lambda text: encode(text, False)[1:-1])
            await self._send_texts(request, quoted, needs_turn=not is_page)

    async def _render_raw(self, request: Any, ep: Any, rspec: Any, kwargs: Any) -> None:
        """Send what is not JSON, in pieces."""
        try:
            found = await ep.stream(rspec, kwargs)
        except NotImplementedError:
            found = await defer.maybeDeferred(ep.get, rspec, kwargs)
        if found is None:
            self._write_not_found_rest_error(request, ep, rspec, kwargs)
            return
        request.setHeader(b"content-type", unicode2bytes(found["mime-type"]) + b"; charset=utf-8")
        if ep.kind != EndpointKind.RAW_INLINE:
            name = unicode2bytes(found["filename"])
            request.setHeader(b"content-disposition", b"attachment; filename=" + name)
        if request.method != b"HEAD":
            texts = Texts(found["raw"], b"", b"", unicode2bytes)
            await self._send_texts(request, texts, needs_turn=True)

    async def _send_texts(self, request: Any, texts: Texts, *, needs_turn: bool) -> None:
        """Send a text: at once if it is short, otherwise in pieces."""
        reads, address = self.master.reads, address_of(request.getClientAddress())

        async def next_piece(*, is_first: bool = False) -> bytes | None:
            async with reads.turn(address, is_first=is_first) if needs_turn else nullcontext():
                return await texts.next()

        try:
            begun = b""
            while len(begun) < PIECE_BYTES:
                piece = await next_piece(is_first=not begun)
                if piece is None:
                    request.setHeader(b"content-length", b"%d" % len(begun))
                    request.write(begun)
                    return
                begun += piece
            async with self._stream(request) as stream:
                following: bytes | None = begun
                del begun
                while following is not None:
                    await stream.write(await stream.encode_later(following))
                    following = await next_piece()
        finally:
            await texts.close()

    @asynccontextmanager
    async def _stream(self, request: Any) -> AsyncIterator[Stream]:
        """A context that sends a long answer, as soon as there is a place for it.

        Raises TooManyReads, and ConnectionDone if it fails when a part of it has been sent.
        """
        master = self.master
        stream = Stream(request)
        async with master.reads.place(stream):
            stream.open()
            try:
                yield stream
            except Exception as error:
                if isinstance(error, defer.CancelledError) or not request.startedWriting:
                    raise
                log.err(error, f"while sending {request.uri!r}")
                stream.cut_off()
                raise ConnectionDone from error
            finally:
                stream.close()

    async def _write_rows(
        self, request: Any, endpoint: Any, rows: list[Any], meta: dict[str, Any]
    ) -> None:
        """Send a list whose rows are all there."""
        indent = _wants_lines(request)
        masked = [masked_properties(endpoint, row) for row in rows]
        answer = (endpoint.rtype.plural, masked, meta, indent)
        if len(rows) <= MAX_INLINE_ROWS:
            body = body_of(*answer)
        else:
            body = await threads.deferToThread(body_of, *answer)
        if rest._is_request_finished(request):
            return
        self._set_headers(request)
        request.setHeader(b"content-length", b"%d" % len(body))
        if request.method == b"HEAD":
            return
        if len(body) <= LARGE_BYTES:
            request.write(body)
            return
        async with self._stream(request) as stream:
            await stream.write(await stream.encode_later(body))

    def _set_headers(self, request: Any) -> None:
        kind = b"text/plain" if _wants_lines(request) else b"application/json"
        request.setHeader(b"content-type", kind + b"; charset=utf-8")
        if self.cache_seconds:
            request.setHeader(b"expires", datetimeToString(time.time() + self.cache_seconds))
            request.setHeader(b"pragma", b"no-cache")

    def _write_not_found_rest_error(
        self, request: Any, ep: Any, rspec: Any, kwargs: dict[str, Any]
    ) -> None:
        """Say what was not found; Buildbot shows the Python objects of its search."""
        path = b"/".join(request.postpath or ()).decode(errors="replace")
        self._write_rest_error(request, f"there is no {path}")

    @contextmanager
    def handleErrors(self, writeError: Callable[..., None]) -> Iterator[None]:
        """Answer errors as Buildbot does, with three differences.

        An action that does not exist is answered with 400 instead of 501, as is a name that a
        command would misunderstand, and a database server that is away with 503.
        """
        with super().handleErrors(writeError):
            try:
                yield
            except InvalidControlException as error:
                code = rest.JSONRPC_CODES["method_not_found"]
                raise rest.BadJsonRpc2(str(error), code) from error
            except RefusedWord as error:
                self.master.refusals.note(REASON, f"a call of the REST API: {error}")
                # The page shows it beside the field of this name.
                field = f"{error.codebase}_{error.name}" if error.codebase else error.name
                code = rest.JSONRPC_CODES["invalid_params"]
                raise rest.BadJsonRpc2({field: str(error)}, code) from error
            except ServerAway as error:
                writeError(error.what, 503, rest.JSONRPC_CODES["internal_error"])

    @async_to_deferred
    async def getEndpoint(self, request: server.Request, method: str, params: Any) -> Any:
        """Find the endpoint of a request.  Raises InvalidPathError and BadJsonRpc2."""
        return await self._endpoint(request, method, params)

    async def _endpoint(self, request: server.Request, method: str, params: Any) -> Any:
        try:
            path = tuple(part.decode() for part in request.postpath or ())
        except UnicodeDecodeError as error:
            raise InvalidPathError("the path is not UTF-8") from error
        # An authz from master.cfg may answer without a Deferred.
        await defer.maybeDeferred(self.master.www.assertUserAllowed, request, path, method, params)
        endpoint, kwargs = self.master.data.getEndpoint(path)
        for name, value in kwargs.items():
            out_of_range = isinstance(value, int) and not 0 <= value <= LARGEST
            if out_of_range or (isinstance(value, str) and "\0" in value):
                raise InvalidPathError(f"there is no {name} {value!r}")
        if request.method == b"POST":
            await actions.check(endpoint, kwargs, method, params)
        return endpoint, kwargs

    def decodeJsonRPC2(
        self, request: server.Request
    ) -> tuple[str, str | int | None, dict[str, Any]]:
        """Decode a call as Buildbot does, and check its values.  Raises BadJsonRpc2."""
        decoded = getattr(request, "call", None)
        if isinstance(decoded, rest.BadJsonRpc2):
            raise decoded
        if decoded is not None:
            return decoded
        code = rest.JSONRPC_CODES["invalid_request"]
        try:
            call = super().decodeJsonRPC2(request)
            actions.check_values("a parameter", list(call))
        except UnicodeDecodeError as error:
            raise rest.BadJsonRpc2("the content-type is not UTF-8", code) from error
        except RecursionError as error:
            raise rest.BadJsonRpc2("the JSON is nested too deeply", code) from error
        return call


def register() -> None:
    """Register V2RootResource in Buildbot as version 2 of the REST API."""
    rest.RestRootResource.addApiVersion(2, V2RootResource)
