"""Buildbot's REST API, whose reads keep no build waiting (see `readers`), wary of what it is asked.

What can't be understood is answered with 4xx and the reason.
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
from litebot.master.web import actions
from litebot.master.web.service import same_origin
from litebot.store.sql import LARGEST

RAW = (EndpointKind.RAW, EndpointKind.RAW_INLINE)
# More than this many are neither read nor made into JSON in one turn of the reactor.
FEW_ROWS = 200
# Of these one may be megabytes.
LARGE = {"logchunk"}
AS_BUILDBOT = (
    orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
)


def encode(row: Any, indent: bool) -> bytes:
    """A row of an answer as JSON, as Buildbot has it: keys in order, times as seconds.

    NaN is null, as JSON has no word for it.
    Strings that are no text and large integers are left to the standard library, which knows them.
    """
    try:
        return orjson.dumps(row, _seconds, AS_BUILDBOT | (orjson.OPT_INDENT_2 if indent else 0))
    except TypeError:
        return json.dumps(
            row, default=toJson, sort_keys=True, indent=2 if indent else None
        ).encode()


def _seconds(value: Any) -> Any:
    """As toJson, and sooner where a time says of which zone it is."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return epoch_of(value)
    return toJson(value)


def body_of(name: str, rows: Iterable[Any], meta: dict[str, Any], indent: bool) -> bytes:
    """The whole answer."""
    listed = b",\n".join(encode(row, indent) for row in rows)
    return b'{"%b": [%b], "meta": %b}' % (name.encode(), listed, encode(meta, indent))


class V2RootResource(rest.V2RootResource):
    """/api/v2: what a GET asks of the database is asked of a read-only connection."""

    def asyncRender(self, request: server.Request) -> Any:
        if same_origin(request):  # whatever name the master has for the visitor
            request.requestHeaders.removeHeader("origin")
        if request.method in (b"GET", b"HEAD"):
            return copy_context().run(self._browse, request)
        return super().asyncRender(request)

    @async_to_deferred
    async def _browse(self, request: server.Request) -> Any:
        visit = ReadSnapshot()
        read_snapshot.set(visit)
        await self.master.db.pool.admit(visit)
        if request.getHeader("origin") is None:
            return await self.renderRest(request)  # there is nothing for Buildbot to look at
        return await super().asyncRender(request)

    @async_to_deferred
    async def renderRest(self, request: Any) -> Any:
        """Answer a GET: as Buildbot's, but JSON is made at once instead of a token at a time."""
        with self.handleErrors(lambda msg, code, _: self._write_rest_error(request, msg, code)):
            endpoint, kwargs = await self._endpoint(request, request.method.decode(), {})
            if endpoint.kind in RAW:
                return await super().renderRest(request)
            spec = self.decodeResultSpec(request, endpoint)
            is_one = endpoint.kind == EndpointKind.SINGLE
            is_page = spec.limit is not None and spec.limit <= FEW_ROWS
            # SQLite can't be interrupted while it looks for one text in another.
            is_page = is_page and not any(f.op == "contains" for f in spec.filters)
            may_read_inline.set((is_one or is_page) and endpoint.rtype.name not in LARGE)
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
            indent = b"application/json" not in (request.getHeader(b"accept") or b"")
            answer = (endpoint.rtype.plural, rows, meta, indent)
            if len(rows) <= FEW_ROWS:
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

    @contextmanager
    def handleErrors(self, writeError: Callable[..., None]) -> Iterator[None]:
        """As Buildbot's, which answers 501 to an action that there is not.

        503 where the database is away.
        """
        with super().handleErrors(writeError):
            try:
                yield
            except InvalidControlException as error:
                code = rest.JSONRPC_CODES["method_not_found"]
                raise rest.BadJsonRpc2(str(error), code) from error
            except ServerAway as error:
                writeError(error.what, 503, rest.JSONRPC_CODES["internal_error"])

    @async_to_deferred
    async def getEndpoint(self, request: server.Request, method: str, params: Any) -> Any:
        """As Buildbot's.  Raises InvalidPathError and BadJsonRpc2."""
        return await self._endpoint(request, method, params)

    async def _endpoint(self, request: server.Request, method: str, params: Any) -> Any:
        try:
            path = tuple(part.decode() for part in request.postpath or ())
        except UnicodeDecodeError as error:
            raise InvalidPathError("the path is not UTF-8") from error
        # A user's own authz may answer at once.
        await defer.maybeDeferred(self.master.www.assertUserAllowed, request, path, method, params)
        endpoint, kwargs = self.master.data.getEndpoint(path)
        for name, value in kwargs.items():
            no_number = isinstance(value, int) and not 0 <= value <= LARGEST
            if no_number or (isinstance(value, str) and "\0" in value):
                raise InvalidPathError(f"no {name} is {value!r}")
        if request.method == b"POST":
            await actions.check(endpoint, kwargs, method, params)
        return endpoint, kwargs

    def decodeJsonRPC2(
        self, request: server.Request
    ) -> tuple[str, str | int | None, dict[str, Any]]:
        """As Buildbot's.  Raises BadJsonRpc2."""
        code = rest.JSONRPC_CODES["invalid_request"]
        try:
            call = super().decodeJsonRPC2(request)
            actions.check_values("a parameter", list(call))
        except UnicodeDecodeError as error:
            raise rest.BadJsonRpc2("its content-type is not UTF-8", code) from error
        except RecursionError as error:
            raise rest.BadJsonRpc2("it is nested too deeply", code) from error
        return call


def register() -> None:
    """Serve this class as version 2 of the API; Buildbot keeps a registry for that."""
    rest.RestRootResource.addApiVersion(2, V2RootResource)
