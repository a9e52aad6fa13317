"""The gate: passes connections on to the desk while a crowd comes, and has the desk come and go."""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING
from typing import Any

from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer
from twisted.internet import error
from twisted.internet import protocol
from twisted.internet import tcp
from twisted.internet.interfaces import IReadDescriptor
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer

from litebot.errors import StoreError
from litebot.master.crowd.line import ACCEPTED
from litebot.master.crowd.line import LEAVE
from litebot.master.crowd.line import LINE_FD
from litebot.master.crowd.line import LINES
from litebot.master.crowd.line import MOST
from litebot.master.crowd.line import READY
from litebot.master.crowd.line import Line
from litebot.master.crowd.line import Offer
from litebot.master.crowd.line import adopt
from litebot.master.crowd.plain import anybody_may_read
from litebot.master.crowd.plain import asks_plainly
from litebot.master.crowd.plain import close_after
from litebot.master.crowd.plain import could_be_plain
from litebot.master.deferreds import in_time

if TYPE_CHECKING:
    from litebot.master.web import WWWService

# A crowd: so many visits within so many seconds.  A page in a browser asks for 20 things at once.
MANY_VISITS = 60
MANY_S = 3.0

# How often it is seen whether the crowd has gone, and how long the desk stays then.
LOOK_S = 1.0
STAYS_S = 30.0
# After how long a desk that failed, or that there could not be, is followed by another.
NOT_BEFORE_S = 60.0
# How long its last answers may take, and where the master stops.
LEAVE_S = 60.0
STOP_S = 2.0
# A desk that has not been heard for so long is stuck; it says each second that it goes on.
SILENT_S = 20.0

# What of c["www"] the answers depend on.
TOLD = ("debug", "json_cache_seconds", "rest_minimum_version")

# How far apart groups are accepted while builds run: for each the master leaves its builds once.
TOGETHER_S = 0.03

# Builds come first where there is one processor for both.
NICE = 10

# When a desk that could take no message is tried again.
BEHIND_S = 0.01


class DeskProcess(protocol.ProcessProtocol):
    """A desk's process.  Raises OSError where it can't be started.

    `write` is called with lines for http.log.  `ended` fires with how it has ended; what it prints
    is logged.
    """

    def __init__(self, offer: Offer, reactor: Any, write: Callable[[str], None]) -> None:
        self.ended: defer.Deferred[str] = defer.Deferred()
        self.is_ready = False
        self.is_behind = False  # since it was heard last
        self._heard_at = time.monotonic()
        self._reactor = reactor
        self._write = write
        self._leaves_by = math.inf
        command = [sys.executable, "-P", "-m", "litebot.master.crowd.desk", offer.to_json()]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(os.devnull, "rb") as nothing:
            fds = {0: nothing.fileno(), 1: "r", 2: "r", LINE_FD: theirs.fileno()}
            try:
                started = reactor.spawnProcess(self, command[0], command, env=None, childFDs=fds)
            except OSError:
                ours.close()
                raise
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, started.pid, NICE)
        self._line = Line(ours, reactor, self._take, lambda: None)
        self._watches = reactor.callLater(LOOK_S, self._watch)

    def give(self, connections: list[socket.socket]) -> None:
        """Raises BlockingIOError where it can take none now, and OSError where it has ended."""
        try:
            self._line.send(ACCEPTED, b"", [each.fileno() for each in connections])
        except BlockingIOError:
            self.is_behind = True
            raise

    def leave(self, within_s: float) -> None:
        """Have it give its last answers and end, or kill it then."""
        self._leaves_by = time.monotonic() + within_s
        if self.is_ready:
            self._say_leave()
        else:
            self.kill()

    def _watch(self) -> None:
        self._line.doRead()  # the master may be the one that stood still
        now = time.monotonic()
        if now > min(self._leaves_by, self._heard_at + SILENT_S):
            log.msg("litebot: the process that answers crowds is stuck; killing it")
            self.kill()
        self._watches = self._reactor.callLater(LOOK_S, self._watch)

    def _say_leave(self) -> None:
        try:
            self._line.send(LEAVE)
        except BlockingIOError:
            self._reactor.callLater(BEHIND_S, self._say_leave)
        except OSError:
            pass  # it has ended

    def kill(self) -> None:
        """End it at once."""
        transport: Any = self.transport
        with suppress(error.ProcessExitedAlready):
            transport.signalProcess("KILL")

    def _take(self, kind: bytes, data: bytes, _fds: list[int]) -> None:
        self._heard_at = time.monotonic()
        self.is_behind = False
        if kind == READY:
            self.is_ready = True
        elif kind == LINES:
            self._write(data.decode(errors="replace"))

    def outReceived(self, data: bytes) -> None:
        """Log it."""
        for line in data.decode(errors="replace").splitlines():
            log.msg(f"crowd: {line}")

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        """Tell."""
        self._watches.cancel()
        self._line.doRead()
        self._line.close()
        self.ended.callback(str(reason.value))


