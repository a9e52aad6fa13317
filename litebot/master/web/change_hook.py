"""Change hooks: a push is stored completely or not at all, only once, and refused if malformed."""

from __future__ import annotations

import json
import math
import re
import traceback
from collections.abc import Iterable
from contextvars import copy_context
from datetime import datetime
from typing import Any

from buildbot.db.model import Model
from buildbot.util import bytes2unicode
from buildbot.util import datetime2epoch
from buildbot.util.twisted import async_to_deferred
from buildbot.www import change_hook
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure
from twisted.web import server

from litebot.master.db.components import links
from litebot.master.db.components.changes import STAMP
from litebot.master.delivery.change_origins import IdempotencyKey
from litebot.master.delivery.change_origins import change_origin
from litebot.master.limits.refusals import printable
from litebot.master.limits.words import REASON
from litebot.master.limits.words import RefusedWord
from litebot.master.web import hook_secrets
from litebot.master.web import large
from litebot.master.web import payloads

# The headers with the id of a delivery, which is the same when the delivery is sent again.  The
# first that a request has is used.
# Sources:
# https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
# https://docs.gitlab.com/user/project/integrations/webhooks/
# https://docs.github.com/en/webhooks/webhook-events-and-payloads
# https://docs.gitea.com/usage/repository/webhooks
# https://support.atlassian.com/bitbucket-cloud/docs/event-payloads/
DELIVERY_HEADERS = (
    "Idempotency-Key",
    "X-GitHub-Delivery",
    "X-Gitea-Delivery",
    "X-Gogs-Delivery",
    "X-Request-UUID",
    "X-Gitlab-Event-UUID",
)
# X-Request-Id counts only for Bitbucket Server: proxies set it as well, and may set the same id on
# many requests.
# Source: https://confluence.atlassian.com/bitbucketserver/event-payload-938025882.html
BITBUCKET_SERVER_HEADERS = (*DELIVERY_HEADERS, "X-Request-Id")

# The errors that a handler raises when it meets something unexpected in a request.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

TEXT_FIELDS = (
    *("author", "committer", "comments", "revision", "branch", "category", "revlink"),
    *("repository", "codebase", "project"),
)
CHANGE_KEYS = {*TEXT_FIELDS, "files", "properties", "when_timestamp"}
# The first and the last second of the years 1 to 9999.
EARLIEST_S, LATEST_S = -62135596800, 253402300799


class ChangeHookResource(change_hook.ChangeHookResource):
    """/change_hook: answers a request that can't be understood with 400 and the reason."""

    # It is made too late to register itself for reconfigs, so WWWService.setupSite does that.
    needsReconfig = False

    def render_POST(self, request: server.Request) -> int:
        d = defer.maybeDeferred(self.getAndSubmitChanges, request)
        # What is logged is a visitor's, also after a thread has read the request.
        context = copy_context()
        d.addErrback(lambda failure: context.run(self._refuse, request, failure))
        d.addCallback(lambda _: request.finish())
        return server.NOT_DONE_YET

    def _refuse(self, request: server.Request, failure: Failure) -> None:
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        if failure.check(ValueError):
            reason = printable(failure.getErrorMessage(), 1000)
            place = printable(request.path.decode(errors="replace"), 100)
            kind = REASON if failure.check(RefusedWord) else "malformed change hook request"
            self.master.refusals.note(kind, f"{place}: {reason}")
            request.setResponseCode(400)
            request.write(reason.encode(errors="backslashreplace"))
        else:
            log.err(failure, "adding changes from web hook")
            request.setResponseCode(500)
            request.write(b"Error processing changes.")

    @async_to_deferred
    async def getAndSubmitChanges(self, request: Any) -> None:
        try:
            dialect = self._dialect(request)
            if dialect not in self.dialects:
                raise ValueError(f"this master has no change hook {printable(dialect, 50)!r}")
            is_custom = self._has_custom_handler(dialect)
            is_known = self._asks_for_login or (
                not is_custom
                and await hook_secrets.verify(dialect, self.dialects[dialect], request, self.master)
            )
            size = request.body_size()
            await large.run(size, request.read_form, size)
            if not is_known:
                await large.run(size, _require_few_values, request)
            if not is_custom:
                await large.run(size, payloads.check, dialect, request)
            changes, src = await defer.maybeDeferred(self.getChanges, request)
            if is_custom:
                changes = [_with_usual_types(change) for change in changes]
            changes = [validated(change) for change in changes]
            if self.master.db.limits_texts:
                for change in changes:
                    _require_fitting_columns(change)
            if dialect == "base" and not is_custom:
                _require_content(changes)
        except MALFORMED as error:
            raise ValueError(_refusal_reason(error)) from error
        if not changes:
            request.write(b"no change found")
        elif await self.submitChanges(changes, request, src):
            request.write(f"{len(changes)} change found".encode())
        else:
            request.write(b"no change stored: this delivery has been received before")

    @property
    def _asks_for_login(self) -> bool:
        return self.master.config.www.get("change_hook_auth") is not None

    def _has_custom_handler(self, dialect: str) -> bool:
        """Return whether master.cfg has a class of its own for this dialect."""
        options = self.dialects.get(dialect)
        return isinstance(options, dict) and bool({"custom_class", "class"} & options.keys())

    def _dialect(self, request: server.Request) -> str:
        found = re.match(r"/change_hook/?(\w*)", bytes2unicode(request.uri), re.ASCII)
        return (found and found[1]) or "base"

    @async_to_deferred
    async def submitChanges(
        self, changes: list[dict[str, Any]], request: server.Request, src: Any
    ) -> bool:
        """Store all changes or none; return False if this delivery has been stored before."""
        change_origin.set(self._idempotency_key(request))
        src = bytes2unicode(src)
        changes = [{**change, "src": src} for change in changes]
        changeids = await self.master.data.updates.addChanges(changes)
        log.msg(f"injected changes {changeids}")
        return bool(changeids)

    def _idempotency_key(self, request: server.Request) -> IdempotencyKey | None:
        from_server = self._dialect(request) == "bitbucketserver"
        for name in BITBUCKET_SERVER_HEADERS if from_server else DELIVERY_HEADERS:
            value = request.getHeader(name)
            if value:
                # The URI is part of the key: GitHub sends the same id to every hook of an event.
                return IdempotencyKey("hook", bytes2unicode(request.uri), name, value)
        return None


