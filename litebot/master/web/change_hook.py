"""Change hooks: a push is stored whole or not at all, once, and what is malformed is refused."""

from __future__ import annotations

import json
import math
import re
import traceback
from collections.abc import Iterable
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

from litebot.master.db.components.changes import STAMP
from litebot.master.delivery.origins import IdempotencyKey
from litebot.master.delivery.origins import change_origin
from litebot.master.web import payloads

# Who sends what is one delivery, also when it comes again, says so in the first of these that is
# there.
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
# Proxies give out such ids, too, and may give one to many requests.
# Source: https://confluence.atlassian.com/bitbucketserver/event-payload-938025882.html
OF_BITBUCKET_SERVER = (*DELIVERY_HEADERS, "X-Request-Id")

# What a handler raises that meets what it does not expect.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

TEXTS = (
    *("author", "committer", "comments", "revision", "branch", "category", "revlink"),
    *("repository", "codebase", "project"),
)
CHANGE_KEYS = {*TEXTS, "files", "properties", "when_timestamp"}
# Of the years 1 to 9999.
TIMES = (-62135596800, 253402300799)


class ChangeHookResource(change_hook.ChangeHookResource):
    """/change_hook: answers 400 and the reason to what can't be understood."""

    needsReconfig = False  # the site can't be told any more; see WWWService

    def render_POST(self, request: server.Request) -> int:
        d = defer.maybeDeferred(self.getAndSubmitChanges, request)
        d.addErrback(lambda failure: self._refuse(request, failure))
        d.addCallback(lambda _: request.finish())
        return server.NOT_DONE_YET

    def _refuse(self, request: server.Request, failure: Failure) -> None:
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        if failure.check(ValueError):
            reason = failure.getErrorMessage()
            log.msg(f"change hook {request.path!r}: refused: {reason[:300]!r}")
            request.setResponseCode(400)
            request.write(reason.encode(errors="backslashreplace"))
        else:
            log.err(failure, "adding changes from web hook")
            request.setResponseCode(500)
            request.write(b"Error processing changes.")

    @async_to_deferred
    async def getAndSubmitChanges(self, request: server.Request) -> None:
        try:
            dialect = self._dialect(request)
            is_of_users = self._is_of_users(dialect)
            if not is_of_users:
                payloads.check(dialect, request)
            changes, src = await defer.maybeDeferred(self.getChanges, request)
            if is_of_users:
                changes = [_plain(change) for change in changes]
            changes = [checked(change) for change in changes]
            if self.master.db.limits_texts:
                for change in changes:
                    _require_short(change)
            if dialect == "base" and not is_of_users:
                _require_content(changes)
        except MALFORMED as error:
            raise ValueError(_reason(error)) from error
        if not changes:
            request.write(b"no change found")
        elif await self.submitChanges(changes, request, src):
            request.write(f"{len(changes)} change found".encode())
        else:
            request.write(b"no change stored: this delivery has been taken before")

    def _is_of_users(self, dialect: str) -> bool:
        options = self.dialects.get(dialect)
        return isinstance(options, dict) and bool({"custom_class", "class"} & options.keys())

    def _dialect(self, request: server.Request) -> str:
        found = re.match(r"/change_hook/?(\w*)", bytes2unicode(request.uri), re.ASCII)
        return (found and found[1]) or "base"

    @async_to_deferred
    async def submitChanges(
        self, changes: list[dict[str, Any]], request: server.Request, src: Any
    ) -> bool:
        """Store all of them or none; false where this delivery has been stored before."""
        change_origin.set(self._idempotency_key(request))
        src = bytes2unicode(src)
        changes = [{**change, "src": src} for change in changes]
        changeids = await self.master.data.updates.addChanges(changes)
        log.msg(f"injected changes {changeids}")
        return bool(changeids)

    def _idempotency_key(self, request: server.Request) -> IdempotencyKey | None:
        of_server = self._dialect(request) == "bitbucketserver"
        for name in OF_BITBUCKET_SERVER if of_server else DELIVERY_HEADERS:
            value = request.getHeader(name)
            if value:
                # GitHub gives one id to all hooks that it tells of an event.
                return IdempotencyKey("hook", bytes2unicode(request.uri), name, value)
        return None


def _reason(error: Exception) -> str:
    """Why a request is refused."""
    if isinstance(error, KeyError):
        return f"the key {error} is missing"
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON: {error}"
    if isinstance(error, UnicodeError):
        return f"it is not UTF-8: {error}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, ValueError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    log.msg(f"change hook: {type(error).__name__} at {frame.filename}:{frame.lineno}: {error}")
    return f"it is not what this hook reads: {error}"


def _plain(change: dict[str, Any]) -> dict[str, Any]:
    """A change of a user's own class, where files may be any iterable, and revision a number."""
    result = dict(change)
    files, revision = change.get("files"), change.get("revision")
    if isinstance(files, Iterable) and not isinstance(files, (str, bytes)):
        result["files"] = list(files)
    if isinstance(revision, int) and not isinstance(revision, bool):
        result["revision"] = str(revision)
    return result


def checked(change: dict[str, Any]) -> dict[str, Any]:
    """A change of a hook handler as addChange takes it.  Raises ValueError with the reason."""
    if unknown := change.keys() - CHANGE_KEYS:
        raise ValueError(f"a change has no {', '.join(sorted(map(str, unknown)))}")
    result = dict(change)
    for name in TEXTS:
        if name in change:
            result[name] = _text(name, change[name])
    for name in ("repository", "project"):
        result[name] = result.get(name) or ""
    files = change.get("files") or []
    if not isinstance(files, (list, tuple)):
        raise ValueError("files must be a list")
    result["files"] = [_text("a name in files", name, none=False) for name in files]
    result["properties"] = _properties(change.get("properties") or {})
    result["when_timestamp"] = _time(change.get("when_timestamp"))
    return result


def _require_short(change: dict[str, Any]) -> None:
    """Raise ValueError where a change would not fit its columns, and must not be cut."""
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
            names = ", ".join((*TEXTS, "files", "properties"))
            raise ValueError(f"the form has no field of a change, such as {names}")


def _text(name: str, value: Any, *, none: bool = True) -> Any:
    if (value is None and none) or (name == "category" and callable(value)):
        return value
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, and is {value!r:.50}")
    payloads.check_text(name, value)
    return value


def _properties(properties: Any) -> dict[str, Any]:
    if not isinstance(properties, dict):
        raise ValueError("properties must be an object")
    result = {_text("a name in properties", k, none=False): v for k, v in properties.items()}
    json.dumps(result, ensure_ascii=False, allow_nan=False).encode()
    return result


def _time(when: Any) -> float | None:
    if isinstance(when, datetime):
        when = datetime2epoch(when)
    if when is None:
        return None
    number = isinstance(when, (int, float)) and not isinstance(when, bool)
    if not number or not math.isfinite(when) or not TIMES[0] <= when <= TIMES[1]:
        raise ValueError(f"when must be seconds since 1970, and is {when!r:.50}")
    return when
