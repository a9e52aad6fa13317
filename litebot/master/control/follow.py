"""Follows one build request to its end and reports its builds, steps and log lines."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from buildbot.process.results import Results
from buildbot.process.results import worst_status
from twisted.internet import defer
from twisted.internet import task

from litebot.errors import ServerAway
from litebot.master.projects.building.cells import requests_of_others

# The pause between two reads of the database.  Without it, a step that prints much would cause a
# read for every line.
PAUSE_S = 0.05
# A request without a build after this time is reported as waiting, with the reason.
WAITING_AFTER_S = 1.0

Emit = Callable[[dict[str, Any]], None]


class FollowedMatrix:
    """Follows a build request, then those of the other cells of its matrix, if it has one.

    It emits what a Follower emits, "cell" before each further one, and "finished" once, with the
    worst results.
    """

    def __init__(self, master: Any, brid: int, emit: Emit) -> None:
        self._master = master
        self._brid = brid
        self._emit = emit
        self._follower: Follower | None = None
        self._stopped = False
        self._results: list[int] = []

    def stop(self) -> None:
        """Have run() return; called when nobody listens any more."""
        self._stopped = True
        if self._follower is not None:
            self._follower.stop()

    async def run(self) -> None:
        """Return when all are complete and all events are emitted, or after stop()."""
        await self._follow(self._brid)
        others = [] if self._stopped else await requests_of_others(self._master, self._brid)
        for number, brid in enumerate(others, 2):
            if self._stopped:
                return
            self._emit({"event": "cell", "number": number, "cells": len(others) + 1})
            await self._follow(brid)
        if not self._stopped:
            worst = functools.reduce(worst_status, self._results)
            self._emit({"event": "finished", "results": worst, "text": Results[worst]})

    async def _follow(self, brid: int) -> None:
        self._follower = Follower(self._master, brid, self._pass_on)
        await self._follower.run()

    def _pass_on(self, event: dict[str, Any]) -> None:
        if event["event"] == "finished":
            self._results.append(event["results"])
        else:
            self._emit(event)


class Follower:
    """Calls `emit` with an event for all that happens to build request `brid`, once and in order.

    Messages of the message queue only say when to read; what is emitted comes from the database, so
    nothing that happened before, or between two reads, is missed.  An event is a dict whose key
    "event" is waiting, build, step, log, step-finished, build-finished or finished.  The "text" of
    a log may end within a long line, which then goes on in the next event.
    """

    def __init__(self, master: Any, brid: int, emit: Emit) -> None:
        self.master = master
        self._brid = brid
        self._emit = emit
        self._stopped = False
        self._read_requested: defer.Deferred[None] = defer.Deferred()
        self._emitted: set[tuple[str, int]] = set()
        self._lines_emitted: dict[int, int] = {}
        self._began_at = master.reactor.seconds()

    def stop(self) -> None:
        """Have run() return; called when nobody listens any more."""
        self._stopped = True
        self._request_read()

    async def run(self) -> None:
        """Return when the request is complete and all its events are emitted, or after stop()."""
        consumers = [
            await self.master.mq.startConsuming(self._on_message, (kind, None, None))
            for kind in ("builds", "steps", "logs", "buildrequests")
        ]
        waiting_timer = self.master.reactor.callLater(WAITING_AFTER_S, self._request_read)
        try:
            while not self._stopped:
                self._read_requested = defer.Deferred()
                try:
                    if await self._emit_updates():
                        break
                except ServerAway:
                    # Read again: once the server is back, the build goes on and so does this.
                    self._request_read()
                await self._read_requested
                await task.deferLater(self.master.reactor, PAUSE_S)
        finally:
            if waiting_timer.active():
                waiting_timer.cancel()
            for consumer in consumers:
                await defer.maybeDeferred(consumer.stopConsuming)

    def _on_message(self, _key: tuple[str, ...], data: dict[str, Any]) -> None:
        # A build is announced before its steps, and a step before its logs, so no message of this
        # request is missed.
        if (
            data.get("buildrequestid") == self._brid
            or ("build", data.get("buildid")) in self._emitted
            or ("step", data.get("stepid")) in self._emitted
        ):
            self._request_read()

    def _request_read(self) -> None:
        if not self._read_requested.called:
            self._read_requested.callback(None)

    async def _emit_updates(self) -> bool:
        """Emit what is new and return whether the request is complete."""
        # The request is read first: if it is complete then, nothing can be added to what is read
        # after it.
        request = await self.master.data.get(("buildrequests", self._brid))
        builds = await self.master.data.get(("buildrequests", self._brid, "builds"))
        for build in builds:
            await self._emit_build(build)
        if not request["complete"]:
            if not builds:
                await self._emit_waiting(request["builderid"])
            return False
        results = request["results"]
        self._emit({"event": "finished", "results": results, "text": Results[results]})
        return True

    def _is_first(self, kind: str, number: int) -> bool:
        """Return whether this event is due, and note it as emitted."""
        if (kind, number) in self._emitted:
            return False
        self._emitted.add((kind, number))
        return True

    async def _emit_waiting(self, builderid: int) -> None:
        is_early = self.master.reactor.seconds() - self._began_at < WAITING_AFTER_S
        if is_early or not self._is_first("waiting", self._brid):
            return
        name = (await self.master.data.get(("builders", builderid)))["name"]
        builder = self.master.botmaster.builders.get(name)
        if builder is None:
            why = f"no running master has a builder {name!r}"
        elif not builder.workers:
            names = ", ".join(builder.config.workernames)
            why = f"none of the workers of {name!r} is connected ({names})"
        else:
            why = f"the workers of {name!r} are busy"
        self._emit({"event": "waiting", "why": why})

    async def _emit_build(self, build: dict[str, Any]) -> None:
        buildid = build["buildid"]
        if ("build-finished", buildid) in self._emitted:
            return
        if self._is_first("build", buildid):
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
            await self._emit_step(step)
        self._emit_end("build", buildid, build)

    async def _emit_step(self, step: dict[str, Any]) -> None:
        stepid = step["stepid"]
        if ("step-finished", stepid) in self._emitted or step["hidden"]:
            return
        if step["started_at"] is None:
            return
        if self._is_first("step", stepid):
            self._emit({"event": "step", "stepid": stepid, "name": step["name"]})
        for entry in await self.master.data.get(("steps", stepid, "logs")):
            await self._emit_log(entry)
        self._emit_end("step", stepid, step, name=step["name"])

    def _emit_end(self, kind: str, id: int, row: dict[str, Any], **more: Any) -> None:
        """Emit once that a build or a step has ended, and how."""
        event = f"{kind}-finished"
        if row["complete"] and self._is_first(event, id):
            results = row["results"]
            end = {"results": results, "text": Results[results], "state": row["state_string"]}
            self._emit({"event": event, f"{kind}id": id, **more, **end})

    async def _emit_log(self, entry: dict[str, Any]) -> None:
        if entry["type"] == "h":
            return  # HTML is for the web page, not for a terminal
        logid, last = entry["logid"], entry["num_lines"]
        first = self._lines_emitted.get(logid, 0)
        if first < last:
            event = {"event": "log", "log": entry["name"], "type": entry["type"]}
            async for text in self.master.db.logs.iter_texts(logid, first, last - 1):
                if self._stopped:
                    return
                self._emit({**event, "text": text})
                first = self._lines_emitted[logid] = first + text.count("\n")