@implementer(IReadDescriptor)
class Acceptor:
    """Accepts on a listening port in its place; `accepted` is called with what has come.

    Then it rests until resume(), so that who comes meanwhile comes together.  `failed` is called
    where it can't: the port knows what to do.
    """

    def __init__(
        self,
        port: tcp.Port,
        reactor: Any,
        accepted: Callable[[Acceptor, list[socket.socket]], None],
        failed: Callable[[], None],
    ) -> None:
        self._port = port
        self._reactor = reactor
        self._accepted = accepted
        self._failed = failed
        self._resumes: Any = None
        port.stopReading()
        with suppress(OSError):
            port.socket.listen(socket.SOMAXCONN)  # Twisted's 50 may come within one rest
        self._wait_for_data(1)
        self._resume()

    def resume(self, after_s: float) -> None:
        """Accept again."""
        if after_s:
            self._resumes = self._reactor.callLater(after_s, self._resume)
        else:
            self._resume()

    def _resume(self) -> None:
        self._resumes = None
        self._reactor.addReader(self)

    def _wait_for_data(self, seconds: int) -> None:
        """Have the system show a connection when something has come over it, or after that."""
        with suppress(AttributeError, OSError):  # where a system has no such thing
            self._port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)

    def close(self) -> None:
        """Leave the port to itself again, for good."""
        if self._resumes is not None:
            self._resumes.cancel()
            self._resumes = None
        self._reactor.removeReader(self)
        if self._port.connected and not self._port.disconnecting:
            self._wait_for_data(0)
            self._port.startReading()

    def fileno(self) -> int:
        """For the reactor."""
        return int(self._port.fileno())

    def logPrefix(self) -> str:
        """For the reactor."""
        return "crowd"

    def connectionLost(self, _reason: Any) -> None:
        """The reactor stops, or there is a fault in here."""
        self._failed()

    def doRead(self) -> None:
        """Accept who has come."""
        comers: list[socket.socket] = []
        try:
            while len(comers) < MOST:
                comer, _ = self._port.socket.accept()
                comer.setblocking(False)
                comers.append(comer)
        except (BlockingIOError, ConnectionError):
            pass  # there is nobody else, or whoever came has gone
        except OSError:
            if not comers:
                self._failed()
        if comers:
            self._reactor.removeReader(self)
            self._accepted(self, comers)


