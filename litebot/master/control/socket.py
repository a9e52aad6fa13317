"""The control socket: the command line's HTTP interface to the running master of a basedir.

It is a Unix socket in the basedir with mode 0600: a user who may open the master's files may
control the master, without a password.  Answers are JSON; a refusal is {"what": ..., "hint": ...}
with a 4xx code.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from buildbot.interfaces import IRenderable
from buildbot.process.properties import Properties
from buildbot.schedulers.forcesched import CollectedValidationError
from buildbot.schedulers.forcesched import ForceScheduler
from buildbot.schedulers.forcesched import NestedParameter
from buildbot.util import service
from buildbot.www.rest import BadJsonRpc2
from twisted.internet import defer
from twisted.python import log
from twisted.web import resource
from twisted.web import server

from litebot.errors import LitebotError
from litebot.master.control.follow import FollowedMatrix
from litebot.master.control.why import why
from litebot.master.db.read_pool import ReadSnapshot
from litebot.master.db.read_pool import read_snapshot
from litebot.master.limits.words import RefusedWord
from litebot.master.projects.verbs import do
from litebot.master.runtime.error_log import store_failed
from litebot.master.web.actions import check_values
from litebot.master.web.payloads import OrNull
from litebot.master.web.payloads import check_shape
from litebot.store.sql import LARGEST

OWNER = "litebot build"
CLIENT = "use litebot's own commands, of the same version as the master"
BUILD = {
    "builder": str,
    "reason": str,
    "branch?": OrNull(str),
    "revision?": OrNull(str),
    "properties?": {},
}


class Control(service.AsyncService):
    """Listens on the control socket while the master runs."""

    name: str | None = "control"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._port: Any = None

    @defer.inlineCallbacks
    def startService(self) -> Any:
        yield super().startService()
        root: Any = resource.Resource()
        root.putChild(b"build", BuildResource(self.master))
        root.putChild(b"follow", FollowResource(self.master))
        root.putChild(b"why", WhyResource(self.master))
        root.putChild(b"drop-report", DropReportResource(self.master))
        root.putChild(b"reconfig", ReconfigResource(self.master))
        root.putChild(b"refusals", RefusalsResource(self.master))
        root.putChild(b"sources", SourcesResource(self.master))
        root.putChild(b"projects", ProjectsResource(self.master))
        # The path of a socket may have only 108 bytes, which a basedir's can exceed.  The master
        # runs in its basedir, so the name alone is enough.
        is_in_basedir = Path.cwd() == self._path.parent
        name = self._path.name if is_in_basedir else str(self._path)
        # A socket that is still there is of a dead master: this one owns the basedir.
        self._path.unlink(missing_ok=True)
        self._port = self.master.reactor.listenUNIX(name, server.Site(root), mode=0o600)

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        if self._port is not None:
            yield self._port.stopListening()
        yield super().stopService()


class Resource(resource.Resource):
    """A leaf that answers a request with what its coroutine returns, as JSON."""

    isLeaf = True

    def __init__(self, master: Any) -> None:
        super().__init__()
        self.master = master

    async def answer(self, request: server.Request) -> dict[str, Any] | None:
        """Return the answer, or None if it has been written already.

        A LitebotError that it raises is sent as a refusal.
        """
        raise NotImplementedError

    def render(self, request: server.Request) -> int:
        d = defer.ensureDeferred(self._send_answer(request))
        d.addErrback(lambda f: log.err(f, f"while answering {request.uri!r} on the control socket"))
        return server.NOT_DONE_YET

    async def _send_answer(self, request: server.Request) -> None:
        disconnects: list[Any] = []
        request.notifyFinish().addErrback(disconnects.append)
        try:
            reply = await self.answer(request)
        except Exception as raised:
            error = store_failed(raised) or raised
            if isinstance(error, LitebotError):
                request.setResponseCode(400)
                reply = {"what": error.what, "hint": error.hint}
            else:
                log.err(error, f"while answering {request.uri!r} on the control socket")
                request.setResponseCode(500)
                reply = {"what": f"the master failed: {error!r}", "hint": None}
        if disconnects:
            return
        if reply is not None:
            # A stream has sent its status already, so its last event carries the error.
            if request.startedWriting:
                reply = {"event": "error", **reply}
            request.setHeader(b"content-type", b"application/json")
            request.write(json.dumps(reply).encode() + b"\n")
        request.finish()


def _body_of(request: server.Request, shape: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a request.  Raises LitebotError if it does not have this shape."""
    try:
        body = json.loads(request.content.read())  # type: ignore[union-attr]
        check_shape(shape, body, "the body")
        check_values("a value", body)
    except BadJsonRpc2 as error:
        raise LitebotError(f"the request can't be stored: {error.message}") from error
    except (ValueError, RecursionError) as error:
        raise LitebotError(f"the request can't be understood: {error}", CLIENT) from error
    assert isinstance(body, dict)
    return body


