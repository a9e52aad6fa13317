"""The control socket: how the command line talks to the master that runs in its basedir.

HTTP over a Unix socket in the basedir with mode 0600: who may open the files may control the
master, and no password is needed.  Answers are JSON; a refusal is {"what": ..., "hint": ...} with
a 4xx code.
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

from buildbot.process.properties import Properties
from buildbot.schedulers.forcesched import CollectedValidationError
from buildbot.schedulers.forcesched import ForceScheduler
from buildbot.schedulers.forcesched import NestedParameter
from buildbot.util import service
from twisted.internet import defer
from twisted.python import log
from twisted.web import resource
from twisted.web import server

from litebot.errors import LitebotError
from litebot.master.follow import Follower
from litebot.master.logged import store_failed
from litebot.master.readers import Visit
from litebot.master.readers import browsing
from litebot.master.why import why

OWNER = "litebot build"


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
        # A socket's name may have 108 bytes; the master runs in its basedir, so the short one does.
        here = Path.cwd() == self._path.parent
        name = self._path.name if here else str(self._path)
        self._path.unlink(missing_ok=True)  # a dead master's: this one owns the basedir
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
        """What to answer; None where the answer has been written.  LitebotError is a refusal."""
        raise NotImplementedError

    def render(self, request: server.Request) -> int:
        d = defer.ensureDeferred(self._answer(request))
        d.addErrback(lambda f: log.err(f, f"while answering {request.uri!r} on the control socket"))
        return server.NOT_DONE_YET

    async def _answer(self, request: server.Request) -> None:
        gone: list[Any] = []
        request.notifyFinish().addErrback(gone.append)
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
        if gone:
            return
        if reply is not None:
            if request.startedWriting:  # a stream, with its status sent: the error is an event
                reply = {"event": "error", **reply}
            request.setHeader(b"content-type", b"application/json")
            request.write(json.dumps(reply).encode() + b"\n")
        request.finish()


class BuildResource(Resource):
    """POST /build {"builder", "branch", "revision", "properties", "reason"}: forces a build."""

    async def answer(self, request: server.Request) -> dict[str, Any]:
        asked = json.loads(request.content.read())  # type: ignore[union-attr]
        name = asked["builder"]
        names = sorted(self.master.botmaster.builderNames)
        if name not in names:
            files = self.master.files
            nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
            raise LitebotError(
                f"there is no builder {name!r} in {files.path}; there are: {', '.join(names)}",
                f"litebot build {shlex.quote(nearest[0])} {files.quoted}" if nearest else None,
            )
        bsid, brids = await self._force(name, asked)
        return {"buildsetid": bsid, "buildrequestid": next(iter(brids.values()))}

    async def _force(self, builder: str, asked: dict[str, Any]) -> Any:
        """Through the builder's ForceScheduler, with its defaults and checks, where it has one.

        Any other scheduler of the builder knows its codebases, which is all that is needed.
        """
        schedulers = [s for s in self.master.allSchedulers() if builder in s.listBuilderNames()]
        source = {key: asked.get(key) for key in ("branch", "revision") if asked.get(key)}
        for scheduler in schedulers:
            if isinstance(scheduler, ForceScheduler):
                return await self._use_force_scheduler(scheduler, builder, asked, source)
        properties = Properties()
        properties.update(asked.get("properties", {}), OWNER)
        properties.setProperty("owner", OWNER, OWNER)
        if schedulers:
            stamps = [{"codebase": name, **source} for name in schedulers[0].codebases]
            return await schedulers[0].addBuildsetForSourceStampsWithDefaults(
                reason=asked["reason"],
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
            reason=asked["reason"],
            properties={name: (value, OWNER) for name, value, _ in properties.asList()},
            builderids=[builderid],
        )

    async def _use_force_scheduler(
        self,
        scheduler: ForceScheduler,
        builder: str,
        asked: dict[str, Any],
        source: dict[str, Any],
    ) -> Any:
        properties = asked.get("properties", {})
        if unknown := sorted(properties.keys() - set(_names(scheduler.all_fields))):
            # It would drop them without a word.
            raise LitebotError(
                f"the force scheduler {scheduler.name!r} takes no property"
                f" {', '.join(map(repr, unknown))}",
                f"properties=[util.StringParameter({unknown[0]!r})] where master.cfg defines it",
            )
        params = {"reason": asked["reason"], **properties}
        for codebase in scheduler.codebases:
            for key, value in source.items():
                params[f"{codebase}_{key}" if codebase else key] = value
        try:
            return await scheduler.force(OWNER, builderNames=[builder], **params)
        except CollectedValidationError as error:
            raise LitebotError(
                f"the force scheduler {scheduler.name!r} refuses: {error}",
                "pass what it asks for with --property NAME=VALUE",
            ) from error


def _names(fields: Iterable[Any]) -> Iterator[str]:
    """Of all parameters that a form of a force scheduler has."""
    for parameter in fields:
        if isinstance(parameter, NestedParameter):
            yield from _names(parameter.fields)
        else:
            yield parameter.fullName


class FollowResource(Resource):
    """GET /follow?buildrequestid=N: what happens to a request, a JSON object a line, to its end.

    Its key "event" says what it tells: see Follower; "error", with "what" and "hint", is the last.
    """

    async def answer(self, request: server.Request) -> None:
        browsing.set(Visit(lasts=True))  # for this coroutine: no build waits for what it reads
        brid = int(request.args[b"buildrequestid"][0])
        if await self.master.db.buildrequests.getBuildRequest(brid) is None:
            raise LitebotError(f"there is no build request {brid} in {self.master.basedir}")
        request.setHeader(b"content-type", b"application/x-ndjson")
        follower = Follower(
            self.master, brid, lambda event: request.write(json.dumps(event).encode() + b"\n")
        )
        request.notifyFinish().addErrback(lambda _: follower.stop())
        await follower.run()


class WhyResource(Resource):
    """POST /why {"change": an id or a revision}: what became of a change."""

    async def answer(self, request: server.Request) -> dict[str, Any]:
        asked = json.loads(request.content.read())  # type: ignore[union-attr]
        changeid, outcomes = await why(self.master, asked["change"])
        return {"changeid": changeid, "schedulers": [asdict(outcome) for outcome in outcomes]}


class DropReportResource(Resource):
    """POST /drop-report {"id": of a row of the outbox}: it is never told."""

    async def answer(self, request: server.Request) -> dict[str, Any]:
        asked = json.loads(request.content.read())  # type: ignore[union-attr]
        if not await self.master.outbox.drop(asked["id"]):
            raise LitebotError(
                f"there is no report {asked['id']} that waits",
                f"litebot report list {self.master.basedir}",
            )
        return {}


class ReconfigResource(Resource):
    """POST /reconfig: loads the configuration anew, and answers when that is done."""

    async def answer(self, request: server.Request) -> dict[str, Any]:
        failure = await self.master.reconfig()
        if failure is not None:
            raise failure
        return {"pid": os.getpid()}
