"""Buildbot's REST API with reads that no build waits for, and with stricter checks of requests.

A GET reads through a read snapshot, on connections that only read: see `read_pool`.  A request that
can't be understood is answered with 4xx and the reason.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import orjson
from buildbot.data.base import EndpointKind
from buildbot.data.exceptions import InvalidControlException
from buildbot.data.exceptions import InvalidPathError
from buildbot.util import toJson
from buildbot.util.twisted import async_to_deferred
from buildbot.www import rest
from twisted.internet import defer
from twisted.internet import threads
from twisted.web import server
from twisted.web.http import datetimeToString

from litebot.errors import ServerAway
from litebot.master.db.components.values import epoch_of
from litebot.master.db.read_pool import ReadSnapshot
from litebot.master.db.read_pool import may_read_inline
from litebot.master.db.read_pool import read_snapshot
from litebot.master.limits.words import REASON
from litebot.master.limits.words import RefusedWord
from litebot.master.secrets.masker import OF_BUILDBOT
from litebot.master.secrets.masker import masker
from litebot.master.web import actions
from litebot.master.web import large
from litebot.master.web.auth import missing_for_all_actions
from litebot.master.web.service import same_origin
from litebot.store.sql import LARGEST

RAW_KINDS = (EndpointKind.RAW, EndpointKind.RAW_INLINE)
# The most rows that are read, or made into JSON, on the reactor's thread; more go to a thread.
MAX_INLINE_ROWS = 200
# Resource types of which a single row may have megabytes.
LARGE_TYPES = {"logchunk"}
ORJSON_OPTIONS = (
    orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
)


def encode(row: Any, indent: bool) -> bytes:
    """Encode a row as JSON in the way Buildbot does: with sorted keys, and times in seconds.

    NaN becomes null, as JSON has no NaN.  Strings with unpaired surrogates and integers beyond 64
    bits are left to the standard library, as orjson refuses them.
    """
    try:
        return orjson.dumps(
            row, _json_default, ORJSON_OPTIONS | (orjson.OPT_INDENT_2 if indent else 0)
        )
    except TypeError:
        return json.dumps(
            row, default=toJson, sort_keys=True, indent=2 if indent else None
        ).encode()


def _json_default(value: Any) -> Any:
    """Convert a value as Buildbot's toJson does, but times with a time zone faster."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return epoch_of(value)
    return toJson(value)


def body_of(name: str, rows: Iterable[Any], meta: dict[str, Any], indent: bool) -> bytes:
    """Return the body of an answer: the rows in a list under `name`, and `meta`."""
    listed = b",\n".join(encode(row, indent) for row in rows)
    return b'{"%b": [%b], "meta": %b}' % (name.encode(), listed, encode(meta, indent))


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
        snapshot = ReadSnapshot()
        read_snapshot.set(snapshot)
        await self.master.db.pool.admit(snapshot)
        if request.getHeader("origin") is None:
            return await self.renderRest(request)  # Buildbot has no origin to check
        return await super().asyncRender(request)

    @async_to_deferred
    async def renderRest(self, request: Any) -> Any:
        """Answer a GET as Buildbot does, but make the JSON at once, not one token at a time."""
        with self.handleErrors(lambda msg, code, _: self._write_rest_error(request, msg, code)):
            endpoint, kwargs = await self._endpoint(request, request.method.decode(), {})
            if endpoint.kind in RAW_KINDS:
                return await super().renderRest(request)
            spec = self.decodeResultSpec(request, endpoint)
            is_one = endpoint.kind == EndpointKind.SINGLE
            is_page = spec.limit is not None and spec.limit <= MAX_INLINE_ROWS
            # SQLite can't be interrupted while it searches for one text in another.
            is_page = is_page and not any(f.op == "contains" for f in spec.filters)
            may_read_inline.set((is_one or is_page) and endpoint.rtype.name not in LARGE_TYPES)
            found = await defer.maybeDeferred(endpoint.get, spec, kwargs)
            if found is None:
                self._write_not_found_rest_error(request, endpoint, spec, kwargs)
                return None
            found = spec.apply(found)
            meta = {}
            if endpoint.kind == EndpointKind.COLLECTION:
                if found.total is not None:
                    meta["total"] = found.total
                rows = found.data
            else:
                rows = [found]
            rows = [masked_properties(endpoint, row) for row in rows]
            indent = b"application/json" not in (request.getHeader(b"accept") or b"")
            answer = (endpoint.rtype.plural, rows, meta, indent)
            if len(rows) <= MAX_INLINE_ROWS:
                self._write_body(request, body_of(*answer), indent)
            else:
                body = await threads.deferToThread(body_of, *answer)
                self._write_body(request, body, indent)
        return None

    def _write_body(self, request: Any, body: bytes, indent: bool) -> None:
        if rest._is_request_finished(request):
            return
        kind = b"text/plain" if indent else b"application/json"
        request.setHeader(b"content-type", kind + b"; charset=utf-8")
        request.setHeader(b"content-length", b"%d" % len(body))
        if self.cache_seconds:
            request.setHeader(b"expires", datetimeToString(time.time() + self.cache_seconds))
            request.setHeader(b"pragma", b"no-cache")
        if request.method != b"HEAD":
            request.write(body)

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