class BuildResource(Resource):
    """POST /build {"builder", "branch", "revision", "properties", "reason"}: forces a build."""

    async def answer(self, request: server.Request) -> dict[str, Any]:
        body = _body_of(request, BUILD)
        name = body["builder"]
        names = sorted(self.master.botmaster.builderNames)
        if name not in names:
            files = self.master.files
            nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
            raise LitebotError(
                f"there is no builder {name!r} in {files.path}; there are: {', '.join(names)}",
                f"litebot build {shlex.quote(nearest[0])} {files.quoted}" if nearest else None,
            )
        try:
            bsid, brids = await self._force(name, body)
        except RefusedWord as error:
            raise LitebotError(str(error)) from error
        return {"buildsetid": bsid, "buildrequestid": next(iter(brids.values()))}

    async def _force(self, builder: str, body: dict[str, Any]) -> Any:
        """Ask for a build through a scheduler of the builder, if it has one.

        A ForceScheduler is preferred, for its defaults and checks.  Any other scheduler is used for
        the codebases that it knows.
        """
        named = [(each, each.listBuilderNames()) for each in self.master.allSchedulers()]
        # A renderable names its builders only for a change.
        schedulers = [
            s for s, names in named if not IRenderable.providedBy(names) and builder in names
        ]
        source = {key: body.get(key) for key in ("branch", "revision") if body.get(key)}
        for scheduler in schedulers:
            if isinstance(scheduler, ForceScheduler):
                return await self._use_force_scheduler(scheduler, builder, body, source)
        properties = Properties()
        properties.update(body.get("properties", {}), OWNER)
        properties.setProperty("owner", OWNER, OWNER)
        if schedulers:
            stamps = [{"codebase": name, **source} for name in schedulers[0].codebases]
            return await schedulers[0].addBuildsetForSourceStampsWithDefaults(
                reason=body["reason"],
                sourcestamps=stamps,
                properties=properties,
                builderNames=[builder],
            )
        builderid = await self.master.data.updates.findBuilderId(builder)
        stamp = {"codebase": "", "repository": "", "project": "", "branch": None, "revision": None}
        return await self.master.data.updates.addBuildset(
            waited_for=False,
            scheduler=OWNER,
            sourcestamps=[{**stamp, **source}],
            reason=body["reason"],
            properties={name: (value, OWNER) for name, value, _ in properties.asList()},
            builderids=[builderid],
        )

    async def _use_force_scheduler(
        self,
        scheduler: ForceScheduler,
        builder: str,
        body: dict[str, Any],
        source: dict[str, Any],
    ) -> Any:
        properties = body.get("properties", {})
        if unknown := sorted(properties.keys() - set(_parameter_names(scheduler.all_fields))):
            # The scheduler would ignore them silently.
            raise LitebotError(
                f"the force scheduler {scheduler.name!r} takes no property"
                f" {', '.join(map(repr, unknown))}",
                f"properties=[util.StringParameter({unknown[0]!r})] where master.cfg defines it",
            )
        params = {"reason": body["reason"], **properties}
        for codebase in scheduler.codebases:
            for key, value in source.items():
                params[f"{codebase}_{key}" if codebase else key] = value
        try:
            return await scheduler.force(OWNER, builderNames=[builder], **params)
        except CollectedValidationError as error:
            raise LitebotError(
                f"the force scheduler {scheduler.name!r} refuses the build: {error}",
                "pass the values that it needs with --property NAME=VALUE",
            ) from error