class Gate:
    """Of a master's web server."""

    def __init__(self, www: WWWService) -> None:
        self._www = www
        self._came: deque[float] = deque([-MANY_S] * MANY_VISITS, MANY_VISITS)
        self._crowd_at = 0.0
        self._desk: DeskProcess | None = None
        self._leaving: list[DeskProcess] = []
        self._acceptor: Acceptor | None = None
        self._looks: Any = None
        self._not_before = 0.0

    @property
    def _reactor(self) -> Any:
        return self._www.master.reactor

    def note_visit(self, request: Any) -> None:
        """Somebody has asked the master for what a desk could answer."""
        if not could_be_plain(request):
            return
        now = time.monotonic()
        self._came.append(now)
        if self._acceptor is not None:
            close_after(request)
        elif not self._is_crowd(now):
            return
        elif self._desk is None:
            if now >= self._not_before:
                self._begin()
        elif self._desk.is_ready and not self._desk.is_behind:
            self._open()

    def _is_crowd(self, now: float) -> bool:
        return now - self._came[0] < MANY_S

    # the desk

    def _begin(self) -> None:
        """Start a desk, where there can be one."""
        offer = self._offer()
        if offer is None:
            self._not_before = time.monotonic() + NOT_BEFORE_S
            return
        try:
            self._desk = desk = DeskProcess(offer, self._reactor, self._write)
        except OSError as failed:
            self._failed(f"can't be started: {failed}")
            return
        desk.ended.addCallback(self._ended, desk)
        self._crowd_at = time.monotonic()
        self._looks = self._reactor.callLater(LOOK_S, self._look)

    def _offer(self) -> Offer | None:
        """What to tell a desk, or None where there can be none.

        There can where anybody may read a state file over TCP: all else has to be the master's.
        """
        www, port = self._www, self._port()
        path = getattr(www.master.db.pool, "path", None)
        if port is None or path is None or not anybody_may_read(www.authz):
            return None
        config = www.master.config
        told = {name: config.www[name] for name in TOLD if name in config.www}
        return Offer(str(path), config.buildbotURL, told, port.addressFamily)

    def _port(self) -> Any:
        """Where the web server listens for TCP, or None."""
        ports = (port for port in self._reactor.getReaders() if type(port) is tcp.Port)
        return next((port for port in ports if port.factory is self._www.site), None)

    def _write(self, lines: str) -> None:
        site: Any = self._www.site
        if site.logFile is not None:
            site.logFile.write(lines)

    def _look(self) -> None:
        """See whether the crowd has gone."""
        now = time.monotonic()
        self._looks = None
        if self._is_crowd(now):
            self._crowd_at = now
        elif now < self._crowd_at + STAYS_S:
            self._close()
        else:
            self.dismiss()
            return
        self._looks = self._reactor.callLater(LOOK_S, self._look)

    def pause(self) -> None:
        """Have no desk until resume(): what it knows is the old configuration, and the old port."""
        self._not_before = math.inf
        self.dismiss()

    def resume(self) -> None:
        """A desk may come again."""
        self._not_before = 0.0

    def dismiss(self, within_s: float = LEAVE_S) -> None:
        """Need no desk for now."""
        self._close()
        if self._looks is not None:
            self._looks.cancel()
            self._looks = None
        if self._desk is not None:
            self._desk.leave(within_s)
            self._leaving.append(self._desk)
            self._desk = None

    def _ended(self, how: str, desk: DeskProcess) -> None:
        if desk is self._desk:
            self.dismiss()
            self._failed(f"has ended: {how}")
        self._leaving.remove(desk)

    def _failed(self, what: str) -> None:
        log.msg(f"litebot: the process that answers crowds {what}; the master answers them itself")
        self._not_before = time.monotonic() + NOT_BEFORE_S

    @async_to_deferred
    async def stop(self) -> None:
        """Dismiss the desk, and see it end."""
        self._not_before = math.inf
        self.dismiss(STOP_S)
        for desk in list(self._leaving):
            if not await in_time(desk.ended, STOP_S, self._reactor):
                desk.kill()  # one that was leaving already
                await in_time(desk.ended, STOP_S, self._reactor)

    # who comes

    def _open(self) -> None:
        port = self._port()
        if port is not None:
            self._acceptor = Acceptor(port, self._reactor, self._accepted, self._close)

    def _close(self) -> None:
        """Let all come to the master."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None

    def _accepted(self, acceptor: Acceptor, comers: list[socket.socket]) -> None:
        try:
            plain = [comer for comer in comers if asks_plainly(comer)]
            self._keep([comer for comer in comers if comer not in plain])
            if not plain:
                acceptor.resume(0.0)
                return
            self._came.extend([time.monotonic()] * len(plain))
            # What they may have heard of is committed before the desk looks.
            committed = self._www.master.db.committed()
            rest_s = 0.0 if committed.called else TOGETHER_S
        except Exception:
            self._refuse(Failure(), comers)
            return
        committed.addCallback(self._pass, acceptor, plain, rest_s)
        committed.addErrback(self._refuse, plain)

    def _pass(
        self, _: None, acceptor: Acceptor, comers: list[socket.socket], rest_s: float
    ) -> None:
        """Give them to the desk, and accept others after `rest_s`."""
        if self._acceptor is not acceptor or self._desk is None:
            self._keep(comers)
            return
        try:
            self._desk.give(comers)
        except OSError:  # it has more than it can do, or has ended
            self._close()
            self._keep(comers)
            return
        for comer in comers:
            comer.close()
        acceptor.resume(rest_s)

    def _refuse(self, failure: Failure, comers: list[socket.socket]) -> None:
        """Answer them and all others here; most often the disk has failed, and they are told so."""
        if not failure.check(StoreError):
            log.err(failure, "at the gate")
        self._close()
        self._keep(comers)

    def _keep(self, comers: list[socket.socket]) -> None:
        """Answer them here."""
        for comer in comers:
            adopt(self._reactor, comer, self._www.site)
