"""The process that answers a crowd: python -m litebot.master.crowd.desk OFFER.

Its master starts it, and it ends with its master.  All it does is to read.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

from buildbot.config.master import MasterConfig
from buildbot.process.cache import CacheManager
from buildbot.util import service
from buildbot.util.twisted import async_to_deferred
from buildbot.www.rest import RestRootResource
from buildbot.www.service import BuildbotSite
from twisted.internet import defer
from twisted.internet import reactor as global_reactor
from twisted.python import log
from twisted.web import resource

from litebot.errors import StoreError
from litebot.master import rest
from litebot.master import web
from litebot.master.crowd.line import ACCEPTED
from litebot.master.crowd.line import ALIVE
from litebot.master.crowd.line import LARGEST
from litebot.master.crowd.line import LEAVE
from litebot.master.crowd.line import LINE_FD
from litebot.master.crowd.line import LINES
from litebot.master.crowd.line import READY
from litebot.master.crowd.line import Line
from litebot.master.crowd.line import Offer
from litebot.master.crowd.line import adopt
from litebot.master.crowd.plain import close_after
from litebot.master.data import Data
from litebot.master.database import HOT
from litebot.master.database import Database
from litebot.master.handover.components import COMPONENTS
from litebot.master.readers import Readers
from litebot.master.work import Pool
from litebot.master.work import Work
from litebot.store.connection import READER
from litebot.store.connection import connect
from litebot.store.dialect import engine_on

# How often the master hears that it goes on.
ALIVE_S = 1.0
# How long lines of http.log wait for others.
LINES_S = 0.5
# After how long a master that can take no more for now is tried again.
BEHIND_S = 0.01
# How often it is seen, at the end, whether all have their answers.
LAST_S = 0.02


class ReadingPool(Pool):
    """Does what visitors ask for on read-only connections, and refuses all else."""

    def __init__(self, path: Path, reactor: Any) -> None:
        super().__init__()
        self.engine = engine_on(connect(path, READER))
        self._readers = Readers(path, reactor)

    def _queue_up(self, work: Work) -> None:
        if not work.for_reader:
            work.refuse(StoreError("only the master writes"))
        elif work.is_short:
            self._glance(work)
        else:
            self._read(work)

    def _wrote(self, error: BaseException) -> bool:
        return False


class Web:
    """What the REST API asks of `master.www`, of a master where anybody may read."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def resourceNeedsReconfigs(self, resource: Any) -> None:
        """It is told of the configuration."""
        self.told.append(resource)

    def assertUserAllowed(self, *_args: Any) -> defer.Deferred[None]:
        """Let everybody."""
        return defer.succeed(None)

    def note_visit(self, request: Any) -> None:
        """The next one is to come by the gate, too, where it is seen when."""
        close_after(request)


class Site(BuildbotSite):
    """The REST API alone; writes the lines of http.log to `lines`."""

    lines: Any

    def _openLogFile(self, path: str | bytes) -> Any:
        self._nativeize = True
        return self.lines


class Lines:
    """Sends lines for http.log to the master, many at a time."""

    def __init__(self, send: Callable[[bytes, bytes], None], reactor: Any) -> None:
        self._send = send
        self._reactor = reactor
        self._lines: list[str] = []

    def write(self, line: str) -> None:
        """Add one."""
        if not self._lines:
            self._reactor.callLater(LINES_S, self.flush)
        self._lines.append(line)

    def close(self) -> None:
        """There is nothing to close."""

    def flush(self) -> None:
        """Send what there is."""
        data, self._lines = "".join(self._lines).encode(errors="replace"), []
        room = LARGEST // 2
        for start in range(0, len(data), room):
            self._send(LINES, data[start : start + room])


class Desk(service.MasterService):
    """What stands where a master does for the REST API."""

    def __init__(self, offer: Offer, reactor: Any) -> None:
        super().__init__()
        self.reactor = reactor
        self.basedir = str(Path(offer.state_file).parent)
        self.config = MasterConfig()
        self.config.buildbotURL = offer.url
        self.config.www = offer.www
        self.caches = CacheManager()
        self.www = Web()
        self.db = Database(self.basedir)
        self.db.components = {**HOT, **COMPONENTS}
        self.data = Data()
        self._offer = offer
        self._open: WeakSet[Any] = WeakSet()  # connections whose answer is under way, and others
        self._lines = Lines(self._send, reactor)
        self._line: Line | None = None
        self._site: Site | None = None

    @async_to_deferred
    async def open(self, end: socket.socket) -> None:
        """Begin to answer."""
        pool = ReadingPool(Path(self._offer.state_file), self.reactor)
        await self.db.set_master(self)
        self.db.use(pool)
        pool.start()
        await self.db.logs.startService()  # it decompresses in threads
        await self.data.setServiceParent(self)
        rest.register()
        root = resource.Resource()
        root.putChild(b"api", RestRootResource(self))
        for each in self.www.told:
            each.reconfigResource(self.config)
        site = Site(root, "http.log", 0, 0)
        site.sessionFactory = None
        site.requestFactory = web.Request
        site.lines = self._lines
        site.doStart()
        self._site = site
        # Where the master has ended, nothing here is worth another moment.
        self._line = Line(end, self.reactor, self._received, lambda: os._exit(0))
        gc.collect()
        gc.freeze()
        self._send(READY)
        self._live()

    def _received(self, kind: bytes, _data: bytes, fds: list[int]) -> None:
        if kind == ACCEPTED:
            for fd in fds:
                connection = socket.socket(self._offer.family, socket.SOCK_STREAM, fileno=fd)
                transport = adopt(self.reactor, connection, self._site)
                if transport is not None:
                    self._open.add(transport)
        elif kind == LEAVE:
            self._leave()

    def _leave(self) -> None:
        """End when all have their answers."""
        if any(transport.connected for transport in self._open):
            self.reactor.callLater(LAST_S, self._leave)
        else:
            self._lines.flush()
            os._exit(0)

    def _live(self) -> None:
        self._send(ALIVE)
        self.reactor.callLater(ALIVE_S, self._live)

    def _send(self, kind: bytes, data: bytes = b"") -> None:
        assert self._line is not None
        try:
            self._line.send(kind, data)
        except BlockingIOError:
            self.reactor.callLater(BEHIND_S, self._send, kind, data)


def _tell(event: dict[str, Any]) -> None:
    """Errors go into the master's log."""
    if event.get("isError"):
        print(log.textFromEventDict(event), file=sys.stderr, flush=True)


def main(offer: str) -> None:
    """Answer what comes over the line until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # which may be for the whole group
        signal.signal(number, signal.SIG_IGN)
    reactor: Any = global_reactor
    log.startLoggingWithObserver(_tell, setStdout=False)
    end = socket.socket(fileno=LINE_FD)
    desk = Desk(Offer.from_json(offer), reactor)
    desk.open(end).addErrback(_give_up)
    reactor.run(installSignalHandlers=False)


def _give_up(failure: Any) -> None:
    print(failure.getTraceback(), file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