def _parameter_names(fields: Iterable[Any]) -> Iterator[str]:
    """Yield the names of all parameters in the form of a force scheduler."""
    for parameter in fields:
        if isinstance(parameter, NestedParameter):
            yield from _parameter_names(parameter.fields)
        else:
            yield parameter.fullName


class FollowResource(Resource):
    """GET /follow?buildrequestid=N: streams the events of a build request until it is complete.

    Each line is a JSON object, an event of FollowedMatrix.  If following fails, the last event is
    "error", with "what" and "hint".
    """

    async def answer(self, request: server.Request) -> None:
        # What this coroutine reads keeps no build waiting.
        read_snapshot.set(ReadSnapshot(renews=True))
        brid = _id_of(request)
        if await self.master.db.buildrequests.getBuildRequest(brid) is None:
            raise LitebotError(f"there is no build request {brid} in {self.master.basedir}")
        request.setHeader(b"content-type", b"application/x-ndjson")
        follower = FollowedMatrix(
            self.master, brid, lambda event: request.write(json.dumps(event).encode() + b"\n")
        )
        request.notifyFinish().addErrback(lambda _: follower.stop())
        await follower.run()


def _id_of(request: server.Request) -> int:
    """Return the `buildrequestid` that a request asks for.  Raises LitebotError."""
    given = (request.args or {}).get(b"buildrequestid", [b""])[0]
    if not (given.isdigit() and len(given) < len(str(LARGEST))):
        raise LitebotError(f"buildrequestid is {given!r:.100}; it must be a number", CLIENT)
    return int(given)


class WhyResource(Resource):
    """POST /why {"change": an id or a revision}: returns what each scheduler did with a change."""

    async def answer(self, request: server.Request) -> dict[str, Any]:
        body = _body_of(request, {"change": (int, str)})
        changeid, outcomes = await why(self.master, body["change"])
        return {
            "changeid": changeid,
            "schedulers": [asdict(outcome) for outcome in outcomes],
            "sources": _source_problems(self.master),
        }


class DropReportResource(Resource):
    """POST /drop-report {"id": of a row of the outbox}: drops a report, which is then not sent."""

    async def answer(self, request: server.Request) -> dict[str, Any]:
        body = _body_of(request, {"id": int})
        if not await self.master.outbox.drop(body["id"]):
            raise LitebotError(
                f"no report with the id {body['id']} is waiting",
                f"litebot report list {self.master.basedir}",
            )
        return {}


class ReconfigResource(Resource):
    """POST /reconfig: reloads the configuration and answers once that is done."""

    async def answer(self, request: server.Request) -> dict[str, Any]:
        failure = await self.master.reconfig()
        if failure is not None:
            raise failure
        return {"pid": os.getpid()}


class RefusalsResource(Resource):
    """POST /refusals: returns what the limits have refused, and which workers are lost."""

    async def answer(self, request: server.Request) -> dict[str, Any]:
        refusals, workers = self.master.refusals, self.master.workers.workers
        lost = {name: worker.lost for name, worker in workers.items() if worker.lost is not None}
        return {"counts": dict(refusals.counts), "latest": refusals.latest, "lost": lost}


class SourcesResource(Resource):
    """POST /sources: returns what change sources can't do at present."""

    async def answer(self, request: server.Request) -> dict[str, Any]:
        return {"problems": _source_problems(self.master)}


def _source_problems(master: Any) -> list[dict[str, Any]]:
    return [asdict(problem) for problem in master.source_problems.all()]


class ProjectsResource(Resource):
    """POST /projects {"do": VERB, ...}: what `litebot project` asks for; see projects.verbs."""

    async def answer(self, request: server.Request) -> dict[str, Any]:
        body = _body_of(request, {"do": str})
        return await do(self.master.projects, self.master.reactor, body)
