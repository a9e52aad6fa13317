"""The database pool of a master on Postgres.

It takes the place of Buildbot's DBThreadPool.  Work that is submitted in one turn of the reactor,
and while the previous batch runs, is run in order as one batch in one transaction; each piece of
work is kept or undone by itself.  The results are delivered after the commit, so every delivered
result is on disk.  While the server is away, all work goes on waiting, and nothing is lost or done
twice: see `writer`.  Reads for requests run on connections of their own, after the work submitted
before them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from buildbot.util import twisted
from psycopg import errors
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure

from litebot.errors import StoreError
from litebot.errors import StoreFailed
from litebot.master.db.dispatcher import Dispatcher
from litebot.master.db.pool import EXPECTED
from litebot.master.db.pool import Outage
from litebot.master.db.pool import Pool
from litebot.master.db.pool import Work
from litebot.master.db.postgres.read_pool import READ_WAITS_S
from litebot.master.db.postgres.read_pool import PostgresReadPool
from litebot.master.db.postgres.server import Server
from litebot.master.db.postgres.server import away_error
from litebot.master.db.postgres.watch import Watch
from litebot.master.db.postgres.writer import Hook
from litebot.master.db.postgres.writer import Writer
from litebot.store.sql import Sql

# The most pieces of work in one transaction; the result of the first waits for the last.
MAX_BATCH_SIZE = 200


class PostgresPool(Pool):
    """See the module.

    `on_failure` is called once, with a StoreFailed, when the pool gives up.  `on_outage` is called
    with each outage that begins, and with None at its end.
    """

    def __init__(
        self,
        server: Server,
        reactor: Any,
        on_failure: Callable[[StoreFailed], None] | None,
        on_outage: Callable[[Outage | None], None] | None,
    ) -> None:
        super().__init__()
        self.reactor = reactor
        self.failure: StoreFailed | None = None
        self._server = server
        self._writer = Writer(
            server, lambda outage: reactor.callFromThread(self._outage_began, outage)
        )
        self.engine = self._writer.engine
        self._watch = Watch(server, self._writer, reactor, self._outage_began)
        self._thread = twisted.ThreadPool(minthreads=0, maxthreads=1, name="database")
        self._readers: PostgresReadPool = PostgresReadPool(server, reactor)
        self._dispatcher = Dispatcher(reactor, lambda: self.is_busy, lambda: False)
        self._on_failure = on_failure
        self._on_outage = on_outage
        self._queue: deque[Work] = deque()
        self._scheduled = False
        self._running: list[Work] | None = None
        self._patience_s: float | None = None

    @property
    def _works(self) -> bool:
        return any(not work.for_reader for work in (*self._queue, *(self._running or ())))

    # settings that change while it runs

    @property
    def before_batch_after_reconnect(self) -> Hook | None:
        """Called with a connection, in the transaction of the first batch after a reconnection.

        An exception that it raises fails the pool.
        """
        return self._writer.before_batch_after_reconnect

    @before_batch_after_reconnect.setter
    def before_batch_after_reconnect(self, hook: Hook | None) -> None:
        self._writer.before_batch_after_reconnect = hook

    @property
    def application_name(self) -> str:
        """The name of these connections in the server's pg_stat_activity."""
        return self._server.application_name

    @application_name.setter
    def application_name(self, name: str) -> None:
        self._server.application_name = name
        if self.running:
            d = self.do_sql(_rename, name)
            d.addErrback(lambda failure: failure.trap(StoreFailed))

    # the interface that Buildbot calls

    def open(self) -> defer.Deferred[None]:
        """Connect, and then accept work.  Fails with StoreError if it can't connect."""
        self._thread.start()
        self._watch.start()
        d: defer.Deferred[None] = defer.Deferred()

        def opened(success: bool, result: Any) -> None:
            if success:
                self.start()
            self.reactor.callFromThread(d.callback, None if success else result)

        self._thread.callInThreadWithCallback(opened, self._writer.open)
        return d.addErrback(self._could_not_open)

    def _could_not_open(self, failure: Failure) -> Failure:
        self._watch.stop()
        self._thread.stop()
        return failure

    @defer.inlineCallbacks
    def stop(self) -> Any:
        """Finish the work submitted so far, abort reads for requests, and close all connections."""
        if not self.running:
            return
        while self.failure is None and (self._queue or self._running):
            try:
                yield self.do(lambda _conn: None)
            except StoreError:
                break  # on_failure was called; only the connections remain to be closed
        self.running = False
        self._readers.stop()
        self._dispatcher.stop()
        closed: defer.Deferred[None] = defer.Deferred()
        self._thread.callInThreadWithCallback(
            lambda _success, _result: self.reactor.callFromThread(closed.callback, None),
            self._writer.close,
        )
        yield closed
        self._watch.stop()
        self._thread.stop()

    def committed(self) -> defer.Deferred[None]:
        """Fires at once: results are delivered after their commit.  Fails with StoreFailed."""
        if self.failure is not None:
            return defer.fail(StoreFailed(self.failure.what, self.failure.hint))
        return defer.succeed(None)

    on_disk = committed

    def commit(self) -> None:
        """Does nothing, because results are delivered after their commit."""

    # batches

    def _enqueue(self, work: Work) -> None:
        self._queue.append(work)
        if work.for_reader and self.outage is not None:
            self._call_later_if_away(READ_WAITS_S, self.outage, self._refuse_reads, [work])
        self._schedule()

    def _schedule(self) -> None:
        # callFromThread is cheaper than callLater, and a test reactor runs it at once, as
        # Buildbot's tests expect of their thread pool.
        if not self._scheduled and self._running is None:
            self._scheduled = True
            self.reactor.callFromThread(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._running is not None or not self.running:
            return
        batch: list[Work] = []
        while self._queue and len(batch) < MAX_BATCH_SIZE:
            # A read starts when all work submitted before it is committed, so that it sees it.
            if self._queue[0].for_reader:
                if batch:
                    break
                self._read(self._queue.popleft())
            else:
                batch.append(self._queue.popleft())
        if batch:
            self._running = batch
            self._watch.begin()
            self._thread.callInThreadWithCallback(self._batch_has_run, self._writer.run, batch)

    def _batch_has_run(self, success: bool, result: Any) -> None:
        self.reactor.callFromThread(self._deliver, None if success else result)

    def _deliver(self, failure: Failure | None) -> None:
        batch, self._running = self._running or [], None
        if not all(work.for_reader for work in batch):
            self._worked_at = time.monotonic()
        self._watch.end()
        if failure is not None:
            error = failure.value
            if not isinstance(error, StoreError):
                log.err(failure, "while running work on the database")
            assert isinstance(error, Exception)
            self.fail(error)
        elif self.outage is not None:
            log.msg(f"{self._server.shown} is back after {time.time() - self.outage.since:.0f} s")
            self._set_outage(None)
        for work in batch:
            if self.failure is not None:
                self._refuse(work)
                continue
            if isinstance(work.result, Failure) and not work.result.check(*EXPECTED):
                log.err(work.result, "Got fatal Exception on DB")
            work.deliver()
        if self._queue:
            self._schedule()

    # reads for requests

    def _is_refused_write(self, error: BaseException) -> bool:
        return isinstance(error, errors.ReadOnlySqlTransaction)

    # when the server is away

    def give_up_after(self, seconds: float) -> None:
        self._patience_s = seconds
        if self.outage is not None:
            self._schedule_give_up(self.outage)

    def _outage_began(self, outage: Outage) -> None:
        if self.outage is not None or self._running is None:
            return  # the outage is known already, or it has ended
        log.msg(f"{self._server.shown} is away: {outage.words}; waiting for it")
        self._set_outage(outage)
        # The reads that run will not be answered either.
        self._call_later_if_away(READ_WAITS_S, outage, self._readers.interrupt)
        self._call_later_if_away(READ_WAITS_S, outage, self._refuse_reads, [*self._queue])
        self._schedule_give_up(outage)

    def _set_outage(self, outage: Outage | None) -> None:
        self.outage = outage
        if self._on_outage is not None:
            self._on_outage(outage)

    def _schedule_give_up(self, outage: Outage) -> None:
        if self._patience_s is not None:
            self._call_later_if_away(self._patience_s, outage, self._give_up)

    def _call_later_if_away(
        self, seconds: float, outage: Outage, do: Callable[..., object], *args: Any
    ) -> None:
        """Call `do` after so many seconds, if the outage still lasts then."""

        def do_if_still_away() -> None:
            if self.outage is outage and self.failure is None:
                do(*args)

        self.reactor.callLater(seconds, do_if_still_away)

    def _refuse_reads(self, works: list[Work]) -> None:
        """Refuse the reads for requests among `works`; all other work waits for the server."""
        assert self.outage is not None
        for work in works:
            if work.for_reader and work in self._queue:
                self._queue.remove(work)
                work.refuse(away_error(self._server, self.outage.words))

    def _give_up(self) -> None:
        assert self.outage is not None
        seconds = time.time() - self.outage.since
        what = f"{self._server.shown} has been away for {seconds:.0f} s ({self.outage.words})"
        hint = "litebot start BASEDIR, when it is back"
        self.fail(StoreFailed(f"{what}; the master stops without it", hint))

    def fail(self, error: Exception) -> StoreFailed:
        """Fail all queued and all later work, and call on_failure once; return the failure."""
        if self.failure is None:
            what, hint = str(error), getattr(error, "hint", None)
            self.failure = error if isinstance(error, StoreFailed) else StoreFailed(what, hint)
            self._writer.give_up()
            if self._on_failure is not None:
                self._on_failure(self.failure)
        while self._queue:
            self._refuse(self._queue.popleft())
        return self.failure


def _rename(sql: Sql, name: str) -> None:
    sql.rows("SELECT set_config('application_name', ?, false)", name)
