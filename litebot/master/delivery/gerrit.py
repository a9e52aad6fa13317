"""Sources of Gerrit's events: one that asks its log, and one that follows its stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from buildbot.changes import gerritchangesource as gerrit
from buildbot.util.httpclientservice import HTTPSession
from buildbot.util.poll import Poller
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer
from twisted.python import log

from litebot.master.delivery.change_origins import IdempotencyKey
from litebot.master.delivery.change_origins import change_origin
from litebot.master.delivery.source_problems import WatchedSource
from litebot.master.runtime.error_log import store_failed
from litebot.master.runtime.subclasses import put_before

LAST_EVENT = "last_event_ts"
FOLLOW = "follow the stream of events"
# A process that has followed the stream for so long does it well.
LASTS_S = 30.0
# As many events that can't be understood stay in the source's problems.
MOST_KEPT = 10


class GerritRefused(Exception):
    """An answer of Gerrit's that is not what was asked for."""


class CheckedSession(HTTPSession):
    """A session whose requests fail with GerritRefused if the server answers with an error."""

    @defer.inlineCallbacks
    def get(self, ep: str, **kwargs: Any) -> Any:
        response = yield super().get(ep, **kwargs)
        if response.code != 200:
            raise GerritRefused(f"{self.base_url}{ep} answered {response.code}")
        return response


class ExactGerritEventLogPoller(WatchedSource, gerrit.GerritEventLogPoller):
    """Really asks its server, adds each event once, and is held up by none.

    Buildbot's calls its own method with an argument too many at each poll.  The log gives the last
    events again, since it is asked for those since the second of the last one.
    """

    _bad: Mapping[str, BaseException] = MappingProxyType({})  # events that can't be understood

    @defer.inlineCallbacks
    def reconfigService(self, *args: Any, **kwargs: Any) -> Any:
        """Do as Buildbot does, but end the polls by the former configuration."""
        former = vars(self).get("_poller")
        yield super().reconfigService(*args, **kwargs)
        put_before(self._connector._http, CheckedSession)
        self._poller = Poller(lambda _: self.poll(), self, self.master.steady_clock)
        if former is not None and former.running:
            yield former.stop()
            yield self.activate()

    def poll(self) -> Any:
        """Ask for the events since the last one."""
        return self.watch(self._connector.poll)

    @async_to_deferred
    async def _lines_received(self, lines: list[bytes]) -> None:
        """Add the changes of events; what follows the first that failed is asked for again."""
        failed_at, newest = None, None
        for line in lines:
            try:
                event = json.loads(line)
                if not gerrit.is_event_valid(event):
                    continue  # Buildbot does not know this kind of event
                at, about = int(gerrit.extract_gerrit_event_time(event)), str(event["type"])
            except ValueError as error:
                self._keep_bad(f"read the event {line[:60]!r}", error)
                continue
            key = gerrit.build_gerrit_event_hash(event)
            change_origin.set(IdempotencyKey("gerrit", self.name or "", key))
            what = f"add the change of the {about} event {key[:8]}"
            try:
                await self.eventReceived(event)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                self._keep_bad(what, error)
            except Exception as error:
                if store_failed(error) is not None:
                    raise
                self.leave_undone(what, error)
                failed_at = at if failed_at is None else min(failed_at, at)
            newest = at if newest is None else max(newest, at)
        for what, why in self._bad.items():
            self.leave_undone(what, why)
        if newest is not None:
            reached = newest if failed_at is None else failed_at
            await self.master.db.state.setState(self._oid, LAST_EVENT, reached)

    @async_to_deferred
    async def getFiles(self, change: str, patchset: str) -> list[str]:
        """Return the files of a change, or "unknown" where the server does not tell them."""
        try:
            return list(await super().getFiles(change, patchset))
        except GerritRefused as error:
            log.msg(f"{self}: {error}")
            return ["unknown"]

    def _keep_bad(self, what: str, error: BaseException) -> None:
        if what in self._bad or len(self._bad) < MOST_KEPT:
            self._bad = {**self._bad, what: error}


class WatchedGerritStream(gerrit.GerritChangeSource):
    """Notes why the process that follows the stream of events ends, until one lasts."""

    _lasts: Any = None  # the call that forgets why the last one has ended

    def _stream_process_started(self) -> None:
        connector: Any = self._stream_connector
        if self._lasts is not None:
            self._lasts.cancel()
            # Events are among the last lines, too.
            lines = [line.decode("utf-8", "replace") for line in connector._last_lines_for_debug]
            said = [line for line in lines if not line.startswith("{")]
            text = " ".join(said) or "ssh ended and said nothing"
            self.master.source_problems.note(self.name, FOLLOW, text)
        clock, note = self.master.steady_clock, self.master.source_problems.note
        self._lasts = clock.callLater(LASTS_S, note, self.name, FOLLOW, None)
        super()._stream_process_started()

    def _line_received_stream(self, line: bytes) -> Any:
        self.master.source_problems.note(self.name, FOLLOW, None)
        return super()._line_received_stream(line)

    @async_to_deferred
    async def deactivate(self) -> None:
        """Do as Buildbot does; another master may have the source next."""
        if self._lasts is not None:
            self._lasts.cancel()
            self._lasts = None
        await defer.maybeDeferred(super().deactivate)
        self.master.source_problems.forget(self.name or "")