def _require_few_values(request: Any) -> None:
    """Raise ValueError if the JSON of a stranger, in the body or a form, has too many values."""
    large.require_few_values(request.content.read())
    request.content.seek(0)
    for values in request.args.values():
        for value in values:
            large.require_few_values(value)


def _refusal_reason(error: Exception) -> str:
    """Say why a request is refused that made a handler raise `error`."""
    if isinstance(error, KeyError):
        return f"the key {error} is missing"
    if isinstance(error, json.JSONDecodeError):
        return f"the JSON is malformed: {error}"
    if isinstance(error, UnicodeError):
        return f"the request is not UTF-8: {error}"
    if isinstance(error, RecursionError):
        return "the JSON is nested too deeply"
    if isinstance(error, ValueError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{frame.filename}:{frame.lineno}"
    log.msg(f"change hook: {type(error).__name__} at {place}: {printable(str(error))}")
    return f"this hook can't read the request: {error}"


def _with_usual_types(change: dict[str, Any]) -> dict[str, Any]:
    """Convert a change of a custom handler: `files` to a list, and an int `revision` to a str."""
    result = dict(change)
    files, revision = change.get("files"), change.get("revision")
    if isinstance(files, Iterable) and not isinstance(files, (str, bytes)):
        result["files"] = list(files)
    if isinstance(revision, int) and not isinstance(revision, bool):
        result["revision"] = str(revision)
    return result


def validated(change: dict[str, Any]) -> dict[str, Any]:
    """Return a handler's change as addChange takes it.  Raises ValueError with the reason."""
    if unknown := change.keys() - CHANGE_KEYS:
        raise ValueError(f"a change has no field {', '.join(sorted(map(str, unknown)))}")
    result = dict(change)
    for name in TEXT_FIELDS:
        if name in change:
            result[name] = _checked_text(name, change[name])
    for name in ("repository", "project"):
        result[name] = result.get(name) or ""
    if (revlink := result.get("revlink")) and not links.may_link(revlink):
        raise ValueError(f"revlink is {revlink!r:.100}; {links.REMEDY}")
    files = change.get("files") or []
    if not isinstance(files, (list, tuple)):
        raise ValueError("files must be a list")
    result["files"] = [_checked_text("a name in files", name, may_be_none=False) for name in files]
    result["properties"] = _checked_properties(change.get("properties") or {})
    result["when_timestamp"] = _checked_time(change.get("when_timestamp"))
    return result


def _require_fitting_columns(change: dict[str, Any]) -> None:
    """Raise ValueError if a text that must not be cut is too long for its column."""
    columns = Model.changes.c
    texts = [(name, change.get(name) or "", columns[name]) for name in STAMP]
    texts += [("a name in files", name, Model.change_files.c.filename) for name in change["files"]]
    names = Model.change_properties.c.property_name
    texts += [("a name in properties", name, names) for name in change["properties"]]
    for what, text, column in texts:
        if len(text) > column.type.length:
            raise ValueError(f"{what} is longer than {column.type.length} characters")


def _require_content(changes: list[dict[str, Any]]) -> None:
    for change in changes:
        if not any(value for name, value in change.items() if name != "when_timestamp"):
            names = ", ".join((*TEXT_FIELDS, "files", "properties"))
            raise ValueError(f"the form has no field of a change, such as {names}")


def _checked_text(name: str, value: Any, *, may_be_none: bool = True) -> Any:
    if (value is None and may_be_none) or (name == "category" and callable(value)):
        return value
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.50}; it must be a string")
    payloads.check_text(name, value)
    return value


def _checked_properties(properties: Any) -> dict[str, Any]:
    if not isinstance(properties, dict):
        raise ValueError("properties must be an object")
    result = {
        _checked_text("a name in properties", k, may_be_none=False): v
        for k, v in properties.items()
    }
    json.dumps(result, ensure_ascii=False, allow_nan=False).encode()
    return result


def _checked_time(when: Any) -> float | None:
    if isinstance(when, datetime):
        when = datetime2epoch(when)
    if when is None:
        return None
    number = isinstance(when, (int, float)) and not isinstance(when, bool)
    if not number or not math.isfinite(when) or not EARLIEST_S <= when <= LATEST_S:
        raise ValueError(f"when is {when!r:.50}; it must be seconds since 1970")
    return when
