"""Following one build request to its end: builds, steps and log lines as they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from buildbot.process.results import Results
from twisted.internet import defer
from twisted.internet import task

from litebot.errors import ServerAway

LINES_A_READ = 2000
# Between two looks; a step that prints much would else be looked at for every line.
REST_S = 0.05
# A request that is not built by then is said to be waiting, and why.
SAID_TO_WAIT_AFTER_S = 1.0

Emit = Callable[[dict[str, Any]], None]


class Follower:
    """Tells `emit` what happens to build request `brid`, in order and each thing once.

    Events of the message queue only say when to look; what is told comes from the database, so
    nothing that happened before, or between two looks, is missed.  Events are dicts with a key
    "event": waiting, build, step, log, step-finished, build-finished, finished.
    """

    def __init__(self, master: Any, brid: int, emit: Emit) -> None:
        self.master = master
        self._brid = brid
        self._emit = emit
        self._stopped = False
        self._woken: defer.Deferred[None] = defer.Deferred()
        self._emitted: set[tuple[str, int]] = set()
        self._lines: dict[int, int] = {}
        self._began_at = master.reactor.seconds()

    def stop(self) -> None:
        """Nobody listens any more."""
        self._stopped = True
        self._wake()

    async def run(self) -> None:
        """Return when the request is complete and all is told, or after stop()."""
        consumers = [
            await self.master.mq.startConsuming(self._heard, (kind, None, None))
            for kind in ("builds", "steps", "logs", "buildrequests")
        ]
        patience = self.master.reactor.callLater(SAID_TO_WAIT_AFTER_S, self._wake)
        try:
            while not self._stopped:
                self._woken = defer.Deferred()
                try:
                    if await self._emit_news():
                        break
                except ServerAway:
                    self._wake()  # the build goes on when it is back, and so does this
                await self._woken
                await task.deferLater(self.master.reactor, REST_S)
        finally:
            if patience.active():
                patience.cancel()
            for consumer in consumers:
                await defer.maybeDeferred(consumer.stopConsuming)

    def _heard(self, _key: tuple[str, ...], data: dict[str, Any]) -> None:
        # A step is known before its logs say anything, and a build before its steps do.
        if (
            data.get("buildrequestid") == self._brid
            or ("build", data.get("buildid")) in self._emitted
            or ("step", data.get("stepid")) in self._emitted
        ):
            self._wake()

    def _wake(self) -> None:
        if not self._woken.called:
            self._woken.callback(None)

    async def _emit_news(self) -> bool:
        """Tell what is new; true when the request is complete."""
        # First, so that nothing can come after what is read next when it says complete.
        request = await self.master.data.get(("buildrequests", self._brid))
        builds = await self.master.data.get(("buildrequests", self._brid, "builds"))
        for build in builds:
            await self._tell_build(build)
        if not request["complete"]:
            if not builds:
                await self._tell_waiting(request["builderid"])
            return False
        results = request["results"]
        self._emit({"event": "finished", "results": results, "text": Results[results]})
        return True

    def _once(self, kind: str, number: int) -> bool:
        if (kind, number) in self._emitted:
            return False
        self._emitted.add((kind, number))
        return True

    async def _tell_waiting(self, builderid: int) -> None:
        patient = self.master.reactor.seconds() - self._began_at < SAID_TO_WAIT_AFTER_S
        if patient or not self._once("waiting", self._brid):
            return
        name = (await self.master.data.get(("builders", builderid)))["name"]
        builder = self.master.botmaster.builders.get(name)
        if builder is None:
            why = f"no master that runs has a builder {name!r}"
        elif not builder.workers:
            names = ", ".join(builder.config.workernames)
            why = f"none of the workers of {name!r} is connected ({names})"
        else:
            why = f"the workers of {name!r} are busy"
        self._emit({"event": "waiting", "why": why})

    async def _tell_build(self, build: dict[str, Any]) -> None:
        buildid = build["buildid"]
        if ("build-finished", buildid) in self._emitted:
            return
        if self._once("build", buildid):
            builder = await self.master.data.get(("builders", build["builderid"]))
            worker = await self.master.data.get(("workers", build["workerid"]))
            url = f"{self.master.config.buildbotURL}#/builders/{build['builderid']}/builds/"
            self._emit(
                {
                    "event": "build",
                    "buildid": buildid,
                    "number": build["number"],
                    "builder": builder["name"],
                    "worker": worker["name"],
                    "url": url + str(build["number"]),
                }
            )
        for step in await self.master.data.get(("builds", buildid, "steps")):
            await self._tell_step(step)
        self._tell_end("build", buildid, build)

    async def _tell_step(self, step: dict[str, Any]) -> None:
        stepid = step["stepid"]
        if ("step-finished", stepid) in self._emitted or step["hidden"]:
            return
        if step["started_at"] is None:
            return
        if self._once("step", stepid):
            self._emit({"event": "step", "stepid": stepid, "name": step["name"]})
        for entry in await self.master.data.get(("steps", stepid, "logs")):
            await self._tell_log(entry)
        self._tell_end("step", stepid, step, name=step["name"])

    def _tell_end(self, kind: str, id: int, row: dict[str, Any], **more: Any) -> None:
        """Tell once that a build or a step has ended, and how."""
        event = f"{kind}-finished"
        if row["complete"] and self._once(event, id):
            results = row["results"]
            end = {"results": results, "text": Results[results], "state": row["state_string"]}
            self._emit({"event": event, f"{kind}id": id, **more, **end})

    async def _tell_log(self, entry: dict[str, Any]) -> None:
        if entry["type"] == "h":
            return  # HTML is for the page
        logid, last = entry["logid"], entry["num_lines"]
        first = self._lines.get(logid, 0)
        while first < last and not self._stopped:
            end = min(first + LINES_A_READ, last)
            text = await self.master.db.logs.getLogLines(logid, first, end - 1)
            first = self._lines[logid] = end
            self._emit({"event": "log", "log": entry["name"], "type": entry["type"], "text": text})
